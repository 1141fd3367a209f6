#ifndef SHOAL_KERNELS_LOOPS_H_
#define SHOAL_KERNELS_LOOPS_H_

#include <cstdint>

namespace shoal {

// The inner loops of the CPU kernels. `loops_impl.h` writes them once and is
// compiled for each instruction set (loops_scalar.cc, loops_avx2.cc,
// loops_avx512.cc); ActiveLoops() picks one set at run time.
//
// All sets give the same bits: no multiply-add is fused, and a reduction adds
// to 16 lanes in turn, which one fixed tree then sums, whatever the width of
// the registers. Nothing here checks its arguments or allocates.

enum class ElementwiseOp : int {
#define SHOAL_ELEMENTWISE(op, fn, inputs, outputs) k##op,
#define SHOAL_ELEMENTWISE_FLOAT(op, fn, inputs) k##op,
#define SHOAL_ELEMENTWISE_SCALAR(op, fn, inputs) k##op,
#include "kernels/elementwise_ops.inc"
#undef SHOAL_ELEMENTWISE
#undef SHOAL_ELEMENTWISE_FLOAT
#undef SHOAL_ELEMENTWISE_SCALAR
  kCount
};

// Elements [begin, end); `uniform` is the argument that all elements share.
using ElementwiseLoop = void (*)(const float* const* inputs, float uniform,
                                 float* const* outputs, int64_t begin,
                                 int64_t end);

// Where the contributions of rows' gradients come from: position j adds
// weights[j] * dy[segments[j]] (null: 1 and j) to row index[j].
struct RowGradients {
  const float* dy;  // [*, dim]
  int64_t dim;
  const int32_t* index;
  const int32_t* segments;
  const float* weights;
};

// Runs of this many rows are dealt out in turn to `count` shares, a power of
// two, so that one with many contributions hardly makes a share heavy.
inline constexpr int64_t kRowsTogether = 16;
struct RowShare {
  int64_t number;
  int64_t count;
};

// Bags [begin, end) of weighted sums; empty ones are 0; divided by the
// number of positions if `mean`.
struct Bags {
  const float* rows;  // [*, dim]
  int64_t dim;
  const int32_t* index;
  const int32_t* offsets;
  const float* weights;
  bool mean;
};

// Examples of `fields` vectors of `dim` numbers.
struct FieldVectors {
  const float* x;  // [*, fields, dim]
  int64_t fields;
  int64_t dim;
};

struct Loops {
  ElementwiseLoop elementwise[static_cast<int>(ElementwiseOp::kCount)];

  // y[n] is the sum of `count` inputs, in order; it may be inputs[0].
  void (*add_n)(const float* const* inputs, int64_t count, int64_t n, float* y);
  void (*bias_add)(const float* x, const float* bias, int64_t rows, int64_t n,
                   float* y);
  void (*dropout)(const float* x, uint64_t seed, float rate, float scale,
                  int64_t begin, int64_t end, float* y);

  float (*sum)(const float* x, int64_t n);
  float (*dot)(const float* a, const float* b, int64_t n);
  // y[begin, end) of the column sums of x[m, n]: blocks of 64 rows, then a
  // binary tree over the blocks.
  void (*column_sum)(const float* x, int64_t m, int64_t n, int64_t begin,
                     int64_t end, float* y);

  // The largest, taken as unsigned; 0 if n is 0.
  uint32_t (*max_index)(const int32_t* index, int64_t n);
  void (*gather)(const float* rows, int64_t dim, const int32_t* index,
                 int64_t n, float* y);
  // Sets the rows of `share` among drows[rows, dim] to the sums of their
  // contributions from positions [0, n), in order.
  void (*scatter_add)(const RowGradients& g, const RowShare& share, int64_t n,
                      int64_t rows, float* drows);
  void (*bag_pool)(const Bags& bags, int64_t begin, int64_t end, float* y);

  // Examples [begin, end).
  void (*fm)(const FieldVectors& v, int64_t begin, int64_t end, float* y);
  void (*fm_grad)(const FieldVectors& v, const float* dy, int64_t begin,
                  int64_t end, float* dx);
  void (*dot_interaction)(const FieldVectors& v, int64_t begin, int64_t end,
                          float* y);
  void (*dot_interaction_grad)(const FieldVectors& v, const float* dy,
                               int64_t begin, int64_t end, float* dx);

  // Rows [begin, end) of [*, classes]. Labels are whole numbers in
  // [0, classes).
  void (*softmax)(const float* logits, int64_t classes, int64_t begin,
                  int64_t end, float* y);
  void (*softmax_loss)(const float* logits, const float* labels,
                       int64_t classes, int64_t begin, int64_t end,
                       float* loss);
  void (*softmax_loss_grad)(const float* logits, const float* labels,
                            const float* dloss, int64_t classes, int64_t begin,
                            int64_t end, float* dlogits);
};

const Loops& ScalarLoops();
#if defined(__x86_64__)
const Loops& Avx2Loops();
const Loops& Avx512Loops();
#endif

// Those of ActiveSimdPath().
const Loops& ActiveLoops();

}  // namespace shoal

#endif  // SHOAL_KERNELS_LOOPS_H_
