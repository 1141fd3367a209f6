#include "worker/report/metrics_json.h"

#include <nlohmann/json.hpp>

namespace shoal::worker {
namespace {

// Keeps the order in which keys were set.
using Json = nlohmann::ordered_json;

Json MetricsToJson(const EvalResult& result) {
  Json json = Json::object();
  for (const auto& [name, value] : NamedMetrics(result)) {
    json[std::string(name)] = value;
  }
  json["examples"] = result.count;
  return json;
}

// Buckets that have any, by what they have at most (the last has no bound).
Json StalenessToJson(const Histogram& staleness) {
  Json json = {{"unit", "clocks"},
               {"gradients", staleness.count()},
               {"mean", staleness.mean()},
               {"max", staleness.max()},
               {"buckets", Json::array()}};
  for (size_t i = 0; i < Histogram::kBuckets; ++i) {
    if (staleness.buckets()[i] > 0) {
      Json& bucket = json["buckets"].emplace_back();
      if (i < Histogram::kBounds.size()) {
        bucket["at_most"] = Histogram::kBounds[i];
      }
      bucket["gradients"] = staleness.buckets()[i];
    }
  }
  return json;
}

void SetIfKnown(Json& json, const char* key, const std::string& value) {
  if (!value.empty()) {
    json[key] = value;
  }
}

}  // namespace

std::string MetricsJson(const TrainingSummary& summary) {
  Json json;
  SetIfKnown(json, "job", summary.job);
  SetIfKnown(json, "model", summary.model);
  SetIfKnown(json, "task", summary.task);
  SetIfKnown(json, "mode", summary.mode);
  SetIfKnown(json, "dense", summary.dense);
  SetIfKnown(json, "started", summary.started);
  SetIfKnown(json, "outcome", summary.outcome);
  json["examples"] = summary.examples;
  json["seconds"] = summary.seconds;
  json["examples_per_second"] = summary.examples_per_second();
  json["steps"] = summary.steps;
  json["epochs"] = summary.epochs;
  json["bad_rows"] = summary.bad_rows;
  if (summary.train_loss.has_value()) {
    json["train_loss"] = *summary.train_loss;
  }
  if (summary.test.has_value()) {
    json["test"] = MetricsToJson(*summary.test);
  }
  SetIfKnown(json, "digest", summary.digest);
  SetIfKnown(json, "checkpoint", summary.checkpoint);
  if (!summary.staleness.empty()) {
    json["staleness"] = StalenessToJson(summary.staleness);
  }
  json["history"] = Json::array();
  for (const EvalPoint& point : summary.history) {
    json["history"].push_back({{"step", point.step},
                               {"epoch", point.epoch},
                               {"seconds", point.seconds},
                               {"test", MetricsToJson(point.result)}});
  }
  json["losses"] = Json::array();
  for (const LossPoint& point : summary.losses) {
    json["losses"].push_back({{"step", point.step}, {"loss", point.loss}});
  }
  // Paths may hold bytes that are no UTF-8; they must not throw.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Status WriteMetricsJson(Storage& storage, const std::string& path,
                        const TrainingSummary& summary) {
  const Buffer text = Buffer::CopyOf(MetricsJson(summary));
  return storage.PublishFile(path, {&text, 1});
}

}  // namespace shoal::worker
