#include "worker/model.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/strcat.h"
#include "graph/gradients.h"
#include "graph/ops.h"
#include "worker/job.pb.h"
#include "worker/model_builder.h"

namespace shoal::worker {

using graph::NodeRef;

Registry<ModelFn>& ModelRegistry() {
  static Registry<ModelFn> registry("model");
  return registry;
}

namespace {

ps::OptimizerConfig ToConfig(const OptimizerSpec& spec) {
  const std::string& kind = spec.kind();
  ps::OptimizerConfig config = {
      .kind = kind,
      .learning_rate = spec.learning_rate(),
      .momentum = kind == "rmsprop" ? 0 : 0.9,
      .initial_accumulator = spec.initial_accumulator(),
      .epsilon = kind == "adadelta" || kind == "lamb" ? 1e-6 : 1e-8,
      .beta1 = spec.beta1(),
      .beta2 = spec.beta2(),
      .l1 = spec.l1(),
      .l2 = spec.l2(),
      .beta = spec.beta(),
      .rho = spec.rho(),
      .l21 = spec.l21(),
      .trust_coefficient = spec.trust_coefficient(),
      .delay_compensation = spec.delay_compensation(),
      .delay_decay = spec.delay_decay(),
      .weight_decay = kind == "adamw" ? 0.01 : 0,
      .clip_value = spec.clip_value(),
      .clip_norm = spec.clip_norm(),
      .decoupled = spec.decoupled(),
      .centered = spec.centered()};
  // Their defaults are the kind's.
  if (spec.has_momentum()) {
    config.momentum = spec.momentum();
  }
  if (spec.has_epsilon()) {
    config.epsilon = spec.epsilon();
  }
  if (spec.has_weight_decay()) {
    config.weight_decay = spec.weight_decay();
  }
  if (kind == "adamw") {
    config.kind = "adam";
    config.decoupled = true;
  }
  return config;
}

ps::Initializer ToInitializer(const graph::Initializer& initializer) {
  using Kind = ps::Initializer::Kind;
  switch (initializer.kind) {
    case graph::Initializer::Kind::kZero:
      break;
    case graph::Initializer::Kind::kUniform:
      return {Kind::kUniform, initializer.scale};
    case graph::Initializer::Kind::kNormal:
      return {Kind::kNormal, initializer.scale};
    case graph::Initializer::Kind::kConstant:
      return {Kind::kConstant, initializer.scale};
  }
  return {Kind::kZero, 0};
}

ps::TableSpec TableOf(const JobSpec& job, const graph::Feed& feed) {
  ps::TableSpec table;
  table.name = feed.name;
  table.dim = feed.type.shape.dim(1).offset();
  table.optimizer = ToConfig(job.dense());
  table.optimizer.delay_compensation = 0;  // Rows are pushed alone.
  // A first-order weight starts at nothing unless the job says otherwise.
  table.initializer = {feed.name == "linear" ? ps::Initializer::Kind::kZero
                                             : ps::Initializer::Kind::kUniform,
                       TableSpec().init_scale()};
  const auto it = job.tables().find(feed.name);
  if (it == job.tables().end()) {
    return table;
  }
  const TableSpec& spec = it->second;
  if (spec.has_optimizer()) {
    table.optimizer = ToConfig(spec.optimizer());
  }
  using Kind = ps::Initializer::Kind;
  if (spec.has_init() || feed.name != "linear") {
    table.initializer.kind = spec.init() == "zero"     ? Kind::kZero
                             : spec.init() == "normal" ? Kind::kNormal
                                                       : Kind::kUniform;
  }
  table.initializer.scale = spec.init_scale();
  const AdmissionSpec& admission = spec.admission();
  const EvictionSpec& eviction = spec.eviction();
  table.rules = {.min_count = admission.min_count(),
                 .candidate_bytes = admission.candidate_bytes(),
                 .probability = admission.probability(),
                 .max_age_steps = eviction.max_age_steps(),
                 .row_budget_bytes = eviction.row_budget_bytes(),
                 .policy = eviction.policy() == "lfu"
                               ? ps::RowRules::Policy::kLfu
                               : ps::RowRules::Policy::kLru};
  table.spills = spec.tier() == "disk";
  table.format = spec.format() == "bf16"  ? DType::kBF16
                 : spec.format() == "f16" ? DType::kF16
                                          : DType::kF32;
  return table;
}

// What the servers hold: the variables and tables of the training graph, in
// its order.
ps::ModelSpec SpecOf(const JobSpec& job, const graph::Graph& graph,
                     const ModelBuilder& builder) {
  ps::ModelSpec spec;
  spec.seed = job.seed();
  spec.dense_optimizer = ToConfig(job.dense());
  spec.groups.resize(builder.groups().size());
  for (const graph::Feed& feed : graph.feeds()) {
    if (feed.kind == graph::Feed::Kind::kVariable) {
      ps::VariableSpec variable;
      variable.name = feed.name;
      for (const graph::Dim& dim : feed.type.shape.dims()) {
        variable.dims.push_back(dim.offset());
      }
      variable.initializer = ToInitializer(feed.initializer);
      spec.variables.push_back(std::move(variable));
    } else if (feed.kind == graph::Feed::Kind::kTableRows) {
      const int group = builder.table_groups().at(feed.name);
      spec.groups[static_cast<size_t>(group)].push_back(
          static_cast<int>(spec.tables.size()));
      spec.tables.push_back(TableOf(job, feed));
    }
  }
  return spec;
}

// Puts ops where the job wants them. Errors: kInvalidArgument (a key that fits
// none).
Status PlaceOps(const JobSpec& job, graph::GraphBuilder& graph) {
  std::map<std::string, std::string> devices;
  for (const auto& [key, device] : job.devices().ops()) {
    devices[key] = device == "cpu" ? "cpu" : "";
  }
  const std::vector<std::string> unknown = graph.PlaceOps(devices);
  if (unknown.empty()) {
    return OkStatus();
  }
  std::string known;
  for (const std::string& name : graph.PlaceableNames()) {
    known += (known.empty() ? "" : ", ") + name;
  }
  return InvalidArgumentError(
      StrCat("devices.ops: the model has no op or layer '", unknown[0],
             "'; there are: ", known));
}

NodeRef LossOf(const JobSpec& job, graph::GraphBuilder& graph, NodeRef logits,
               NodeRef labels) {
  const std::string& task = job.model().task();
  return task == "regression" ? graph::SquaredError(graph, logits, labels)
         : task == "multiclass"
             ? graph::SoftmaxCrossEntropy(graph, logits, labels)
             : graph::SigmoidCrossEntropy(graph, logits, labels);
}

Status BuildTraining(const JobSpec& job, const RecordSchema& schema,
                     double label_mean, ModelFn model, ModelGraph& out) {
  graph::GraphBuilder graph;
  ModelBuilder builder(job, schema, label_mean, /*training=*/true, graph);
  const NodeRef logits = model(builder);
  const NodeRef labels =
      graph.Placeholder("labels", {graph.Symbol("batch"), 1});
  out.loss_sum = graph::ReduceSum(graph, LossOf(job, graph, logits, labels));

  // The loss of the push: the mean over its examples, and penalties. What is
  // penalized per example is divided like the losses; what is penalized per
  // step is divided over the shares that make up the push.
  std::vector<NodeRef> over_examples = {out.loss_sum};
  over_examples.insert(over_examples.end(), builder.example_penalties().begin(),
                       builder.example_penalties().end());
  NodeRef loss = graph::ScaleBy(graph, builder.AddAll(over_examples),
                                graph.Placeholder("loss_scale", {1}));
  if (!builder.weight_penalties().empty()) {
    loss = graph::Add(
        graph, loss,
        graph::ScaleBy(graph, builder.AddAll(builder.weight_penalties()),
                       graph.Placeholder("push_fraction", {1})));
  }
  SHOAL_RETURN_IF_ERROR(graph.status());
  SHOAL_RETURN_IF_ERROR(PlaceOps(job, graph));

  std::vector<NodeRef> variables;
  std::vector<NodeRef> tables;
  for (const graph::Feed& feed : graph.graph().feeds()) {
    if (feed.kind == graph::Feed::Kind::kVariable) {
      variables.push_back(feed.ref);
    } else if (feed.kind == graph::Feed::Kind::kTableRows) {
      tables.push_back(feed.ref);
    }
  }
  std::vector<NodeRef> all = variables;
  all.insert(all.end(), tables.begin(), tables.end());
  const std::vector<NodeRef> gradients = graph::Gradients(graph, loss, all);
  SHOAL_RETURN_IF_ERROR(graph.status());
  const auto middle =
      gradients.begin() + static_cast<std::ptrdiff_t>(variables.size());
  out.variable_gradients.assign(gradients.begin(), middle);
  out.table_gradients.assign(middle, gradients.end());
  SHOAL_ASSIGN_OR_RETURN(out.train, graph.Finish());
  out.spec = SpecOf(job, out.train, builder);
  out.groups = builder.groups();
  return OkStatus();
}

Status BuildScoring(const JobSpec& job, const RecordSchema& schema,
                    double label_mean, ModelFn model, ModelGraph& out) {
  graph::GraphBuilder graph;
  ModelBuilder builder(job, schema, label_mean, /*training=*/false, graph);
  const NodeRef logits = model(builder);
  const std::string& task = job.model().task();
  // Scaled by one: a prediction that is a plain feed or sum needs a node of
  // its own to be fetched.
  out.scores = task == "regression"   ? graph::Scale(graph, logits, 1)
               : task == "multiclass" ? graph::Softmax(graph, logits)
                                      : graph::Sigmoid(graph, logits);
  // What training alone has is not looked for.
  (void)PlaceOps(job, graph);
  out.score_width = static_cast<int>(builder.classes());
  SHOAL_ASSIGN_OR_RETURN(out.score, graph.Finish());
  return OkStatus();
}

}  // namespace

StatusOr<ModelGraph> BuildModel(const JobSpec& job, const RecordSchema& schema,
                                double label_mean) {
  SHOAL_ASSIGN_OR_RETURN(const ModelFn* model,
                         ModelRegistry().Find(job.model().kind()));
  ModelGraph out;
  const std::string prefix = StrCat("model '", job.model().kind(), "'");
  SHOAL_RETURN_IF_ERROR(
      BuildTraining(job, schema, label_mean, *model, out).WithPrefix(prefix));
  SHOAL_RETURN_IF_ERROR(
      BuildScoring(job, schema, label_mean, *model, out).WithPrefix(prefix));
  return out;
}

}  // namespace shoal::worker
