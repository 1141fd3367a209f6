#include "launch/checkpoint_commands.h"

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/storage.h"
#include "base/strcat.h"
#include "launch/restored_job.h"
#include "ps/checkpoint_diff.h"
#include "ps/checkpoint_export.h"
#include "ps/checkpoint_format.h"
#include "ps/checkpoint_merge.h"

namespace shoal::launch {

Status RunCheckpointList(const std::string& path) {
  const std::unique_ptr<Storage> storage = CreateStorage();
  std::vector<std::string> folders;
  if (ps::ReadManifest(*storage, path).ok()) {
    folders.push_back(path);
  }
  for (const std::string& parent : {path, StrCat(path, "/checkpoints")}) {
    const StatusOr<std::vector<int64_t>> steps =
        ps::ListCheckpoints(*storage, parent);
    if (folders.empty() && steps.ok()) {
      for (const int64_t step : *steps) {
        folders.push_back(NormalPath(StrCat(parent, "/step-", step)));
      }
    }
  }
  if (folders.empty()) {
    return ps::FindCheckpoint(*storage, path).status();
  }
  for (const std::string& folder : folders) {
    SHOAL_ASSIGN_OR_RETURN(const ps::Manifest manifest,
                           ps::ReadManifest(*storage, folder));
    int64_t bytes = 0;
    for (const ps::ManifestPart& part : manifest.parts) {
      bytes += part.file.size_bytes;
    }
    std::printf(
        "%s  %zu files  %lld bytes  %s\n", folder.c_str(),
        manifest.parts.size(), static_cast<long long>(bytes),
        manifest.base.has_value()
            ? StrCat("incremental, based on step-", manifest.base->step).c_str()
            : "full");
    if (const Status chain = ps::ReadChain(*storage, folder).status();
        !chain.ok()) {
      std::printf("  can't be read: %s\n",
                  std::string(chain.message()).c_str());
    }
  }
  return OkStatus();
}

Status RunCheckpointVerify(const std::string& path) {
  const std::unique_ptr<Storage> storage = CreateStorage();
  SHOAL_ASSIGN_OR_RETURN(const std::string folder,
                         ps::FindCheckpoint(*storage, path));
  SHOAL_RETURN_IF_ERROR(ps::VerifyCheckpoint(*storage, folder));
  std::printf("%s: good\n", folder.c_str());
  return OkStatus();
}

Status RunCheckpointDigest(const std::string& path) {
  const std::unique_ptr<Storage> storage = CreateStorage();
  SHOAL_ASSIGN_OR_RETURN(const std::string folder,
                         ps::FindCheckpoint(*storage, path));
  SHOAL_ASSIGN_OR_RETURN(const std::string digest,
                         ps::DigestCheckpoint(*storage, folder));
  std::printf("%s\n", digest.c_str());
  return OkStatus();
}

namespace {

std::string FormText(const std::optional<ps::TableForm>& form) {
  return form.has_value() ? StrCat("dim ", form->dim, ", ", form->state_floats,
                                   " floats of state, ", Name(form->format))
                          : "not there";
}

void PrintTable(const ps::CheckpointDifference::Table& table) {
  std::printf("table %s: ", table.name.c_str());
  if (table.same()) {
    std::printf("same (%lld rows)\n", static_cast<long long>(table.rows_a));
    return;
  }
  std::printf(
      "%lld | %lld rows: %lld only in A, %lld only in B, %lld of other values, "
      "%lld of other optimizer state alone; largest difference %.9g\n",
      static_cast<long long>(table.rows_a),
      static_cast<long long>(table.rows_b),
      static_cast<long long>(table.only_a),
      static_cast<long long>(table.only_b),
      static_cast<long long>(table.values_differ),
      static_cast<long long>(table.state_differs), table.largest);
  if (table.form_a != table.form_b) {
    std::printf("  A: %s; B: %s\n", FormText(table.form_a).c_str(),
                FormText(table.form_b).c_str());
  }
}

std::string ElementsText(int64_t elements) {
  return elements < 0 ? "not there" : StrCat(elements, " elements");
}

void PrintVariable(const ps::CheckpointDifference::Variable& variable) {
  std::printf("variable %s: ", variable.name.c_str());
  if (variable.same()) {
    std::printf("same (%lld elements)\n",
                static_cast<long long>(variable.elements_a));
  } else if (variable.elements_a != variable.elements_b) {
    std::printf("%s | %s\n", ElementsText(variable.elements_a).c_str(),
                ElementsText(variable.elements_b).c_str());
  } else {
    std::printf(
        "%lld of %lld elements differ%s; largest difference %.9g\n",
        static_cast<long long>(variable.values_differ),
        static_cast<long long>(variable.elements_a),
        variable.state_differs ? ", and so does the optimizer's state" : "",
        variable.largest);
  }
}

}  // namespace

Status RunCheckpointDiff(const std::string& a, const std::string& b,
                         int* exit_code) {
  *exit_code = 2;
  const std::unique_ptr<Storage> storage = CreateStorage();
  SHOAL_ASSIGN_OR_RETURN(const std::string folder_a,
                         ps::FindCheckpoint(*storage, a));
  SHOAL_ASSIGN_OR_RETURN(const std::string folder_b,
                         ps::FindCheckpoint(*storage, b));
  SHOAL_ASSIGN_OR_RETURN(const ps::CheckpointDifference difference,
                         ps::DiffCheckpoints(*storage, folder_a, folder_b));
  std::printf("A: %s, step %lld\nB: %s, step %lld\n", folder_a.c_str(),
              static_cast<long long>(difference.step_a), folder_b.c_str(),
              static_cast<long long>(difference.step_b));
  for (const ps::CheckpointDifference::Table& table : difference.tables) {
    PrintTable(table);
  }
  for (const ps::CheckpointDifference::Variable& v : difference.variables) {
    PrintVariable(v);
  }
  *exit_code = difference.same() ? 0 : 1;
  return OkStatus();
}

Status RunCheckpointMerge(const std::string& path, const std::string& out,
                          int parts) {
  const std::unique_ptr<Storage> storage = CreateStorage();
  SHOAL_ASSIGN_OR_RETURN(const std::string folder,
                         ps::FindCheckpoint(*storage, path));
  SHOAL_ASSIGN_OR_RETURN(
      const ps::MergeResult result,
      ps::MergeCheckpoint(*storage,
                          {.checkpoint = folder, .out = out, .parts = parts}));
  std::printf("%s: %zu files are now %zu in %s, with the same digest, %s\n",
              folder.c_str(), result.files_before, result.files, out.c_str(),
              result.digest.c_str());
  return OkStatus();
}

Status RunCheckpointExport(const std::string& path, const std::string& out) {
  const std::unique_ptr<Storage> storage = CreateStorage();
  SHOAL_ASSIGN_OR_RETURN(const std::string folder,
                         ps::FindCheckpoint(*storage, path));
  ps::ExportOptions options = {.checkpoint = folder, .out = out};
  SHOAL_ASSIGN_OR_RETURN(options.shapes, VariableShapes(*storage, folder));
  SHOAL_RETURN_IF_ERROR(ps::ExportCheckpoint(*storage, options));
  std::printf("%s: %s/index.json\n", folder.c_str(), out.c_str());
  return OkStatus();
}

}  // namespace shoal::launch
