#ifndef SHOAL_LAUNCH_PLAN_COMMAND_H_
#define SHOAL_LAUNCH_PLAN_COMMAND_H_

#include <string>
#include <vector>

#include "base/status.h"

namespace shoal::launch {

// `shoal plan`: reads the job and its data, and prints what every server will
// hold once each training example was seen: rows, and bytes of tables and dense
// variables, replicas counted. Starts nothing and leaves no file. Blocks.
// Errors: whatever is wrong with the job or its data.
Status RunPlan(const std::string& job_path,
               const std::vector<std::string>& overrides);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_PLAN_COMMAND_H_
