#ifndef SHOAL_LAUNCH_PROCESS_TRACE_H_
#define SHOAL_LAUNCH_PROCESS_TRACE_H_

#include <string>

#include "base/status.h"

namespace shoal::launch {

// A process's timeline, from here to the end of the block, in a file of
// `folder`; nothing if that is empty.
class ProcessTrace {
 public:
  ProcessTrace(std::string folder, std::string role);
  ~ProcessTrace();
  ProcessTrace(const ProcessTrace&) = delete;
  ProcessTrace& operator=(const ProcessTrace&) = delete;

 private:
  std::string folder_;
  std::string role_;
};

// Joins the timelines in `trace_folder`, once all processes of a run have left
// theirs, to trace.json in `out`; nothing if the folder is empty.
Status FinishTrace(const std::string& out, const std::string& trace_folder);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_PROCESS_TRACE_H_
