#ifndef SHOAL_PS_SAFETENSORS_H_
#define SHOAL_PS_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "base/storage.h"

namespace shoal::ps {

// One file of named tensors in the safetensors format
// (https://github.com/huggingface/safetensors), with a checksum beside it.
struct CheckpointPart {
  std::string file;
  int64_t size_bytes = 0;
  std::string checksum;  // XXH3-64 of the file, 16 hex digits
};

struct Tensor {
  std::string dtype;  // "U64", "F32", "F16", "BF16"
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // in the file's data
  Buffer data;
};
using Tensors = std::map<std::string, Tensor>;

// XXH3-64, 16 hex digits.
std::string Checksum(std::span<const Buffer> pieces);
std::string HexOf(uint64_t value);

// Gathers tensors, then writes them behind a header that names them. Readers
// of safetensors refuse holes, so alignment comes from the order: the widest
// elements first.
class TensorsWriter {
 public:
  // `dtype`: "U64", "F32", "F16" or "BF16".
  void Add(const std::string& name, const char* dtype,
           std::vector<int64_t> shape, Buffer data);

  // Once. Errors: those of Storage::PublishFile(); kInvalidArgument (a name is
  // not valid UTF-8).
  StatusOr<CheckpointPart> Publish(Storage& storage, const std::string& folder,
                                   const std::string& file);

 private:
  struct Item {
    std::string name;
    const char* dtype;
    std::vector<int64_t> shape;
    Buffer data;
  };
  std::vector<Item> items_;
};

// Reads a file whole. Errors: those of Storage::ReadFile(); kDataLoss (it is
// not what `part` says, or no valid safetensors file of those types; names
// file and reason).
StatusOr<Tensors> ReadTensors(Storage& storage, const std::string& folder,
                              const CheckpointPart& part);

// kDataLoss: "FILE is damaged: WHY".
Status Damaged(const std::string& file, const std::string& why);

}  // namespace shoal::ps

#endif  // SHOAL_PS_SAFETENSORS_H_
