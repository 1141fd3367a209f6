#include "ps/checkpoint_diff.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <utility>

#include "ps/checkpoint_scan.h"
#include "ps/row_format.h"

namespace shoal::ps {
namespace {

template <typename T>
bool SameBits(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// The elements that differ; `largest` grows to the largest difference.
int64_t CompareValues(std::span<const float> a, std::span<const float> b,
                      double& largest) {
  int64_t differing = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) == 0) {
      continue;
    }
    ++differing;
    const double difference =
        std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    // Once NaN, it stays.
    if (std::isnan(difference) || difference > largest) {
      largest = difference;
    }
  }
  return differing;
}

StatusOr<CheckpointDifference::Table> DiffTable(
    Storage& storage, std::span<const CheckpointScan> scans,
    const std::string& name) {
  CheckpointDifference::Table out{.name = name};
  const auto form = [&](const CheckpointScan& scan, int64_t& rows) {
    const auto it = scan.tables.find(name);
    if (it == scan.tables.end()) {
      return std::optional<TableForm>();
    }
    rows = it->second.rows;
    return std::optional<TableForm>(it->second.form);
  };
  out.form_a = form(scans[0], out.rows_a);
  out.form_b = form(scans[1], out.rows_b);
  std::vector<float> a;
  std::vector<float> b;
  SHOAL_RETURN_IF_ERROR(WalkRows(
      storage, scans, name,
      [&](uint64_t /*id*/, const SlotSet& /*group*/,
          std::span<const RowRef> rows) {
        if (!rows[0].present || !rows[1].present) {
          ++(rows[0].present ? out.only_a : out.only_b);
          return OkStatus();
        }
        if (out.form_a->format == out.form_b->format &&
            SameBits(rows[0].values, rows[1].values)) {
          out.state_differs += SameBits(rows[0].state, rows[1].state) ? 0 : 1;
          return OkStatus();
        }
        if (out.form_a->dim != out.form_b->dim) {
          ++out.values_differ;
          return OkStatus();
        }
        a.resize(static_cast<size_t>(out.form_a->dim));
        b.resize(a.size());
        WidenValues(out.form_a->format, rows[0].values.data(), a);
        WidenValues(out.form_b->format, rows[1].values.data(), b);
        if (CompareValues(a, b, out.largest) > 0) {
          ++out.values_differ;
        } else if (!SameBits(rows[0].state, rows[1].state)) {
          ++out.state_differs;
        }
        return OkStatus();
      }));
  return out;
}

struct Flat {
  std::vector<float> values;
  std::vector<float> state;
};

// A variable's chunks one after another; none: it is not there.
std::optional<Flat> Flatten(const CheckpointScan& scan,
                            const std::string& name) {
  const auto it = scan.variables.find(name);
  if (it == scan.variables.end()) {
    return std::nullopt;
  }
  Flat flat;
  for (const auto& [first, chunk] : it->second) {
    const auto values = chunk.values.As<float>();
    const auto state = chunk.state.As<float>();
    flat.values.insert(flat.values.end(), values.begin(), values.end());
    flat.state.insert(flat.state.end(), state.begin(), state.end());
  }
  return flat;
}

CheckpointDifference::Variable DiffVariable(
    std::span<const CheckpointScan> scans, const std::string& name) {
  CheckpointDifference::Variable out{.name = name};
  const std::optional<Flat> a = Flatten(scans[0], name);
  const std::optional<Flat> b = Flatten(scans[1], name);
  if (a.has_value()) {
    out.elements_a = static_cast<int64_t>(a->values.size());
  }
  if (b.has_value()) {
    out.elements_b = static_cast<int64_t>(b->values.size());
  }
  if (out.elements_a == out.elements_b) {
    out.values_differ = CompareValues(a->values, b->values, out.largest);
    out.state_differs =
        !SameBits(std::span<const float>(a->state), std::span(b->state));
  }
  return out;
}

template <typename Map>
std::set<std::string> NamesOf(const Map& a, const Map& b) {
  std::set<std::string> names;
  for (const Map* map : {&a, &b}) {
    for (const auto& [name, value] : *map) {
      names.insert(name);
    }
  }
  return names;
}

}  // namespace

bool CheckpointDifference::Table::same() const {
  return form_a == form_b && only_a == 0 && only_b == 0 && values_differ == 0 &&
         state_differs == 0;
}

bool CheckpointDifference::Variable::same() const {
  return elements_a == elements_b && values_differ == 0 && !state_differs;
}

bool CheckpointDifference::same() const {
  const auto is_same = [](const auto& part) { return part.same(); };
  return std::all_of(tables.begin(), tables.end(), is_same) &&
         std::all_of(variables.begin(), variables.end(), is_same);
}

StatusOr<CheckpointDifference> DiffCheckpoints(Storage& storage,
                                               const std::string& a,
                                               const std::string& b) {
  CheckpointScan scans[2];
  SHOAL_ASSIGN_OR_RETURN(scans[0], ScanCheckpoint(storage, a));
  SHOAL_ASSIGN_OR_RETURN(scans[1], ScanCheckpoint(storage, b));
  CheckpointDifference difference{.step_a = scans[0].manifest.step,
                                  .step_b = scans[1].manifest.step};
  for (const std::string& name : NamesOf(scans[0].tables, scans[1].tables)) {
    SHOAL_ASSIGN_OR_RETURN(difference.tables.emplace_back(),
                           DiffTable(storage, scans, name));
  }
  for (const std::string& name :
       NamesOf(scans[0].variables, scans[1].variables)) {
    difference.variables.push_back(DiffVariable(scans, name));
  }
  return difference;
}

}  // namespace shoal::ps
