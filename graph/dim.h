#ifndef SHOAL_GRAPH_DIM_H_
#define SHOAL_GRAPH_DIM_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "kernels/shape.h"

namespace shoal::graph {

// The size of an axis: a constant, or coef * symbol + offset where a symbol is
// a small number that a graph names ("batch", "rows:embedding") and that gets a
// value from run to run. coef >= 0; a constant has no symbol.
class Dim {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): `{batch, 13}` reads well.
  constexpr Dim(int64_t constant = 0) : offset_(constant) {}
  static constexpr Dim Symbol(int symbol) { return Dim(1, symbol, 0); }

  constexpr bool is_constant() const { return symbol_ < 0; }
  constexpr int symbol() const { return symbol_; }  // -1: a constant
  constexpr int64_t coef() const { return coef_; }
  constexpr int64_t offset() const { return offset_; }

  // `values` has one number per symbol. The arithmetic does not check for
  // overflow: see EvalChecked().
  constexpr int64_t Eval(std::span<const int64_t> values) const {
    return is_constant()
               ? offset_
               : coef_ * values[static_cast<size_t>(symbol_)] + offset_;
  }

  // Nothing if the result does not fit an int64.
  std::optional<int64_t> EvalChecked(std::span<const int64_t> values) const;

  // "13", "batch", "26*batch+1".
  std::string ToString(std::span<const std::string> symbol_names) const;

  friend constexpr bool operator==(const Dim&, const Dim&) = default;

  // Nothing if the result is no Dim (two symbols) or does not fit an int64.
  static std::optional<Dim> Sum(const Dim& a, const Dim& b);
  static std::optional<Dim> Product(const Dim& a, const Dim& b);
  // a / n where that is exact for every value of the symbol; n > 0.
  static std::optional<Dim> Quotient(const Dim& a, int64_t n);

 private:
  constexpr Dim(int64_t coef, int symbol, int64_t offset)
      : coef_(coef), offset_(offset), symbol_(symbol) {}
  // A coefficient of zero makes a constant.
  static Dim Make(int64_t coef, int symbol, int64_t offset);

  int64_t coef_ = 0;
  int64_t offset_ = 0;
  int symbol_ = -1;
};

// For model code, where sizes are small: a result that does not exist is a
// negative constant, which the builder refuses.
Dim operator*(const Dim& a, const Dim& b);
Dim operator+(const Dim& a, const Dim& b);

// The sizes of a tensor, at most Shape::kRankMax of them.
class SymbolicShape {
 public:
  SymbolicShape() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): `{batch, 13}` reads well.
  SymbolicShape(std::initializer_list<Dim> dims)
      : SymbolicShape(std::span<const Dim>(dims.begin(), dims.size())) {}
  explicit SymbolicShape(std::span<const Dim> dims) {
    SHOAL_CHECK(dims.size() <= Shape::kRankMax);
    for (const Dim& dim : dims) {
      dims_[static_cast<size_t>(rank_++)] = dim;
    }
  }

  int rank() const { return rank_; }
  const Dim& dim(int axis) const { return dims_[static_cast<size_t>(axis)]; }
  std::span<const Dim> dims() const {
    return {dims_.data(), static_cast<size_t>(rank_)};
  }

  // Nothing if it is no Dim.
  std::optional<Dim> NumElements() const;

  Shape Eval(std::span<const int64_t> values) const;

  // "[batch,13]".
  std::string ToString(std::span<const std::string> symbol_names) const;

  friend bool operator==(const SymbolicShape&, const SymbolicShape&) = default;

 private:
  std::array<Dim, Shape::kRankMax> dims_ = {};
  int rank_ = 0;
};

}  // namespace shoal::graph

#endif  // SHOAL_GRAPH_DIM_H_
