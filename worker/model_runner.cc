#include "worker/model_runner.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <utility>

#include "base/device.h"
#include "base/random.h"
#include "base/strcat.h"
#include "base/thread_pool.h"
#include "base/time.h"
#include "base/trace.h"
#include "graph/executor.h"
#include "graph/plan.h"
#include "ps/dense_layout.h"
#include "worker/model.h"

namespace shoal::worker {
namespace {

// "bag_index:1:0" -> {"bag_index", 1, 0}; the names are the model builder's.
struct FeedName {
  std::string kind;
  size_t first = 0;
  size_t second = 0;
};
FeedName ParseFeedName(const std::string& name) {
  FeedName parsed;
  const size_t colon = name.find(':');
  parsed.kind = name.substr(0, colon);
  if (colon == std::string::npos) {
    return parsed;
  }
  const char* end = name.data() + name.size();
  const auto [rest, error] =
      std::from_chars(name.data() + colon + 1, end, parsed.first);
  if (error == std::errc() && rest != end) {
    std::from_chars(rest + 1, end, parsed.second);
  }
  return parsed;
}

template <typename T>
std::span<const T> AsSpan(const std::vector<T>& values) {
  return values;
}

// One graph of a model with its executor. The plan is made for the largest
// sizes seen so far and made anew, with room to spare, when a share is larger.
class GraphRunner {
 public:
  GraphRunner(const ModelGraph& model, const graph::Graph& graph,
              const ps::DenseLayout& layout, Device& device, Device& host,
              int threads)
      : model_(model),
        graph_(graph),
        layout_(layout),
        device_(device),
        host_(host),
        threads_(threads) {
    int variable = 0;
    int table = 0;
    for (const graph::Feed& feed : graph.feeds()) {
      Input input;
      input.kind = feed.kind;
      if (feed.kind == graph::Feed::Kind::kVariable) {
        input.index = variable++;
      } else if (feed.kind == graph::Feed::Kind::kTableRows) {
        input.index = table++;
      } else if (feed.kind == graph::Feed::Kind::kPlaceholder) {
        input.name = ParseFeedName(feed.name);
        if (input.name.kind == "dropout") {
          dropout_seeds_.resize(
              std::max(dropout_seeds_.size(), input.name.first + 1));
        }
      }
      inputs_.push_back(std::move(input));
    }
  }

  void AddFetch(graph::NodeRef ref, bool external) {
    fetches_.push_back({ref, external});
  }

  void SetMax(const std::string& symbol, int64_t value) {
    symbol_max_[symbol] = value;
  }

  // Binds everything but fetches.
  Status Bind(const ShareInput& share, const PulledValues& values) {
    SHOAL_RETURN_IF_ERROR(Fit(share, values));
    for (const auto& [symbol, value] : symbol_values_) {
      const StatusOr<int> number = graph_.FindSymbol(symbol);
      if (number.ok() && executor_->plan().SymbolIsUsed(*number)) {
        SHOAL_RETURN_IF_ERROR(executor_->SetSymbol(*number, value));
      }
    }
    for (size_t f = 0; f < inputs_.size(); ++f) {
      if (inputs_[f].kind != graph::Feed::Kind::kConstant &&
          executor_->plan().FeedIsUsed(static_cast<int>(f))) {
        SHOAL_RETURN_IF_ERROR(
            BindInput(static_cast<int>(f), inputs_[f], share, values));
      }
    }
    return OkStatus();
  }

  graph::Executor& executor() { return *executor_; }

 private:
  struct Input {
    graph::Feed::Kind kind = graph::Feed::Kind::kPlaceholder;
    int index = 0;
    FeedName name;
  };

  // Sees to a plan that is large enough for the share.
  Status Fit(const ShareInput& share, const PulledValues& values) {
    symbol_values_["batch"] = share.batch.size;
    for (size_t g = 0; g < share.groups.size(); ++g) {
      symbol_values_[StrCat("rows:", g)] = values.groups[g].size();
      for (size_t b = 0; b < share.groups[g].bags.size(); ++b) {
        symbol_values_[StrCat("values:", g, ":", b)] =
            static_cast<int64_t>(share.groups[g].bags[b].index.size());
      }
    }
    bool fits = executor_ != nullptr;
    for (const auto& [symbol, value] : symbol_values_) {
      int64_t& most = symbol_max_[symbol];
      if (value > most) {
        most = value + value / 2 + 16;
        fits = false;
      }
    }
    if (fits) {
      return OkStatus();
    }
    executor_ = nullptr;  // Its memory goes before more is asked for.
    SHOAL_ASSIGN_OR_RETURN(
        std::shared_ptr<const graph::Plan> plan,
        graph::Plan::Create(graph_, {.fetches = fetches_,
                                     .symbol_max = symbol_max_,
                                     .device = std::string(device_.name()),
                                     .num_threads = threads_}));
    SHOAL_ASSIGN_OR_RETURN(
        executor_, graph::Executor::Create(std::move(plan), device_, &host_));
    if (TraceIsOn()) {
      executor_->SetTrace(
          [](std::string_view /*node*/, std::string_view op, Time begin,
             Time end) {
            RecordTraceCall(
                {.name = op, .category = "kernel", .begin = begin, .end = end});
          },
          &clock_);
    }
    return OkStatus();
  }

  Status BindInput(int feed, const Input& input, const ShareInput& share,
                   const PulledValues& values) {
    graph::Executor& e = *executor_;
    if (input.kind == graph::Feed::Kind::kVariable) {
      const auto v = static_cast<size_t>(input.index);
      return e.BindFeed(feed, values.dense + layout_.offset(input.index),
                        model_.spec.variables[v].num_elements() * 4,
                        values.version);
    }
    if (input.kind == graph::Feed::Kind::kTableRows) {
      const auto t = static_cast<size_t>(input.index);
      return e.BindFeed(
          feed, values.rows[t],
          RowsOf(input.index, values) * model_.spec.tables[t].dim * 4,
          values.version);
    }
    const FeedName& name = input.name;
    if (name.kind == "labels") {
      return e.BindFeed(feed, AsSpan(share.batch.labels));
    }
    if (name.kind == "numeric") {
      return e.BindFeed(feed, AsSpan(share.batch.numeric));
    }
    if (name.kind == "loss_scale") {
      return e.BindFeed(feed, &share.scale, sizeof(share.scale));
    }
    if (name.kind == "push_fraction") {
      return e.BindFeed(feed, &share.fraction, sizeof(share.fraction));
    }
    if (name.kind == "dropout") {
      dropout_seeds_[name.first] = HashKey(share.dropout_key, name.first);
      return e.BindFeed(feed, &dropout_seeds_[name.first], sizeof(uint64_t));
    }
    const GroupIndex& group = share.groups[name.first];
    if (name.kind == "index") {
      return e.BindFeed(feed, AsSpan(group.categorical));
    }
    const GroupIndex::Bag& bag = group.bags[name.second];
    if (name.kind == "bag_index") {
      return e.BindFeed(feed, AsSpan(bag.index));
    }
    if (name.kind == "bag_offsets") {
      return e.BindFeed(feed, AsSpan(bag.offsets));
    }
    if (name.kind == "bag_weights") {
      return e.BindFeed(feed, AsSpan(bag.weights));
    }
    return InternalError(StrCat("the model has a placeholder '", name.kind,
                                "' that the worker does not know"));
  }

  int64_t RowsOf(int table, const PulledValues& values) const {
    for (size_t g = 0; g < model_.spec.groups.size(); ++g) {
      for (const int t : model_.spec.groups[g]) {
        if (t == table) {
          return values.groups[g].size();
        }
      }
    }
    return 0;
  }

  const ModelGraph& model_;
  const graph::Graph& graph_;
  const ps::DenseLayout& layout_;
  Device& device_;
  Device& host_;
  int threads_;
  std::vector<Input> inputs_;
  std::vector<graph::Fetch> fetches_;
  std::map<std::string, int64_t> symbol_max_;
  std::map<std::string, int64_t> symbol_values_;
  SystemClock clock_;
  std::unique_ptr<graph::Executor> executor_;
  std::vector<uint64_t> dropout_seeds_;
};

class GraphModelRunner : public ModelRunner {
 public:
  GraphModelRunner(std::shared_ptr<const ModelGraph> model,
                   std::unique_ptr<ThreadPool> pool,
                   std::vector<std::unique_ptr<Device>> devices,
                   const Options& options)
      : model_(std::move(model)),
        layout_(model_->spec),
        pool_(std::move(pool)),
        host_(CreateCpuDevice(*pool_)),
        devices_(std::move(devices)),
        host_can_read_(devices_[0]->host_can_read()),
        score_(*model_, model_->score, layout_, *devices_[0], *host_,
               options.threads) {
    for (size_t v = 0; v < model_->variable_gradients.size(); ++v) {
      if (model_->variable_gradients[v].valid()) {
        fetched_variables_.push_back(static_cast<int>(v));
      }
    }
    // A device that works beside the host has two shares under way.
    const size_t under_way = devices_.size() * (host_can_read_ ? 1 : 2);
    for (size_t i = 0; i < under_way; ++i) {
      const size_t device = i % devices_.size();
      training_.push_back({.graph = std::make_unique<GraphRunner>(
                               *model_, model_->train, layout_,
                               *devices_[device], *host_, options.threads),
                           .trace_name = StrCat("share on device ", device)});
      GraphRunner& train = *training_.back().graph;
      train.AddFetch(model_->loss_sum, /*external=*/false);
      for (const auto* gradients :
           {&model_->variable_gradients, &model_->table_gradients}) {
        for (const graph::NodeRef ref : *gradients) {
          if (ref.valid()) {
            train.AddFetch(ref, /*external=*/true);
          }
        }
      }
      train.SetMax("batch", options.share_size_max);
    }
    score_.AddFetch(model_->scores, /*external=*/false);
    score_.SetMax("batch", options.share_size_max);
  }

  StatusOr<double> Train(const ShareInput& share, const PulledValues& values,
                         Gradients& out, std::span<const ShareInput> next,
                         const ReadyFn& ready) override {
    Size(values, out);
    if (share.batch.size == 0) {
      Clear(out);
      return 0.0;
    }
    Training& training = training_[turn_];
    ready_ = nullptr;
    if (training.share != &share || training.version != values.version) {
      SHOAL_RETURN_IF_ERROR(Drop());
      if (host_can_read_) {
        ready_ = ready ? &ready : nullptr;
        SHOAL_RETURN_IF_ERROR(training.graph->Bind(share, values));
        SHOAL_RETURN_IF_ERROR(BindFetches(training, out));
        SHOAL_RETURN_IF_ERROR(training.graph->executor().Start());
      } else {
        SHOAL_RETURN_IF_ERROR(Begin(training, share, values));
      }
    }
    turn_ = (turn_ + 1) % training_.size();
    SHOAL_RETURN_IF_ERROR(BeginNext(next, values));
    training.share = nullptr;
    graph::Executor& executor = training.graph->executor();
    if (!host_can_read_) {
      SHOAL_RETURN_IF_ERROR(BindFetches(training, out));
    }
    ready_ = ready ? &ready : nullptr;
    SHOAL_RETURN_IF_ERROR(executor.Finish());
    if (TraceIsOn() && !host_can_read_) {
      RecordTrace(training.trace_name, share.virtual_worker, training.begin,
                  clock_.Now());
    }
    return static_cast<double>(executor.fetch(0).as<float>()[0]);
  }

  Status Score(const ShareInput& share, const PulledValues& values,
               std::vector<float>& scores) override {
    if (share.batch.size == 0) {
      return OkStatus();
    }
    SHOAL_RETURN_IF_ERROR(score_.Bind(share, values));
    SHOAL_RETURN_IF_ERROR(score_.executor().Run());
    const TensorView result = score_.executor().fetch(0);
    scores.insert(scores.end(), result.as<float>(),
                  result.as<float>() + result.num_elements());
    return OkStatus();
  }

 private:
  // A run of the training graph and the share that it is at.
  struct Training {
    std::unique_ptr<GraphRunner> graph = {};
    const ShareInput* share = nullptr;
    uint64_t version = 0;
    std::string trace_name = {};
    Time begin = {};
  };

  Status Begin(Training& training, const ShareInput& share,
               const PulledValues& values) const {
    training.begin = clock_.Now();
    SHOAL_RETURN_IF_ERROR(training.graph->Bind(share, values));
    SHOAL_RETURN_IF_ERROR(training.graph->executor().Start());
    training.share = &share;
    training.version = values.version;
    return OkStatus();
  }

  // As many of the shares of the next calls as there are runs for, but that of
  // this call.
  Status BeginNext(std::span<const ShareInput> next,
                   const PulledValues& values) {
    size_t turn = turn_;
    size_t free = training_.size() - 1;
    for (const ShareInput& share : next) {
      if (free == 0) {
        break;
      }
      if (share.batch.size == 0) {
        continue;  // It takes no turn.
      }
      Training& training = training_[turn];
      if (training.share != &share || training.version != values.version) {
        SHOAL_RETURN_IF_ERROR(Begin(training, share, values));
      }
      turn = (turn + 1) % training_.size();
      --free;
    }
    return OkStatus();
  }

  // Ends what was begun for a call that did not come.
  Status Drop() {
    for (Training& training : training_) {
      if (training.share != nullptr) {
        training.share = nullptr;
        SHOAL_RETURN_IF_ERROR(training.graph->executor().Abandon());
      }
    }
    return OkStatus();
  }

  Status BindFetches(Training& training, Gradients& out) {
    graph::Executor& executor = training.graph->executor();
    executor.SetFetched([this](int fetched) { OnFetched(fetched); });
    int fetch = 1;
    for (size_t v = 0; v < model_->variable_gradients.size(); ++v) {
      float* to = out.dense.data() + layout_.offset(static_cast<int>(v));
      const int64_t n = model_->spec.variables[v].num_elements();
      if (model_->variable_gradients[v].valid()) {
        SHOAL_RETURN_IF_ERROR(executor.BindFetch(fetch++, to, n * 4));
      } else {
        std::fill_n(to, n, 0.0F);
      }
    }
    for (size_t t = 0; t < model_->table_gradients.size(); ++t) {
      if (model_->table_gradients[t].valid()) {
        SHOAL_RETURN_IF_ERROR(
            executor.BindFetch(fetch++, std::span<float>(out.rows[t])));
      } else {
        std::fill(out.rows[t].begin(), out.rows[t].end(), 0.0F);
      }
    }
    return OkStatus();
  }

  void OnFetched(int fetch) const {
    const auto f = static_cast<size_t>(fetch - 1);
    if (ready_ != nullptr && f < fetched_variables_.size()) {
      (*ready_)(fetched_variables_[f]);
    }
  }

  // In the steady state nothing is allocated.
  void Size(const PulledValues& values, Gradients& out) const {
    out.dense.resize(static_cast<size_t>(layout_.size()));
    out.rows.resize(model_->spec.tables.size());
    for (size_t g = 0; g < model_->spec.groups.size(); ++g) {
      for (const int table : model_->spec.groups[g]) {
        const auto t = static_cast<size_t>(table);
        out.rows[t].resize(static_cast<size_t>(values.groups[g].size() *
                                               model_->spec.tables[t].dim));
      }
    }
  }

  static void Clear(Gradients& out) {
    std::fill(out.dense.begin(), out.dense.end(), 0.0F);
    for (std::vector<float>& rows : out.rows) {
      std::fill(rows.begin(), rows.end(), 0.0F);
    }
  }

  std::shared_ptr<const ModelGraph> model_;
  ps::DenseLayout layout_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Device> host_;                  // of what is placed there
  std::vector<std::unique_ptr<Device>> devices_;  // of one kind
  const bool host_can_read_;
  std::vector<Training> training_;
  std::vector<int> fetched_variables_;  // by fetch, from fetch 1 on
  size_t turn_ = 0;
  SystemClock clock_;
  const ReadyFn* ready_ = nullptr;  // of the run under way
  GraphRunner score_;
};

}  // namespace

StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(
    std::shared_ptr<const ModelGraph> model, const Options& options) {
  if (options.threads < 1 || options.share_size_max < 1) {
    return InvalidArgumentError(StrCat("model runner: ", options.threads,
                                       " threads for shares of ",
                                       options.share_size_max));
  }
  auto pool = std::make_unique<ThreadPool>(options.threads);
  SHOAL_ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Device>> devices,
                         OpenDevices(options.device, *pool));
  return std::unique_ptr<ModelRunner>(std::make_unique<GraphModelRunner>(
      std::move(model), std::move(pool), std::move(devices), options));
}

}  // namespace shoal::worker
