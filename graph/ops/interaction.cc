#include "base/strcat.h"
#include "graph/op.h"

namespace shoal::graph {
namespace {

Status FmShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 3));
  return ctx.SetOutput({ctx.input(0).dim(0), 1});
}

Status FmGradShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 3));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(1, {ctx.input(0).dim(0), 1}));
  return ctx.SetOutput(ctx.input(0));
}

// [b, f (f - 1) / 2]. Errors: kInvalidArgument.
StatusOr<SymbolicShape> PairsOf(const ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 3));
  const Dim& fields = ctx.input(0).dim(1);
  constexpr int64_t kFieldsMax = int64_t{1} << 20;
  if (!fields.is_constant() || fields.offset() > kFieldsMax) {
    return InvalidArgumentError(
        StrCat(ctx.Text(0),
               "; the number of fields must be a constant of at "
               "most ",
               kFieldsMax));
  }
  const int64_t f = fields.offset();
  return SymbolicShape({ctx.input(0).dim(0), f * (f - 1) / 2});
}

Status DotInteractionShape(ShapeContext& ctx) {
  SHOAL_ASSIGN_OR_RETURN(const SymbolicShape pairs, PairsOf(ctx));
  return ctx.SetOutput(pairs);
}

Status DotInteractionGradShape(ShapeContext& ctx) {
  SHOAL_ASSIGN_OR_RETURN(const SymbolicShape pairs, PairsOf(ctx));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(1, pairs));
  return ctx.SetOutput(ctx.input(0));
}

// y = sum over pairs of fields of their dot product, as
// 0.5 sum_d ((sum_f x)^2 - sum_f x^2) (Rendle 2010, lemma 3.1).
SHOAL_REGISTER_OP(FmInteraction)
    .Input("x", "[b,f,d]")
    .Output("y", "[b,1]")
    .ShapeFn(&FmShape)
    .Gradient({.op = "FmInteractionGrad",
               .args = {"x", "grad(y)"},
               .returns = {"grad(x)"}});

SHOAL_REGISTER_OP(FmInteractionGrad)
    .Input("x", "[b,f,d]")
    .Input("dy", "[b,1]")
    .Output("dx", "[b,f,d]")
    .ShapeFn(&FmGradShape)
    .NoGradient("it is a gradient itself");

// The dot products of pairs of fields (i, j), i > j, for i rising (DLRM).
SHOAL_REGISTER_OP(DotInteraction)
    .Input("x", "[b,f,d]")
    .Output("y", "[b,f*(f-1)/2]")
    .ShapeFn(&DotInteractionShape)
    .Gradient({.op = "DotInteractionGrad",
               .args = {"x", "grad(y)"},
               .returns = {"grad(x)"}});

SHOAL_REGISTER_OP(DotInteractionGrad)
    .Input("x", "[b,f,d]")
    .Input("dy", "[b,f*(f-1)/2]")
    .Output("dx", "[b,f,d]")
    .ShapeFn(&DotInteractionGradShape)
    .NoGradient("it is a gradient itself");

}  // namespace
}  // namespace shoal::graph
