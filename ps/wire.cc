#include "ps/wire.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <utility>

#include "base/strcat.h"
#include "ps/protocol.pb.h"
#include "ps/row_format.h"

namespace shoal::ps {
namespace {

// In the order of OptimizerConfig's fields; a number more or less is refused,
// so that two versions of the program do not train different models.
template <typename Config>
auto NumbersOf(Config& c) {
  return std::array{&c.learning_rate,
                    &c.momentum,
                    &c.initial_accumulator,
                    &c.epsilon,
                    &c.beta1,
                    &c.beta2,
                    &c.l1,
                    &c.l2,
                    &c.beta,
                    &c.rho,
                    &c.l21,
                    &c.trust_coefficient,
                    &c.delay_compensation,
                    &c.delay_decay,
                    &c.weight_decay,
                    &c.clip_value,
                    &c.clip_norm};
}

template <typename Config>
auto FlagsOf(Config& c) {
  return std::array{&c.decoupled, &c.centered};
}

void OptimizerToWire(const OptimizerConfig& in, wire::Optimizer& out) {
  out.set_kind(in.kind);
  for (const double* number : NumbersOf(in)) {
    out.add_numbers(*number);
  }
  for (const bool* flag : FlagsOf(in)) {
    out.add_flags(*flag);
  }
}

StatusOr<OptimizerConfig> OptimizerFromWire(const wire::Optimizer& in) {
  OptimizerConfig out;
  out.kind = in.kind();
  const auto numbers = NumbersOf(out);
  const auto flags = FlagsOf(out);
  if (in.numbers_size() != static_cast<int>(numbers.size()) ||
      in.flags_size() != static_cast<int>(flags.size())) {
    return InvalidArgumentError(StrCat("optimizer '", in.kind(), "' has ",
                                       in.numbers_size(), " numbers and ",
                                       in.flags_size(), " flags, expected ",
                                       numbers.size(), " and ", flags.size()));
  }
  int i = 0;
  for (double* number : numbers) {
    *number = in.numbers(i++);
  }
  i = 0;
  for (bool* flag : flags) {
    *flag = in.flags(i++);
  }
  return out;
}

void InitializerToWire(const Initializer& in, wire::Initializer& out) {
  out.set_kind(static_cast<int>(in.kind));
  out.set_scale(in.scale);
}

StatusOr<Initializer> InitializerFromWire(const wire::Initializer& in) {
  if (in.kind() < 0 ||
      in.kind() > static_cast<int>(Initializer::Kind::kConstant)) {
    return InvalidArgumentError(
        StrCat("initializer: there is no kind ", in.kind()));
  }
  Initializer out;
  out.kind = static_cast<Initializer::Kind>(in.kind());
  out.scale = static_cast<decltype(out.scale)>(in.scale());
  return out;
}

void RulesToWire(const RowRules& in, wire::RowRules& out) {
  out.set_min_count(in.min_count);
  out.set_candidate_bytes(in.candidate_bytes);
  out.set_probability(in.probability);
  out.set_max_age_steps(in.max_age_steps);
  out.set_row_budget_bytes(in.row_budget_bytes);
  out.set_policy(static_cast<int>(in.policy));
}

StatusOr<RowRules> RulesFromWire(const wire::RowRules& in) {
  if (in.policy() < 0 ||
      in.policy() > static_cast<int>(RowRules::Policy::kLfu)) {
    return InvalidArgumentError(
        StrCat("there is no eviction policy ", in.policy()));
  }
  const RowRules out = {.min_count = in.min_count(),
                        .candidate_bytes = in.candidate_bytes(),
                        .probability = in.probability(),
                        .max_age_steps = in.max_age_steps(),
                        .row_budget_bytes = in.row_budget_bytes(),
                        .policy = static_cast<RowRules::Policy>(in.policy())};
  SHOAL_RETURN_IF_ERROR(CheckRules(out));
  return out;
}

}  // namespace

Buffer Encode(const google::protobuf::MessageLite& head) {
  Buffer buffer = Buffer::Allocate(static_cast<int64_t>(head.ByteSizeLong()));
  head.SerializeWithCachedSizesToArray(
      reinterpret_cast<uint8_t*>(buffer.data()));
  return buffer;
}

Status Decode(const comm::Message& message,
              google::protobuf::MessageLite& head) {
  if (message.frames.empty()) {
    return InvalidArgumentError(
        StrCat("method ", message.header.method, ": the message is empty"));
  }
  const Buffer& frame = message.frames.front();
  if (!head.ParseFromArray(frame.data(), static_cast<int>(frame.size()))) {
    return InvalidArgumentError(StrCat("method ", message.header.method,
                                       ": frame 0 is no ", head.GetTypeName()));
  }
  return OkStatus();
}

comm::Message AbortMessage(StatusCode code, std::string_view text) {
  wire::Abort abort;
  abort.set_code(static_cast<int>(code));
  abort.set_text(std::string(text));
  comm::Message message;
  message.header.method = static_cast<uint16_t>(Method::kAbort);
  message.frames.push_back(Encode(abort));
  return message;
}

Status FromWire(const wire::Abort& in) {
  // Compared before it is narrowed, which could make it OK.
  const bool is_error = in.code() > static_cast<int>(StatusCode::kOk) &&
                        in.code() <= static_cast<int>(StatusCode::kDataLoss);
  return Status(
      is_error ? static_cast<StatusCode>(in.code()) : StatusCode::kInternal,
      in.text());
}

void ToWire(const ModelSpec& model, wire::Model& out) {
  for (const VariableSpec& variable : model.variables) {
    wire::Model::Variable& v = *out.add_variables();
    v.set_name(variable.name);
    for (const int64_t dim : variable.dims) {
      v.add_dims(dim);
    }
    InitializerToWire(variable.initializer, *v.mutable_initializer());
  }
  for (const TableSpec& table : model.tables) {
    wire::Model::Table& t = *out.add_tables();
    t.set_name(table.name);
    t.set_dim(table.dim);
    OptimizerToWire(table.optimizer, *t.mutable_optimizer());
    InitializerToWire(table.initializer, *t.mutable_initializer());
    t.set_format(static_cast<int>(table.format));
    RulesToWire(table.rules, *t.mutable_rules());
    t.set_spills(table.spills);
  }
  for (const std::vector<int>& group : model.groups) {
    wire::Model::Group& g = *out.add_groups();
    for (const int table : group) {
      g.add_tables(table);
    }
  }
  OptimizerToWire(model.dense_optimizer, *out.mutable_dense_optimizer());
  out.set_seed(model.seed);
}

void ToWire(const ClusterPlan& plan, wire::Plan& out) {
  out.set_mode(static_cast<int>(plan.mode));
  out.set_staleness(plan.staleness);
  out.set_virtual_workers(plan.virtual_workers);
  out.set_backup_workers(plan.backup_workers);
  out.set_timeout_ns(plan.timeout.count());
  out.set_dense(static_cast<int>(plan.dense));
  out.set_collective(plan.collective);
  for (const std::string& entry : plan.allreduce) {
    out.add_allreduce(entry);
  }
  out.set_memory_per_shard(plan.memory_per_shard);
  out.set_spill_folder(plan.spill_folder);
  out.set_move_bytes_per_second(plan.move_bytes_per_second);
  out.set_repair_bytes_per_second(plan.repair_bytes_per_second);
  out.set_incremental_checkpoints(plan.incremental_checkpoints);
  wire::Global& global = *out.mutable_global();
  global.set_clip_norm(plan.global.clip_norm);
  global.set_loss_scale(plan.global.loss_scale);
  global.set_dynamic_scale(plan.global.dynamic_scale);
  global.set_growth_factor(plan.global.growth_factor);
  global.set_backoff_factor(plan.global.backoff_factor);
  global.set_growth_interval(plan.global.growth_interval);
}

void ToWire(const RouteTable& route, wire::Route& out) {
  out.set_version(route.version);
  out.set_slot_bits(route.slot_bits);
  const auto add = [](const RouteTable::Peer& peer, wire::Route::Peer& p) {
    p.set_endpoint(peer.endpoint.value);
    p.set_address(peer.address);
    p.set_name(peer.name);
  };
  for (const RouteTable::Peer& shard : route.shards) {
    add(shard, *out.add_shards());
  }
  for (const RouteTable::Peer& worker : route.workers) {
    add(worker, *out.add_workers());
  }
  for (const Chain& chain : route.chains) {
    wire::Route::Chain& c = *out.add_chains();
    c.mutable_members()->Add(chain.members.begin(), chain.members.end());
    c.set_joining(chain.joining);
    c.set_leaving(chain.leaving);
  }
  out.mutable_chain_of_slot()->Add(route.chain_of_slot.begin(),
                                   route.chain_of_slot.end());
}

StatusOr<ModelSpec> FromWire(const wire::Model& in) {
  ModelSpec out;
  for (const wire::Model::Variable& v : in.variables()) {
    VariableSpec variable;
    variable.name = v.name();
    for (const int64_t dim : v.dims()) {
      if (dim < 1 || dim > (int64_t{1} << 40)) {
        return InvalidArgumentError(
            StrCat("variable '", v.name(), "' has a size of ", dim));
      }
      variable.dims.push_back(dim);
    }
    SHOAL_ASSIGN_OR_RETURN(variable.initializer,
                           InitializerFromWire(v.initializer()));
    out.variables.push_back(std::move(variable));
  }
  for (const wire::Model::Table& t : in.tables()) {
    TableSpec table;
    table.name = t.name();
    table.dim = t.dim();
    if (table.dim < 1 || table.dim > 1 << 20) {
      return InvalidArgumentError(
          StrCat("table '", t.name(), "' has dim ", t.dim()));
    }
    SHOAL_ASSIGN_OR_RETURN(table.optimizer, OptimizerFromWire(t.optimizer()));
    SHOAL_ASSIGN_OR_RETURN(table.initializer,
                           InitializerFromWire(t.initializer()));
    table.format = static_cast<DType>(t.format());
    if (t.format() < 0 || t.format() > static_cast<int>(DType::kBF16) ||
        !IsRowFormat(table.format)) {
      return InvalidArgumentError(
          StrCat("table '", t.name(), "' has rows of format ", t.format()));
    }
    const auto rules = RulesFromWire(t.rules());
    SHOAL_RETURN_IF_ERROR(
        rules.status().WithPrefix(StrCat("table '", t.name(), "'")));
    table.rules = *rules;
    table.spills = t.spills();
    out.tables.push_back(std::move(table));
  }
  std::vector<int> uses(out.tables.size(), 0);
  for (const wire::Model::Group& g : in.groups()) {
    for (const int table : g.tables()) {
      if (table < 0 || table >= static_cast<int>(uses.size()) ||
          ++uses[static_cast<size_t>(table)] > 1) {
        return InvalidArgumentError(
            StrCat("groups: table ", table, " is unknown or in two groups"));
      }
    }
    out.groups.emplace_back(g.tables().begin(), g.tables().end());
  }
  SHOAL_ASSIGN_OR_RETURN(out.dense_optimizer,
                         OptimizerFromWire(in.dense_optimizer()));
  out.seed = in.seed();
  return out;
}

StatusOr<ClusterPlan> FromWire(const wire::Plan& in) {
  if (in.mode() < 0 || in.mode() > static_cast<int>(Mode::kAsync) ||
      in.dense() < 0 ||
      in.dense() > static_cast<int>(DensePlace::kWorkerParts) ||
      in.virtual_workers() < 1 || in.backup_workers() < 0 ||
      in.timeout_ns() < 1 || in.memory_per_shard() < 0 ||
      in.move_bytes_per_second() < 0 || in.repair_bytes_per_second() < 0) {
    return InvalidArgumentError("the cluster's plan is not valid");
  }
  return ClusterPlan{
      .mode = static_cast<Mode>(in.mode()),
      .dense = static_cast<DensePlace>(in.dense()),
      .staleness = in.staleness(),
      .virtual_workers = in.virtual_workers(),
      .backup_workers = in.backup_workers(),
      .timeout = Duration(in.timeout_ns()),
      .collective = in.collective(),
      .allreduce = {in.allreduce().begin(), in.allreduce().end()},
      .memory_per_shard = in.memory_per_shard(),
      .spill_folder = in.spill_folder(),
      .move_bytes_per_second = in.move_bytes_per_second(),
      .repair_bytes_per_second = in.repair_bytes_per_second(),
      .global = {.clip_norm = in.global().clip_norm(),
                 .loss_scale = in.global().loss_scale(),
                 .dynamic_scale = in.global().dynamic_scale(),
                 .growth_factor = in.global().growth_factor(),
                 .backoff_factor = in.global().backoff_factor(),
                 .growth_interval = in.global().growth_interval()},
      .incremental_checkpoints = in.incremental_checkpoints()};
}

namespace {

// Without the zeros at the upper end; the lower ones take a byte each.
void SumToWire(const ExactSum& sum,
               google::protobuf::RepeatedField<uint64_t>& out) {
  const auto words = sum.words();
  size_t n = words.size();
  while (n > 0 && words[n - 1] == 0) {
    --n;
  }
  out.Add(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(n));
}

StatusOr<ExactSum> SumFromWire(
    const google::protobuf::RepeatedField<uint64_t>& in) {
  return ExactSum::FromWords({in.data(), static_cast<size_t>(in.size())});
}

}  // namespace

void ToWire(const StepNorms& norms, wire::Norms& out) {
  out.set_finite(norms.finite);
  SumToWire(norms.gradients, *out.mutable_gradients());
  for (const LayerSums& layer : norms.layers) {
    wire::Norms::Layer& l = *out.add_layers();
    SumToWire(layer.values, *l.mutable_values());
    SumToWire(layer.updates, *l.mutable_updates());
  }
}

void ToWire(const StepDecision& decision, wire::Commit& out) {
  out.set_step(decision.step);
  out.set_learning_rate_factor(decision.learning_rate_factor);
  if (decision.skip) {
    out.set_skip(true);
  }
  if (decision.gradient_scale != 1) {
    out.set_gradient_scale(decision.gradient_scale);
  }
  out.mutable_trust_ratios()->Add(decision.trust_ratios.begin(),
                                  decision.trust_ratios.end());
  if (decision.next_loss_scale != 1) {
    out.set_next_loss_scale(decision.next_loss_scale);
  }
  if (decision.good_steps != 0 || decision.steps_skipped != 0) {
    out.set_good_steps(decision.good_steps);
    out.set_steps_skipped(decision.steps_skipped);
    out.set_skipped_in_turn(decision.skipped_in_turn);
  }
}

StatusOr<StepNorms> FromWire(const wire::Norms& in) {
  StepNorms out;
  out.finite = in.finite();
  SHOAL_ASSIGN_OR_RETURN(out.gradients, SumFromWire(in.gradients()));
  for (const wire::Norms::Layer& l : in.layers()) {
    LayerSums& layer = out.layers.emplace_back();
    SHOAL_ASSIGN_OR_RETURN(layer.values, SumFromWire(l.values()));
    SHOAL_ASSIGN_OR_RETURN(layer.updates, SumFromWire(l.updates()));
  }
  return out;
}

StatusOr<StepDecision> FromWire(const wire::Commit& in) {
  StepDecision out = {
      .step = in.step(),
      .learning_rate_factor = in.learning_rate_factor(),
      .skip = in.skip(),
      .gradient_scale = in.gradient_scale(),
      .trust_ratios = {in.trust_ratios().begin(), in.trust_ratios().end()},
      .next_loss_scale = in.next_loss_scale(),
      .good_steps = in.good_steps(),
      .steps_skipped = in.steps_skipped(),
      .skipped_in_turn = in.skipped_in_turn()};
  std::vector<double> numbers = out.trust_ratios;
  numbers.insert(numbers.end(), {out.gradient_scale, out.next_loss_scale});
  for (const double number : numbers) {
    if (!std::isfinite(number) || number < 0) {
      return InvalidArgumentError(StrCat("the commit of step ", in.step(),
                                         " has a factor of ", number));
    }
  }
  if (out.good_steps < 0 || out.steps_skipped < 0 || out.skipped_in_turn < 0) {
    return InvalidArgumentError(
        StrCat("the commit of step ", in.step(), " counts below zero"));
  }
  return out;
}

namespace {

// A chain of shards that are there, none of them twice.
StatusOr<Chain> ChainFromWire(const wire::Route::Chain& in, int num_shards) {
  Chain chain = {.members = {in.members().begin(), in.members().end()},
                 .joining = in.joining(),
                 .leaving = in.leaving()};
  std::vector<int> all = chain.members;
  if (chain.joining != -1) {
    all.push_back(chain.joining);
  }
  std::sort(all.begin(), all.end());
  const bool leaves = chain.leaving == -1 ||
                      (chain.joining != -1 && chain.HasMember(chain.leaving));
  if (chain.members.empty() || all.front() < 0 || all.back() >= num_shards ||
      !leaves || std::adjacent_find(all.begin(), all.end()) != all.end()) {
    return InvalidArgumentError(
        "the route table has a chain that is not valid");
  }
  return chain;
}

}  // namespace

StatusOr<RouteTable> FromWire(const wire::Route& in) {
  if (in.shards_size() < 1 || in.slot_bits() < 1 || in.slot_bits() > 24 ||
      in.chain_of_slot_size() != 1 << in.slot_bits() ||
      std::any_of(
          in.chain_of_slot().begin(), in.chain_of_slot().end(),
          [&](int chain) { return chain < 0 || chain >= in.chains_size(); })) {
    return InvalidArgumentError("the route table is not valid");
  }
  RouteTable out;
  out.version = in.version();
  out.slot_bits = in.slot_bits();
  const auto read = [](const wire::Route::Peer& peer) {
    return RouteTable::Peer{comm::EndpointId{peer.endpoint()}, peer.address(),
                            peer.name()};
  };
  std::transform(in.shards().begin(), in.shards().end(),
                 std::back_inserter(out.shards), read);
  std::transform(in.workers().begin(), in.workers().end(),
                 std::back_inserter(out.workers), read);
  for (const wire::Route::Chain& chain : in.chains()) {
    SHOAL_ASSIGN_OR_RETURN(Chain read_chain,
                           ChainFromWire(chain, in.shards_size()));
    out.chains.push_back(std::move(read_chain));
  }
  out.chain_of_slot.assign(in.chain_of_slot().begin(),
                           in.chain_of_slot().end());
  return out;
}

}  // namespace shoal::ps
