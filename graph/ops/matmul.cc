#include "base/strcat.h"
#include "graph/op.h"
#include "graph/ops.h"
#include "kernels/gemm.h"

namespace shoal::graph {
namespace {

Status MatMulShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(1, 2));
  const int a_rows = ctx.int_attribute(0) != 0 ? 1 : 0;
  const int b_rows = ctx.int_attribute(1) != 0 ? 1 : 0;
  if (ctx.input(0).dim(1 - a_rows) != ctx.input(1).dim(b_rows)) {
    return InvalidArgumentError(StrCat(
        ctx.Text(0), a_rows == 1 ? " transposed" : "", " but ", ctx.Text(1),
        b_rows == 1 ? " transposed" : "", "; inner sizes must agree"));
  }
  return ctx.SetOutput(
      {ctx.input(0).dim(a_rows), ctx.input(1).dim(1 - b_rows)});
}

// With A = op(a) and B = op(b): dA = dY B^T and dB = A^T dY, transposed once
// more where the input was.
void MatMulGradient(GradientContext& ctx) {
  GraphBuilder& builder = ctx.builder();
  const bool ta = ctx.attributes().ints[0] != 0;
  const bool tb = ctx.attributes().ints[1] != 0;
  const NodeRef a = ctx.input(0);
  const NodeRef b = ctx.input(1);
  const NodeRef dy = ctx.dy();
  if (ctx.wants(0)) {
    ctx.SetGradient(0, ta ? MatMul(builder, b, dy, tb, true)
                          : MatMul(builder, dy, b, false, !tb));
  }
  if (ctx.wants(1)) {
    ctx.SetGradient(1, tb ? MatMul(builder, dy, a, true, ta)
                          : MatMul(builder, a, dy, !ta, false));
  }
}

Status BiasAddShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(1, 1));
  if (ctx.input(1).dim(0) != ctx.input(0).dim(1)) {
    return InvalidArgumentError(StrCat(ctx.Text(0), " but ", ctx.Text(1),
                                       "; a row of x must be as bias"));
  }
  return ctx.SetOutput(ctx.input(0));
}

void BiasAddGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ctx.dy());
  if (ctx.wants(1)) {
    ctx.SetGradient(1, ColumnSum(ctx.builder(), ctx.dy()));
  }
}

Status DenseShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(1, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(2, 1));
  if (ctx.input(0).dim(1) != ctx.input(1).dim(0) ||
      ctx.input(1).dim(1) != ctx.input(2).dim(0)) {
    return InvalidArgumentError(StrCat(
        ctx.Text(0), ", ", ctx.Text(1), " and ", ctx.Text(2),
        "; inner sizes must agree, and a row of the product be as bias"));
  }
  const auto activations = static_cast<int64_t>(Activation::kTanh) + 1;
  if (ctx.int_attribute(0) < 0 || ctx.int_attribute(0) >= activations) {
    return InvalidArgumentError(StrCat("activation ", ctx.int_attribute(0),
                                       " is outside [0, ", activations, ")"));
  }
  return ctx.SetOutput({ctx.input(0).dim(0), ctx.input(1).dim(1)});
}

// y = op(a) op(b), where op transposes if its attribute is not 0.
SHOAL_REGISTER_OP(MatMul)
    .Input("a", "[m,k]")
    .Input("b", "[k,n]")
    .Output("y", "[m,n]")
    .Ints({"transpose_a", "transpose_b"})
    .ShapeFn(&MatMulShape)
    .Gradient(&MatMulGradient);

// y[i,j] = x[i,j] + bias[j].
SHOAL_REGISTER_OP(BiasAdd)
    .Input("x", "[m,n]")
    .Input("bias", "[n]")
    .Output("y", "[m,n]")
    .ShapeFn(&BiasAddShape)
    .Gradient(&BiasAddGradient)
    .InPlace();

// y = activation(a b + bias); the activation is an Activation of
// kernels/gemm.h.
SHOAL_REGISTER_OP(Dense)
    .Input("a", "[m,k]")
    .Input("b", "[k,n]")
    .Input("bias", "[n]")
    .Output("y", "[m,n]")
    .Ints({"activation"})
    .ShapeFn(&DenseShape)
    .NoGradient("FuseLayers() makes it when gradients have been taken");

}  // namespace
}  // namespace shoal::graph
