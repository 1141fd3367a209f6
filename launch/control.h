#ifndef SHOAL_LAUNCH_CONTROL_H_
#define SHOAL_LAUNCH_CONTROL_H_

#include <string>

#include "base/status.h"

namespace shoal::launch {

// In a job's output folder while it runs: how to reach its coordinator.
inline constexpr char kAddressFile[] = "coordinator.txt";

// Keeps such a file until it is destroyed.
class AddressFile {
 public:
  // No file if `path` is empty. Errors: kUnavailable (it can't be written).
  static StatusOr<AddressFile> Write(const std::string& path,
                                     const std::string& transport,
                                     const std::string& address);
  ~AddressFile();
  AddressFile(AddressFile&& other) noexcept;
  AddressFile& operator=(AddressFile&&) = delete;

 private:
  explicit AddressFile(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// Which running job is meant.
struct JobAddress {
  std::string out;          // its --out folder, or
  std::string coordinator;  // HOST:PORT
};

struct ScaleRequest {
  JobAddress job;
  int servers = 0;  // 0: as many as there are
  int workers = 0;  // the same
  int drain = -1;   // the server that is to go; -1: none
};

// `shoal scale` and `shoal drain`: asks the coordinator, and prints what
// happens now. Errors: kNotFound (no running job there), kUnavailable or
// kDeadlineExceeded (it does not answer), and the coordinator's own.
Status RunScale(const ScaleRequest& request);

struct ModeRequest {
  JobAddress job;
  // As consistency.tables and consistency.dense, `bounded:CLOCKS` with a
  // staleness; empty: as they are.
  std::string tables;
  std::string dense;
};

// `shoal mode`: asks for other modes, and prints what happens now. Errors: as
// above.
Status RunMode(const ModeRequest& request);

// `shoal status`: prints the members and who holds what. Errors: as above.
Status RunStatus(const JobAddress& job);

}  // namespace shoal::launch

#endif  // SHOAL_LAUNCH_CONTROL_H_
