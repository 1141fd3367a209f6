#include "ps/checkpoint_export.h"

#include <cctype>
#include <functional>
#include <numeric>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/strcat.h"
#include "ps/checkpoint_scan.h"
#include "ps/strict_json.h"

namespace shoal::ps {
namespace {

constexpr char kIndexFile[] = "index.json";
constexpr int kIndexVersion = 1;

// What a table or variable is called in file names.
std::string Plain(const std::string& name) {
  std::string plain = name;
  for (char& c : plain) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-') {
      c = '_';
    }
  }
  return plain;
}

class Exporter {
 public:
  Exporter(Storage& storage, const ExportOptions& options)
      : storage_(storage), options_(options) {}

  Status Write(const CheckpointScan& scan) {
    Json index = {{"format", kIndexVersion},
                  {"step", scan.manifest.step},
                  {"tables", Json::object()},
                  {"variables", Json::object()}};
    for (const auto& [name, chunks] : scan.variables) {
      SHOAL_ASSIGN_OR_RETURN(index["variables"][name],
                             WriteVariable(name, chunks));
    }
    for (const auto& [name, table] : scan.tables) {
      SHOAL_ASSIGN_OR_RETURN(index["tables"][name],
                             WriteTable(scan, name, table));
    }
    const Buffer text = Buffer::CopyOf(index.dump(1));
    return storage_.PublishFile(StrCat(options_.out, "/", kIndexFile),
                                {&text, 1});
  }

 private:
  // Names that are spelled alike in file names get different numbers.
  std::string NewFile(const std::string& name) {
    return StrCat(Plain(name), "-", num_files_++, ".safetensors");
  }

  StatusOr<Json> WriteVariable(const std::string& name,
                               const CheckpointScan::Chunks& chunks) {
    std::vector<float> values;
    for (const auto& [first, chunk] : chunks) {
      const auto more = chunk.values.As<float>();
      values.insert(values.end(), more.begin(), more.end());
    }
    const auto elements = static_cast<int64_t>(values.size());
    const auto it = options_.shapes.find(name);
    const std::vector<int64_t> shape = it == options_.shapes.end()
                                           ? std::vector<int64_t>{elements}
                                           : it->second;
    if (std::accumulate(shape.begin(), shape.end(), int64_t{1},
                        std::multiplies<>()) != elements) {
      return FailedPreconditionError(
          StrCat("variable '", name, "' has ", elements, " elements in ",
                 options_.checkpoint, ", which is not what its job says"));
    }
    TensorsWriter writer;
    writer.Add(name, "F32", shape, Buffer::CopyOf(values.data(), elements * 4));
    const std::string file = NewFile(name);
    SHOAL_RETURN_IF_ERROR(
        writer.Publish(storage_, options_.out, file).status());
    return Json{{"shape", shape}, {"file", file}};
  }

  StatusOr<Json> WriteTable(const CheckpointScan& scan, const std::string& name,
                            const CheckpointScan::Table& table) {
    const TableForm form = {.dim = table.form.dim, .format = table.form.format};
    GatheredRows gathered(form);
    Json files = Json::array();
    const auto flush = [&]() -> Status {
      TensorsWriter writer;
      gathered.MoveTo(writer, "", /*with_state=*/false);
      files.push_back(NewFile(name));
      return writer
          .Publish(storage_, options_.out, files.back().get<std::string>())
          .status();
    };
    SHOAL_RETURN_IF_ERROR(WalkRows(
        storage_, {&scan, 1}, name,
        [&](uint64_t id, const SlotSet& /*group*/,
            std::span<const RowRef> rows) {
          gathered.Add(id, rows[0].values, {});
          return gathered.IsFull(options_.piece_bytes_max) ? flush()
                                                           : OkStatus();
        }));
    if (!gathered.ids().empty()) {
      SHOAL_RETURN_IF_ERROR(flush());
    }
    return Json{{"dim", form.dim},
                {"dtype", FormatName(form.format)},
                {"rows", table.rows},
                {"files", std::move(files)}};
  }

  Storage& storage_;
  const ExportOptions& options_;
  int64_t num_files_ = 0;
};

}  // namespace

Status ExportCheckpoint(Storage& storage, const ExportOptions& options) {
  SHOAL_RETURN_IF_ERROR(CheckEmptyFolder(storage, options.out));
  SHOAL_ASSIGN_OR_RETURN(const CheckpointScan scan,
                         ScanCheckpoint(storage, options.checkpoint));
  const Status written = Exporter(storage, options).Write(scan);
  if (!written.ok()) {
    (void)storage.Remove(options.out);
  }
  return written;
}

}  // namespace shoal::ps
