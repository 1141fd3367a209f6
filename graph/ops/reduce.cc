#include "base/strcat.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

Status ColumnSumShape(ShapeContext& ctx) {
  const SymbolicShape& x = ctx.input(0);
  if (x.rank() < 1) {
    return InvalidArgumentError(StrCat(ctx.Text(0), "; it must have an axis"));
  }
  return ctx.SetOutput({x.dim(x.rank() - 1)});
}

void ColumnSumGradient(GradientContext& ctx) {
  ctx.SetGradient(0,
                  ctx.builder().Op("BroadcastRow", {ctx.dy(), ctx.input(0)}));
}

Status RowSumShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 2));
  return ctx.SetOutput({ctx.input(0).dim(0), 1});
}

void RowSumGradient(GradientContext& ctx) {
  ctx.SetGradient(0,
                  ctx.builder().Op("BroadcastCol", {ctx.dy(), ctx.input(0)}));
}

Status ScalarShape(ShapeContext& ctx) { return ctx.SetOutput({1}); }

void ReduceSumGradient(GradientContext& ctx) {
  ctx.SetGradient(
      0, ctx.builder().Op("BroadcastScalar", {ctx.dy(), ctx.input(0)}));
}

void L2PenaltyGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ScaleBy(ctx.builder(), ctx.input(0), ctx.dy()));
}

Status DotShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectSame(0, 1));
  return ctx.SetOutput({1});
}

void DotGradient(GradientContext& ctx) {
  for (const int i : {0, 1}) {
    if (ctx.wants(i)) {
      ctx.SetGradient(i, ScaleBy(ctx.builder(), ctx.input(1 - i), ctx.dy()));
    }
  }
}

Status BroadcastRowShape(ShapeContext& ctx) {
  const SymbolicShape& like = ctx.input(1);
  if (like.rank() < 1) {
    return InvalidArgumentError(StrCat(ctx.Text(1), "; it must have an axis"));
  }
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(0, {like.dim(like.rank() - 1)}));
  return ctx.SetOutput(like);
}

void BroadcastRowGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ColumnSum(ctx.builder(), ctx.dy()));
}

Status BroadcastColShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(1, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(0, {ctx.input(1).dim(0), 1}));
  return ctx.SetOutput(ctx.input(1));
}

void BroadcastColGradient(GradientContext& ctx) {
  ctx.SetGradient(0, RowSum(ctx.builder(), ctx.dy()));
}

Status BroadcastScalarShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(0, {1}));
  return ctx.SetOutput(ctx.input(1));
}

void BroadcastScalarGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ReduceSum(ctx.builder(), ctx.dy()));
}

// y[j] = sum over all leading axes of x[..., j].
SHOAL_REGISTER_OP(ColumnSum)
    .Input("x", "[m,n]")
    .Output("y", "[n]")
    .ShapeFn(&ColumnSumShape)
    .Gradient(&ColumnSumGradient);

// y[i] = sum_j x[i,j].
SHOAL_REGISTER_OP(RowSum)
    .Input("x", "[m,n]")
    .Output("y", "[m,1]")
    .ShapeFn(&RowSumShape)
    .Gradient(&RowSumGradient);

SHOAL_REGISTER_OP(ReduceSum)
    .Input("x", "[...]")
    .Output("y", "[1]")
    .ShapeFn(&ScalarShape)
    .Gradient(&ReduceSumGradient);

// y = sum x^2 / 2.
SHOAL_REGISTER_OP(L2Penalty)
    .Input("x", "[...]")
    .Output("y", "[1]")
    .ShapeFn(&ScalarShape)
    .Gradient(&L2PenaltyGradient);

// y = sum a * b.
SHOAL_REGISTER_OP(Dot)
    .Input("a", "[...]")
    .Input("b", "as a")
    .Output("y", "[1]")
    .ShapeFn(&DotShape)
    .Gradient(&DotGradient);

// y[..., j] = x[j].
SHOAL_REGISTER_OP(BroadcastRow)
    .Input("x", "[n]")
    .ShapeOf("like", "[m,n]")
    .Output("y", "as like")
    .ShapeFn(&BroadcastRowShape)
    .Gradient(&BroadcastRowGradient);

// y[i,j] = x[i].
SHOAL_REGISTER_OP(BroadcastCol)
    .Input("x", "[m,1]")
    .ShapeOf("like", "[m,n]")
    .Output("y", "as like")
    .ShapeFn(&BroadcastColShape)
    .Gradient(&BroadcastColGradient);

SHOAL_REGISTER_OP(BroadcastScalar)
    .Input("x", "[1]")
    .ShapeOf("like", "[...]")
    .Output("y", "as like")
    .ShapeFn(&BroadcastScalarShape)
    .Gradient(&BroadcastScalarGradient);

}  // namespace
}  // namespace shoal::graph
