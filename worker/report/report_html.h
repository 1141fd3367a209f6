#ifndef SHOAL_WORKER_REPORT_REPORT_HTML_H_
#define SHOAL_WORKER_REPORT_REPORT_HTML_H_

#include <string>

#include "base/status.h"
#include "base/storage.h"
#include "worker/report/training_summary.h"

namespace shoal::worker {

// The summary as one HTML page that needs no other file, no script and no
// network: final metrics, curves as inline SVG, and tables. It follows the
// reader's light or dark setting. All texts are escaped.
std::string ReportHtml(const TrainingSummary& summary);

// Publishes it at `path`. Errors: those of PublishFile().
Status WriteReportHtml(Storage& storage, const std::string& path,
                       const TrainingSummary& summary);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_REPORT_HTML_H_
