#include <xxhash.h>

#include <cstdint>
#include <span>
#include <string>

#include "base/strcat.h"
#include "ps/checkpoint_format.h"
#include "ps/checkpoint_parts.h"
#include "ps/checkpoint_scan.h"

namespace shoal::ps {

namespace {

class DigestSum {
 public:
  void Add(const std::string& kind, const std::string& name, uint64_t number,
           std::span<const std::byte> values, std::span<const float> state) {
    bytes_.assign(kind);
    bytes_ += '\0';
    bytes_ += name;
    bytes_ += '\0';
    bytes_.append(reinterpret_cast<const char*>(&number), sizeof(number));
    bytes_.append(reinterpret_cast<const char*>(values.data()),
                  values.size_bytes());
    bytes_.append(reinterpret_cast<const char*>(state.data()),
                  state.size_bytes());
    const XXH128_hash_t hash = XXH3_128bits(bytes_.data(), bytes_.size());
    sum_ += (static_cast<unsigned __int128>(hash.high64) << 64) | hash.low64;
  }
  std::string ToString() const {
    return HexOf(static_cast<uint64_t>(sum_ >> 64)) +
           HexOf(static_cast<uint64_t>(sum_));
  }

 private:
  std::string bytes_;
  unsigned __int128 sum_ = 0;
};

}  // namespace

Status VerifyCheckpoint(Storage& storage, const std::string& folder) {
  return DigestCheckpoint(storage, folder).status();
}

namespace {

// What counts of several links is found by walking them.
StatusOr<std::string> DigestIncremental(Storage& storage,
                                        const std::string& folder) {
  SHOAL_ASSIGN_OR_RETURN(const CheckpointScan scan,
                         ScanCheckpoint(storage, folder));
  DigestSum digest;
  for (const auto& [name, chunks] : scan.variables) {
    for (const auto& [first, chunk] : chunks) {
      digest.Add("chunk", name, static_cast<uint64_t>(first),
                 chunk.values.As<std::byte>(), chunk.state.As<float>());
    }
  }
  for (const auto& [name, table] : scan.tables) {
    SHOAL_RETURN_IF_ERROR(
        WalkRows(storage, {&scan, 1}, name,
                 [&, &name = name](uint64_t id, const SlotSet&,
                                   std::span<const RowRef> rows) {
                   digest.Add("row", name, id, rows[0].values, rows[0].state);
                   return OkStatus();
                 }));
  }
  return digest.ToString();
}

}  // namespace

StatusOr<std::string> DigestCheckpoint(Storage& storage,
                                       const std::string& folder) {
  SHOAL_ASSIGN_OR_RETURN(const Manifest manifest,
                         ReadManifest(storage, folder));
  if (manifest.base.has_value()) {
    return DigestIncremental(storage, folder);
  }
  DigestSum digest;
  for (const ManifestPart& part : manifest.parts) {
    SHOAL_ASSIGN_OR_RETURN(const Tensors tensors,
                           ReadTensors(storage, folder, part.file));
    SHOAL_RETURN_IF_ERROR(VisitPart(
        StrCat(folder, "/", part.file.file), tensors,
        [&](const std::string& name, const TableTensors& table) {
          for (size_t i = 0; i < table.ids.size(); ++i) {
            digest.Add("row", name, table.ids[i], table.values_of(i),
                       table.state_of(i));
          }
          return OkStatus();
        },
        [&](const ChunkName& name, const ChunkTensors& chunk) {
          digest.Add("chunk", name.variable, static_cast<uint64_t>(name.first),
                     chunk.values.As<std::byte>(), chunk.state.As<float>());
          return OkStatus();
        }));
  }
  return digest.ToString();
}

}  // namespace shoal::ps
