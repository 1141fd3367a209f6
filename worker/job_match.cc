#include <string>
#include <vector>

#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/message_differencer.h>

#include "base/random.h"
#include "base/strcat.h"
#include "ps/safetensors.h"
#include "worker/job.h"
#include "worker/job.pb.h"
#include "worker/job_schema.h"

namespace shoal::worker {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::util::MessageDifferencer;

// Keys that say what would be so without them, left out.
FeatureSpec Canonical(FeatureSpec feature) {
  if (feature.name() == feature.column()) {
    feature.clear_name();
  }
  std::vector<const FieldDescriptor*> fields;
  feature.GetReflection()->ListFields(feature, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->message_type() == nullptr && SaysTheDefault(feature, *field)) {
      feature.GetReflection()->ClearField(&feature, field);
    }
  }
  return feature;
}

// What the columns of its examples are made of.
DataSpec ColumnsPart(const JobSpec& job) {
  DataSpec part;
  for (const FeatureSpec& feature : job.data().features()) {
    *part.add_features() = Canonical(feature);
  }
  part.set_hash_buckets(job.data().hash_buckets());
  return part;
}

// Which words and counts go with the rows; how many may change.
void KeepRules(const TableSpec& from, TableSpec& kept) {
  const EvictionSpec& eviction = from.eviction();
  if (from.admission().min_count() > 1) {
    kept.mutable_admission()->set_min_count(2);
  }
  if (eviction.row_budget_bytes() > 0 || eviction.max_age_steps() > 0) {
    kept.mutable_eviction()->set_max_age_steps(1);
  }
  if (eviction.row_budget_bytes() > 0) {
    kept.mutable_eviction()->set_policy(eviction.policy());
  }
}

// What gives the values of a checkpoint their meaning, of a job; the rest may
// change from one run to the next.
JobSpec ModelPart(const JobSpec& job, bool with_columns) {
  JobSpec part;
  ModelSpec& model = *part.mutable_model();
  model = job.model();
  model.clear_dropout();
  model.clear_l2_linear();
  model.clear_l2_embedding();
  model.clear_l2_dense();
  model.clear_bias_from_data();
  part.mutable_dense()->set_kind(job.dense().kind());
  if (job.dense().delay_compensation() > 0) {
    part.mutable_dense()->set_delay_compensation(1);  // It has state.
  }
  for (const char* name : {"linear", "embedding"}) {
    const auto table = job.tables().find(name);
    const bool own =
        table != job.tables().end() && table->second.has_optimizer();
    TableSpec& kept = (*part.mutable_tables())[name];
    kept.mutable_optimizer()->set_kind(own ? table->second.optimizer().kind()
                                           : job.dense().kind());
    const TableSpec& spec =
        table != job.tables().end() ? table->second : TableSpec();
    kept.set_format(spec.format());
    KeepRules(spec, kept);
  }
  if (with_columns) {
    *part.mutable_data() = ColumnsPart(job);
  }
  return part;
}

}  // namespace

Status CheckSameModel(const JobSpec& then, const JobSpec& now) {
  // Record files are compared by what they say of themselves.
  const bool with_columns =
      then.data().format() != "record" && now.data().format() != "record";
  MessageDifferencer differencer;
  differencer.set_message_field_comparison(MessageDifferencer::EQUIVALENT);
  std::string differences;
  differencer.ReportDifferencesToString(&differences);
  if (differencer.Compare(ModelPart(then, with_columns),
                          ModelPart(now, with_columns))) {
    return OkStatus();
  }
  return FailedPreconditionError(
      StrCat("it was written with another model or optimizer (",
             differences.substr(0, differences.find('\n')),
             "); use the job file that it was trained with, or train anew"));
}

std::string FeaturesDigest(const JobSpec& job) {
  JobSpec part;
  *part.mutable_data() = ColumnsPart(job);
  return ps::HexOf(HashText(SerializeJob(part)));
}

}  // namespace shoal::worker
