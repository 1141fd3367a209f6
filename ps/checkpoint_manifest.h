#ifndef SHOAL_PS_CHECKPOINT_MANIFEST_H_
#define SHOAL_PS_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "ps/safetensors.h"
#include "ps/slots.h"

namespace shoal::ps {

// `manifest.json` of a checkpoint's folder: what its files are, and what it is
// based on. See ps/checkpoint_format.h.

inline constexpr char kManifestFile[] = "manifest.json";

struct ManifestPart {
  CheckpointPart file;
  std::optional<SlotSet> rows;  // none: no rows, of interest to every shard
};

// Another checkpoint, `step-STEP` beside the one that names it.
struct ManifestBase {
  int64_t step = 0;
  std::string checksum;  // of its manifest
};

struct Manifest {
  int64_t step = 0;
  // Of an incremental checkpoint: what it lacks is there.
  std::optional<ManifestBase> base;
  std::vector<ManifestPart> parts;
  // What was given to PublishManifest(): the job, what was fitted to the data.
  std::map<std::string, std::string> texts;
  std::string checksum;
};

// An entry for PublishManifest().
std::string DescribePart(const ManifestPart& part);

// Gives its checksum in `checksum`, if that is not null.
// Errors: those of Storage::PublishFile(); kInvalidArgument (an entry that
// SaveParts() did not make, or a text that is not valid UTF-8).
Status PublishManifest(Storage& storage, const std::string& folder,
                       int64_t step, const std::vector<std::string>& entries,
                       const std::map<std::string, std::string>& texts,
                       const std::optional<ManifestBase>& base = std::nullopt,
                       std::string* checksum = nullptr);

// Errors: kNotFound (no manifest), kDataLoss (not a valid one).
StatusOr<Manifest> ReadManifest(Storage& storage, const std::string& folder);

struct ChainLink {
  std::string folder;
  Manifest manifest;
};

// A checkpoint, what it is based on, and so on, down to a full one.
// Errors: those of ReadManifest(); kDataLoss (what it is based on is missing,
// no valid checkpoint, or another one than it was: names both).
StatusOr<std::vector<ChainLink>> ReadChain(Storage& storage,
                                           const std::string& folder);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_MANIFEST_H_
