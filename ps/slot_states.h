#ifndef SHOAL_PS_SLOT_STATES_H_
#define SHOAL_PS_SLOT_STATES_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "comm/message.h"
#include "ps/dense_layout.h"
#include "ps/dense_store.h"
#include "ps/sparse_table.h"

namespace shoal::ps {

// A bit for each slot of a portion, and back. Errors: kInvalidArgument (not as
// many bits as slots).
std::string SlotBits(const Portion& portion);
StatusOr<std::vector<bool>> SlotsOfBits(const std::string& bits,
                                        int64_t num_slots);

// All that the slots of `portion` hold, as frames 1 and on of
// wire::SlotStates; none if a table's status() is not OK.
std::vector<Buffer> CopySlots(
    std::span<const std::unique_ptr<SparseTable>> tables,
    const DenseStore& dense, const Portion& portion);

// Puts it in the place of what `tables` and `dense` have of these slots.
// Checked as a whole before the first write. Errors: kInvalidArgument, saying
// what is wrong.
Status TakeSlots(const comm::Message& message, const Portion& portion,
                 int slot_bits,
                 std::span<const std::unique_ptr<SparseTable>> tables,
                 DenseStore& dense);

// Rows and chunks of the slots away.
void DropSlots(const Portion& portion,
               std::span<const std::unique_ptr<SparseTable>> tables,
               DenseStore& dense);

}  // namespace shoal::ps

#endif  // SHOAL_PS_SLOT_STATES_H_
