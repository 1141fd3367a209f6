#include "ps/step_norms.h"

#include <cmath>
#include <cstdint>
#include <span>
#include <utility>

#include "base/buffer.h"
#include "ps/optimizers/row_loop.h"

namespace shoal::ps {
namespace {

// Row by row, or chunk by chunk: each is summed in doubles in one order,
// wherever it lies; between them nothing is rounded.
void AddSquares(const float* values, int64_t n, StepNorms& norms) {
  const double squares = SumOfSquares(values, n);
  if (std::isfinite(squares)) {
    norms.gradients.Add(squares);
  } else {
    norms.finite = false;  // A sum of finite f32 does not get there.
  }
}

Buffer Scale(std::span<const float> from, float factor) {
  Buffer to = Buffer::Allocate(static_cast<int64_t>(from.size_bytes()));
  float* const out = to.MutableAs<float>().data();
  for (size_t i = 0; i < from.size(); ++i) {
    out[i] = from[i] * factor;
  }
  return to;
}

}  // namespace

StepNorms NormsOf(const Piece& sum, const Portion& portion,
                  const DenseStore& dense, double loss_scale) {
  StepNorms norms;
  for (const GroupGradients& group : sum.groups) {
    for (const std::span<const float> table : group.tables) {
      const size_t n = group.ids.size();
      const size_t dim = n == 0 ? 0 : table.size() / n;
      for (size_t row = 0; row < n; ++row) {
        AddSquares(table.data() + row * dim, static_cast<int64_t>(dim), norms);
      }
    }
  }
  const float* from = sum.dense.data();
  for (const DenseChunk& chunk : portion.chunks) {
    AddSquares(from, chunk.count, norms);
    from += chunk.count;
  }
  if (norms.finite && dense.needs_norms()) {
    norms.layers.resize(dense.num_variables());
    const Buffer scaled =
        loss_scale == 1 ? Buffer()
                        : Scale(sum.dense, static_cast<float>(1 / loss_scale));
    norms.finite = dense.AddNorms(
        portion.chunks, loss_scale == 1 ? sum.dense : scaled.As<float>(),
        norms.layers);
  }
  return norms;
}

Piece Scaled(const Piece& piece, double factor) {
  Piece out = piece;
  const auto f = static_cast<float>(factor);
  for (GroupGradients& group : out.groups) {
    for (std::span<const float>& table : group.tables) {
      Buffer scaled = Scale(table, f);
      table = scaled.As<float>();
      out.owners.push_back(std::move(scaled));
    }
  }
  Buffer dense = Scale(piece.dense, f);
  out.dense = dense.As<float>();
  out.owners.push_back(std::move(dense));
  return out;
}

}  // namespace shoal::ps
