#ifndef SHOAL_WORKER_REPORT_CRC32C_H_
#define SHOAL_WORKER_REPORT_CRC32C_H_

#include <cstdint>
#include <string_view>

namespace shoal::worker {

// The CRC of RFC 3720 (Castagnoli's polynomial, 0x1EDC6F41).
uint32_t Crc32c(std::string_view bytes);

// As TFRecord files store it, so that the CRC of data that holds CRCs is not
// special.
uint32_t MaskedCrc32c(std::string_view bytes);

}  // namespace shoal::worker

#endif  // SHOAL_WORKER_REPORT_CRC32C_H_
