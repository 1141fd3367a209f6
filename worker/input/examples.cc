#include "worker/input/examples.h"

#include <algorithm>

#include "base/strcat.h"

namespace shoal::worker {
namespace {

int64_t LastRow(const RowSelection& rows, int64_t file_rows) {
  return rows.end < 0 ? file_rows : std::min(rows.end, file_rows);
}

// How many of [0, n) are congruent to `part`.
int64_t CountCongruent(int64_t n, int64_t modulus, int64_t part) {
  return n <= part ? 0 : (n - part - 1) / modulus + 1;
}

}  // namespace

int64_t RowSelection::num_rows(int64_t file_rows) const {
  const int64_t last = LastRow(*this, file_rows);
  int64_t selected = std::max<int64_t>(0, last - begin);
  if (modulus > 0) {
    const int64_t congruent =
        std::max<int64_t>(0, CountCongruent(last, modulus, part) -
                                 CountCongruent(begin, modulus, part));
    selected = inverted ? selected - congruent : congruent;
  }
  selected = std::max<int64_t>(0, selected - skip);
  return count < 0 ? selected : std::min(selected, count);
}

int64_t RowSelection::row(int64_t position) const {
  const int64_t at = position + skip;
  if (modulus == 0) {
    return begin + at;
  }
  if (!inverted) {
    return (CountCongruent(begin, modulus, part) + at) * modulus + part;
  }
  // Rows that are not congruent come in runs of modulus - 1.
  const int64_t before = begin - CountCongruent(begin, modulus, part);
  const int64_t k = before + at;
  const int64_t rest = k % (modulus - 1);
  return k / (modulus - 1) * modulus + rest + (rest >= part ? 1 : 0);
}

Examples::Examples(std::shared_ptr<const RecordFile> file, RowSelection rows)
    : file_(std::move(file)),
      rows_(rows),
      num_rows_(rows.num_rows(file_->num_rows())) {}

StatusOr<Examples> Examples::Open(const std::string& path, RowSelection rows) {
  SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<const RecordFile> file,
                         RecordFile::Open(path));
  if (rows.begin < 0 || rows.skip < 0 || rows.modulus < 0 ||
      rows.modulus == 1 || rows.part < 0 ||
      (rows.modulus > 0 && rows.part >= rows.modulus)) {
    return InvalidArgumentError(StrCat(path, ": rows with i % ", rows.modulus,
                                       " == ", rows.part, " from ", rows.begin,
                                       " on are no selection"));
  }
  return Examples(std::move(file), rows);
}

}  // namespace shoal::worker
