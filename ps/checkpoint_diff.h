#ifndef SHOAL_PS_CHECKPOINT_DIFF_H_
#define SHOAL_PS_CHECKPOINT_DIFF_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/storage.h"
#include "ps/checkpoint_parts.h"

namespace shoal::ps {

// How two checkpoints differ, bit by bit. In the order of names.
struct CheckpointDifference {
  struct Table {
    std::string name;
    // None: it is not there. Rows of different `dim` are not compared and count
    // as different; those in different formats are compared as f32.
    std::optional<TableForm> form_a;
    std::optional<TableForm> form_b;
    int64_t rows_a = 0;
    int64_t rows_b = 0;
    int64_t only_a = 0;  // rows
    int64_t only_b = 0;
    int64_t values_differ = 0;  // rows of both
    int64_t state_differs = 0;  // rows of equal values
    double largest = 0;  // absolute difference of two values; NaN if one is

    bool same() const;
  };
  struct Variable {
    std::string name;
    int64_t elements_a = -1;  // -1: it is not there
    int64_t elements_b = -1;
    int64_t values_differ = 0;  // elements; not counted if numbers differ
    bool state_differs = false;
    double largest = 0;

    bool same() const;
  };

  int64_t step_a = 0;
  int64_t step_b = 0;
  std::vector<Table> tables;
  std::vector<Variable> variables;

  // Whether all rows and variables are; steps may differ.
  bool same() const;
};

// Compares the checkpoints in two folders. What it keeps in memory: their dense
// variables, and files as WalkRows() says.
// Errors: those of ScanCheckpoint() and WalkRows().
StatusOr<CheckpointDifference> DiffCheckpoints(Storage& storage,
                                               const std::string& a,
                                               const std::string& b);

}  // namespace shoal::ps

#endif  // SHOAL_PS_CHECKPOINT_DIFF_H_
