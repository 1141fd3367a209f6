#ifndef SHOAL_WORKER_INPUT_RECORD_LAYOUT_H_
#define SHOAL_WORKER_INPUT_RECORD_LAYOUT_H_

#include <cstdint>

namespace shoal::worker {

// The first bytes of a `.shoalrec` file, little endian. The schema's JSON
// follows; the other sections start at multiples of 64 bytes:
//   rows       num_rows * record_bytes
//   bag ids    num_entries u64
//   weights    num_entries f32, or nothing when no bag is weighted
//   fitted     JSON of FittedTransforms
struct RecordHeader {
  char magic[8];  // kRecordMagic
  uint32_t version;
  uint32_t schema_bytes;
  uint64_t num_rows;
  uint64_t record_bytes;
  uint64_t num_entries;
  uint64_t rows_offset;
  uint64_t bag_ids_offset;
  uint64_t bag_weights_offset;
  uint64_t fitted_offset;
  uint64_t fitted_bytes;
  uint64_t fitted_checksum;  // HashText of the section
  uint64_t file_bytes;
  uint64_t checksum;  // HashText of the header up to here and of the schema
};
static_assert(sizeof(RecordHeader) == 104);

inline constexpr char kRecordMagic[8] = {'S', 'H', 'O', 'A',
                                         'L', 'R', 'E', 'C'};
inline constexpr uint32_t kRecordVersion = 2;

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_INPUT_RECORD_LAYOUT_H_
