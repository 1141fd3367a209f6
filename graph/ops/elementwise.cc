#include <cmath>

#include "base/strcat.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

constexpr char kIsGradient[] = "it is a gradient itself";

void AddGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ctx.dy());
  ctx.SetGradient(1, ctx.dy());
}

void SubGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ctx.dy());
  if (ctx.wants(1)) {
    ctx.SetGradient(1, Scale(ctx.builder(), ctx.dy(), -1.0));
  }
}

void MulGradient(GradientContext& ctx) {
  for (const int i : {0, 1}) {
    if (ctx.wants(i)) {
      ctx.SetGradient(i, Mul(ctx.builder(), ctx.dy(), ctx.input(1 - i)));
    }
  }
}

void AddNGradient(GradientContext& ctx) {
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    ctx.SetGradient(i, ctx.dy());
  }
}

void ScaleGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ctx.builder().Op("Scale", {ctx.dy()}, ctx.attributes()));
}

Status ScaleByShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(1, {1}));
  return ctx.SetOutput(ctx.input(0));
}

void ScaleByGradient(GradientContext& ctx) {
  if (ctx.wants(0)) {
    ctx.SetGradient(0, ScaleBy(ctx.builder(), ctx.dy(), ctx.input(1)));
  }
  if (ctx.wants(1)) {
    ctx.SetGradient(1, Dot(ctx.builder(), ctx.dy(), ctx.input(0)));
  }
}

Status DropoutShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(1, {1}));
  const double rate = ctx.float_attribute(0);
  // The kernel's arithmetic is f32.
  if (!(rate >= 0 && static_cast<float>(rate) < 1.0F)) {
    return InvalidArgumentError(
        StrCat("rate is ", rate, "; it must be at least 0 and below 1"));
  }
  return ctx.SetOutput(ctx.input(0));
}

Status CrossCombineGradShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(AllSame(ctx));
  return ctx.SetOutput(ctx.input(0));
}

void CrossCombineGradient(GradientContext& ctx) {
  if (ctx.wants(0) || ctx.wants(1)) {
    GraphBuilder& b = ctx.builder();
    const NodeRef grad =
        b.Op("CrossCombineGrad", {ctx.input(0), ctx.input(1), ctx.dy()});
    ctx.SetGradient(0, grad);
    ctx.SetGradient(1, b.Output(grad, 1));
  }
  ctx.SetGradient(2, ctx.dy());
}

// y = a + b.
SHOAL_REGISTER_OP(Add)
    .Input("a", "[...]")
    .Input("b", "as a")
    .Output("y", "as a")
    .ShapeFn(&AllSame)
    .Gradient(&AddGradient)
    .InPlace();

// y = a - b.
SHOAL_REGISTER_OP(Sub)
    .Input("a", "[...]")
    .Input("b", "as a")
    .Output("y", "as a")
    .ShapeFn(&AllSame)
    .Gradient(&SubGradient)
    .InPlace();

// y = a * b, element by element.
SHOAL_REGISTER_OP(Mul)
    .Input("a", "[...]")
    .Input("b", "as a")
    .Output("y", "as a")
    .ShapeFn(&AllSame)
    .Gradient(&MulGradient)
    .InPlace();

// y = x[0] + x[1] + ..., in that order.
SHOAL_REGISTER_OP(AddN)
    .Inputs("x", "[...]")
    .Output("y", "as x")
    .ShapeFn(&AllSame)
    .Gradient(&AddNGradient)
    .InPlace();

// y = alpha * x.
SHOAL_REGISTER_OP(Scale)
    .Input("x", "[...]")
    .Output("y", "as x")
    .Floats({"alpha"})
    .ShapeFn(&SameAsFirst)
    .Gradient(&ScaleGradient)
    .InPlace();

// y = s[0] * x.
SHOAL_REGISTER_OP(ScaleBy)
    .Input("x", "[...]")
    .Input("s", "[1]")
    .Output("y", "as x")
    .ShapeFn(&ScaleByShape)
    .Gradient(&ScaleByGradient)
    .InPlace();

SHOAL_REGISTER_OP(Relu)
    .Input("x", "[...]")
    .Output("y", "as x")
    .ShapeFn(&SameAsFirst)
    .Gradient({.op = "ReluGrad",
               .args = {"y", "grad(y)"},
               .returns = {"grad(x)"}})
    .InPlace();

SHOAL_REGISTER_OP(ReluGrad)
    .Input("y", "[...]")
    .Input("dy", "as y")
    .Output("dx", "as y")
    .ShapeFn(&AllSame)
    .NoGradient(kIsGradient)
    .InPlace();

SHOAL_REGISTER_OP(Sigmoid)
    .Input("x", "[...]")
    .Output("y", "as x")
    .ShapeFn(&SameAsFirst)
    .Gradient({.op = "SigmoidGrad",
               .args = {"y", "grad(y)"},
               .returns = {"grad(x)"}})
    .InPlace();

SHOAL_REGISTER_OP(SigmoidGrad)
    .Input("y", "[...]")
    .Input("dy", "as y")
    .Output("dx", "as y")
    .ShapeFn(&AllSame)
    .NoGradient(kIsGradient)
    .InPlace();

SHOAL_REGISTER_OP(Tanh)
    .Input("x", "[...]")
    .Output("y", "as x")
    .ShapeFn(&SameAsFirst)
    .Gradient({.op = "TanhGrad",
               .args = {"y", "grad(y)"},
               .returns = {"grad(x)"}})
    .InPlace();

SHOAL_REGISTER_OP(TanhGrad)
    .Input("y", "[...]")
    .Input("dy", "as y")
    .Output("dx", "as y")
    .ShapeFn(&AllSame)
    .NoGradient(kIsGradient)
    .InPlace();

SHOAL_REGISTER_OP(Square)
    .Input("x", "[...]")
    .Output("y", "as x")
    .ShapeFn(&SameAsFirst)
    .Gradient({.op = "SquareGrad",
               .args = {"x", "grad(y)"},
               .returns = {"grad(x)"}})
    .InPlace();

SHOAL_REGISTER_OP(SquareGrad)
    .Input("x", "[...]")
    .Input("dy", "as x")
    .Output("dx", "as x")
    .ShapeFn(&AllSame)
    .NoGradient(kIsGradient)
    .InPlace();

// Element i is kept, times 1 / (1 - rate), or is 0, as the hash of the seed and
// i says.
SHOAL_REGISTER_OP(Dropout)
    .Input("x", "[...]")
    .ConstantInput("seed", "[1]", DType::kU64)
    .Output("y", "as x")
    .Floats({"rate"})
    .ShapeFn(&DropoutShape)
    .Gradient({.op = "DropoutGrad",
               .args = {"grad(y)", "seed"},
               .returns = {"grad(x)"}})
    .InPlace();

SHOAL_REGISTER_OP(DropoutGrad)
    .Input("dy", "[...]")
    .ConstantInput("seed", "[1]", DType::kU64)
    .Output("dx", "as dy")
    .Floats({"rate"})
    .ShapeFn(&DropoutShape)
    .NoGradient(kIsGradient)
    .InPlace();

// y = x0 * z + xl: one cross layer of DCN v2 (Wang et al. 2021, eq. 1) once
// z = xl W + b is there.
SHOAL_REGISTER_OP(CrossCombine)
    .Input("x0", "[b,n]")
    .Input("z", "as x0")
    .Input("xl", "as x0")
    .Output("y", "as x0")
    .ShapeFn(&AllSame)
    .Gradient(&CrossCombineGradient)
    .InPlace();

SHOAL_REGISTER_OP(CrossCombineGrad)
    .Input("x0", "[b,n]")
    .Input("z", "as x0")
    .Input("dy", "as x0")
    .Output("dx0", "as x0")
    .Output("dz", "as x0")
    .ShapeFn(&CrossCombineGradShape)
    .NoGradient(kIsGradient)
    .InPlace();

}  // namespace
}  // namespace shoal::graph
