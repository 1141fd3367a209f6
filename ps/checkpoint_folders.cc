#include "ps/checkpoint_folders.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "base/strcat.h"

namespace shoal::ps {

Status CheckEmptyFolder(Storage& storage, const std::string& folder) {
  const StatusOr<std::vector<std::string>> names = storage.ListFolder(folder);
  if (names.status().code() == StatusCode::kNotFound) {
    return OkStatus();
  }
  SHOAL_RETURN_IF_ERROR(names.status());
  return names->empty() ? OkStatus()
                        : FailedPreconditionError(
                              StrCat(folder, " is not empty ('", names->front(),
                                     "' is there): choose another folder"));
}

std::optional<int64_t> StepOfFolder(const std::string& name) {
  const std::string prefix = "step-";
  if (name.compare(0, prefix.size(), prefix) != 0 ||
      name.size() == prefix.size() || name.size() > prefix.size() + 18 ||
      name.find_first_not_of("0123456789", prefix.size()) !=
          std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(name.substr(prefix.size()));
}

Status RemoveCheckpoint(Storage& storage, const std::string& folder) {
  SHOAL_RETURN_IF_ERROR(storage.Remove(StrCat(folder, "/", kManifestFile)));
  return storage.Remove(folder);
}

Status CopyCheckpoint(Storage& storage, const ChainLink& from,
                      const std::string& to) {
  if (ReadManifest(storage, to).ok()) {
    return OkStatus();
  }
  std::vector<std::string> files;
  for (const ManifestPart& part : from.manifest.parts) {
    files.push_back(part.file.file);
  }
  files.emplace_back(kManifestFile);
  for (const std::string& file : files) {
    SHOAL_ASSIGN_OR_RETURN(const Buffer bytes,
                           storage.ReadFile(StrCat(from.folder, "/", file)));
    SHOAL_RETURN_IF_ERROR(
        storage.PublishFile(StrCat(to, "/", file), {&bytes, 1}));
  }
  return OkStatus();
}

namespace {

// By step: of the checkpoint that it is based on, or none.
using Bases = std::map<int64_t, std::optional<int64_t>>;

StatusOr<Bases> ReadBases(Storage& storage, const std::string& parent) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         storage.ListFolder(parent));
  Bases bases;
  for (const std::string& name : names) {
    const std::optional<int64_t> step = StepOfFolder(name);
    if (!step.has_value()) {
      continue;
    }
    const StatusOr<Manifest> read =
        ReadManifest(storage, StrCat(parent, "/", name));
    if (read.ok()) {
      bases[*step] = read->base.has_value() ? std::optional(read->base->step)
                                            : std::nullopt;
    } else if (read.status().code() == StatusCode::kUnavailable) {
      return read.status();  // Whether it is one is not known.
    }
  }
  return bases;
}

// The newest first, so that what is left is never based on what is gone.
Status RemoveNewestFirst(Storage& storage, const std::string& parent,
                         const std::set<int64_t>& steps) {
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    SHOAL_RETURN_IF_ERROR(
        RemoveCheckpoint(storage, StrCat(parent, "/step-", *step)));
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::vector<int64_t>> ListCheckpoints(Storage& storage,
                                               const std::string& parent) {
  SHOAL_ASSIGN_OR_RETURN(const Bases bases, ReadBases(storage, parent));
  std::vector<int64_t> steps;
  for (const auto& [step, base] : bases) {
    steps.push_back(step);
  }
  return steps;
}

Status PruneCheckpoints(Storage& storage, const std::string& parent, int kept,
                        int64_t step) {
  SHOAL_ASSIGN_OR_RETURN(const Bases bases, ReadBases(storage, parent));
  std::set<int64_t> needed = {step};
  std::set<int64_t> gone;
  for (auto it = bases.rbegin(); it != bases.rend(); ++it) {
    const auto& [other, base] = *it;
    if (kept-- <= 0 && !needed.contains(other)) {
      gone.insert(other);
    } else if (base.has_value()) {
      needed.insert(*base);
    }
  }
  return RemoveNewestFirst(storage, parent, gone);
}

Status RemoveWhatIsBasedOn(Storage& storage, const std::string& parent,
                           int64_t step) {
  if (ReadManifest(storage, StrCat(parent, "/step-", step)).status().code() ==
      StatusCode::kNotFound) {
    return OkStatus();
  }
  SHOAL_ASSIGN_OR_RETURN(const Bases bases, ReadBases(storage, parent));
  std::set<int64_t> gone;
  for (const auto& [other, base] : bases) {
    if (base.has_value() && (*base == step || gone.contains(*base))) {
      gone.insert(other);
    }
  }
  return RemoveNewestFirst(storage, parent, gone);
}

namespace {

// An older checkpoint does not quietly stand in for a newer one that can't be
// read.
Status CheckNoneDamaged(Storage& storage, const std::string& parent,
                        int64_t newest_good) {
  SHOAL_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         storage.ListFolder(parent));
  for (const std::string& name : names) {
    const std::optional<int64_t> step = StepOfFolder(name);
    if (!step.has_value() || *step <= newest_good) {
      continue;
    }
    const Status read =
        ReadManifest(storage, StrCat(parent, "/", name)).status();
    if (!read.ok() && read.code() != StatusCode::kNotFound) {
      return Status(
          read.code(),
          StrCat(read.message(),
                 newest_good < 0 ? "; there is none beside it"
                                 : StrCat("; the newest that can be read is ",
                                          parent, "/step-", newest_good,
                                          ": name that folder to use it")));
    }
  }
  return OkStatus();
}

// The same where the newest is there and what it is based on is not.
Status ReadNewest(Storage& storage, const std::string& parent,
                  const std::vector<int64_t>& steps) {
  const auto read = [&](int64_t step) {
    return ReadChain(storage, StrCat(parent, "/step-", step)).status();
  };
  const Status newest = read(steps.back());
  if (newest.ok()) {
    return newest;
  }
  const auto good = std::find_if(steps.rbegin() + 1, steps.rend(),
                                 [&](int64_t step) { return read(step).ok(); });
  return Status(
      newest.code(),
      good == steps.rend()
          ? std::string(newest.message())
          : StrCat(newest.message(), "; the newest that can be read is ",
                   parent, "/step-", *good, ": name that folder to use it"));
}

}  // namespace

StatusOr<std::string> FindCheckpoint(Storage& storage,
                                     const std::string& given) {
  // "out/", "./out" and "out" are spelled alike from here on.
  const std::string path = NormalPath(given);
  const StatusOr<Manifest> here = ReadManifest(storage, path);
  if (here.ok()) {
    SHOAL_RETURN_IF_ERROR(ReadChain(storage, path).status());
    return path;
  }
  if (here.status().code() != StatusCode::kNotFound) {
    return here.status();
  }
  for (const std::string& parent : {path, StrCat(path, "/checkpoints")}) {
    const StatusOr<std::vector<int64_t>> steps =
        ListCheckpoints(storage, parent);
    if (steps.status().code() == StatusCode::kNotFound) {
      continue;
    }
    SHOAL_RETURN_IF_ERROR(steps.status());
    SHOAL_RETURN_IF_ERROR(
        CheckNoneDamaged(storage, parent, steps->empty() ? -1 : steps->back()));
    if (!steps->empty()) {
      const std::string newest = StrCat(parent, "/step-", steps->back());
      SHOAL_RETURN_IF_ERROR(ReadNewest(storage, parent, *steps));
      return newest;
    }
  }
  return NotFoundError(StrCat("there is no checkpoint in ", path,
                              ": it is no step-N folder with a manifest, and "
                              "has none in it or in its folder checkpoints"));
}

}  // namespace shoal::ps
