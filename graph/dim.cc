#include "graph/dim.h"

#include "base/strcat.h"

namespace shoal::graph {
namespace {

std::optional<int64_t> CheckedAdd(int64_t a, int64_t b) {
  int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) {
    return std::nullopt;
  }
  return sum;
}

std::optional<int64_t> CheckedMultiply(int64_t a, int64_t b) {
  int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) {
    return std::nullopt;
  }
  return product;
}

}  // namespace

Dim Dim::Make(int64_t coef, int symbol, int64_t offset) {
  return coef == 0 ? Dim(offset) : Dim(coef, symbol, offset);
}

std::optional<int64_t> Dim::EvalChecked(std::span<const int64_t> values) const {
  if (is_constant()) {
    return offset_;
  }
  const std::optional<int64_t> product =
      CheckedMultiply(coef_, values[static_cast<size_t>(symbol_)]);
  return product ? CheckedAdd(*product, offset_) : std::nullopt;
}

std::string Dim::ToString(std::span<const std::string> symbol_names) const {
  if (is_constant()) {
    return StrCat(offset_);
  }
  const auto number = static_cast<size_t>(symbol_);
  std::string text = number < symbol_names.size() ? symbol_names[number]
                                                  : StrCat("symbol", symbol_);
  if (coef_ != 1) {
    text = StrCat(coef_, "*", text);
  }
  if (offset_ != 0) {
    text += StrCat(offset_ > 0 ? "+" : "", offset_);
  }
  return text;
}

std::optional<Dim> Dim::Sum(const Dim& a, const Dim& b) {
  if (!a.is_constant() && !b.is_constant() && a.symbol_ != b.symbol_) {
    return std::nullopt;
  }
  const std::optional<int64_t> coef = CheckedAdd(a.coef_, b.coef_);
  const std::optional<int64_t> offset = CheckedAdd(a.offset_, b.offset_);
  if (!coef || !offset) {
    return std::nullopt;
  }
  return Make(*coef, a.is_constant() ? b.symbol_ : a.symbol_, *offset);
}

std::optional<Dim> Dim::Product(const Dim& a, const Dim& b) {
  if (!a.is_constant() && !b.is_constant()) {
    return std::nullopt;
  }
  const Dim& factor = a.is_constant() ? a : b;
  const Dim& dim = a.is_constant() ? b : a;
  const std::optional<int64_t> coef =
      CheckedMultiply(dim.coef_, factor.offset_);
  const std::optional<int64_t> offset =
      CheckedMultiply(dim.offset_, factor.offset_);
  if (!coef || !offset) {
    return std::nullopt;
  }
  return Make(*coef, dim.symbol_, *offset);
}

std::optional<Dim> Dim::Quotient(const Dim& a, int64_t n) {
  if (n <= 0 || a.coef_ % n != 0 || a.offset_ % n != 0) {
    return std::nullopt;
  }
  return Make(a.coef_ / n, a.symbol_, a.offset_ / n);
}

Dim operator*(const Dim& a, const Dim& b) {
  return Dim::Product(a, b).value_or(Dim(-1));
}

Dim operator+(const Dim& a, const Dim& b) {
  return Dim::Sum(a, b).value_or(Dim(-1));
}

std::optional<Dim> SymbolicShape::NumElements() const {
  std::optional<Dim> product = Dim(1);
  for (const Dim& dim : dims()) {
    product = Dim::Product(*product, dim);
    if (!product) {
      return std::nullopt;
    }
  }
  return product;
}

Shape SymbolicShape::Eval(std::span<const int64_t> values) const {
  std::array<int64_t, Shape::kRankMax> sizes = {};
  for (int i = 0; i < rank_; ++i) {
    sizes[static_cast<size_t>(i)] = dim(i).Eval(values);
  }
  return Shape(
      std::span<const int64_t>(sizes.data(), static_cast<size_t>(rank_)));
}

std::string SymbolicShape::ToString(
    std::span<const std::string> symbol_names) const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    text += (i == 0 ? "" : ",") + dim(i).ToString(symbol_names);
  }
  return text + "]";
}

}  // namespace shoal::graph
