#ifndef SHOAL_WORKER_REPORT_METRICS_JSON_H_
#define SHOAL_WORKER_REPORT_METRICS_JSON_H_

#include <string>

#include "base/status.h"
#include "base/storage.h"
#include "worker/report/training_summary.h"

namespace shoal::worker {

// The summary as indented JSON: `examples`, `seconds`, `examples_per_second`,
// `steps`, `epochs`, `bad_rows`, `train_loss`, `test` (`auc`, `log_loss`,
// `accuracy`, `rmse`: those that apply, and `examples`), `history` (one entry
// per evaluation: `step`, `epoch`, `seconds`, `test`), `losses` (`step`,
// `loss`), and `job`, `model`, `task`, `mode`, `outcome`, `digest`,
// `checkpoint` where known. A number that is not finite becomes null.
std::string MetricsJson(const TrainingSummary& summary);

// Publishes it at `path`. Errors: those of PublishFile().
Status WriteMetricsJson(Storage& storage, const std::string& path,
                        const TrainingSummary& summary);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_METRICS_JSON_H_
