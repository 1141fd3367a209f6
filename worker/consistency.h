#ifndef SHOAL_WORKER_CONSISTENCY_H_
#define SHOAL_WORKER_CONSISTENCY_H_

#include <string>
#include <vector>

#include "ps/model_spec.h"

namespace shoal::worker {

class ConsistencySpec;
class JobSpec;

// What `consistency.tables` and `consistency.dense` say, or `consistency.mode`
// for them: `auto` of the tables is resolved, which needs nothing but the other
// keys; that of the dense variables is not.
std::string TablesText(const ConsistencySpec& consistency);
std::string DenseText(const ConsistencySpec& consistency);

// The key of the job that needs the gradients of a whole step at once, as the
// servers have them in sync; empty: none does.
std::string GlobalKey(const JobSpec& job);

// How the updates of a job's tables and dense variables meet.
struct Consistency {
  ps::Mode tables = ps::Mode::kSync;
  ps::DensePlace dense = ps::DensePlace::kShards;
  // As the keys say it, without auto.
  std::string tables_text;
  std::string dense_text;
  // What auto chose and why: a sentence per key that says so.
  std::vector<std::string> choices;
};

// A function of a valid job and of its model alone, so that whoever asks
// chooses alike. `dense: auto` counts the bytes that its dense variables take
// per step by the servers and by allreduce, which train the same bits.
Consistency ChooseConsistency(const JobSpec& job, const ps::ModelSpec& model);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_CONSISTENCY_H_
