#include <limits>

#include "base/strcat.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

Status GatherShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(1, 2));
  return ctx.SetOutput(
      {ctx.input(1).dim(0), ctx.input(1).dim(1), ctx.input(0).dim(1)});
}

Status GatherGradShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 3));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(1, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(2, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(
      0, {ctx.input(1).dim(0), ctx.input(1).dim(1), ctx.input(2).dim(1)}));
  return ctx.SetOutput(ctx.input(2));
}

// The number of examples that `offsets` has bags for. Errors: kInvalidArgument.
StatusOr<Dim> ExamplesOf(const ShapeContext& ctx, int offsets) {
  const int64_t fields = ctx.int_attribute(0);
  if (fields < 1 || fields > std::numeric_limits<int32_t>::max()) {
    return InvalidArgumentError(
        StrCat("fields is ", fields, "; it must be at least 1"));
  }
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(offsets, 1));
  const std::optional<Dim> bags = Dim::Sum(ctx.input(offsets).dim(0), Dim(-1));
  const std::optional<Dim> examples =
      bags && bags->offset() >= 0 ? Dim::Quotient(*bags, fields) : std::nullopt;
  if (!examples) {
    return InvalidArgumentError(StrCat(ctx.Text(offsets), "; it must have ",
                                       fields,
                                       " per example (fields) and one more"));
  }
  return *examples;
}

// Index, offsets and weights stand at `first` and after.
Status CheckBagInputs(const ShapeContext& ctx, int first, int rows) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(rows, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(first, 1));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectSame(first, first + 2));
  const int64_t mean = ctx.int_attribute(1);
  if (mean != 0 && mean != 1) {
    return InvalidArgumentError(
        StrCat("mean is ", mean, "; it must be 0 or 1"));
  }
  return OkStatus();
}

Status BagPoolShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(CheckBagInputs(ctx, 1, 0));
  SHOAL_ASSIGN_OR_RETURN(const Dim examples, ExamplesOf(ctx, 2));
  return ctx.SetOutput({examples, ctx.int_attribute(0), ctx.input(0).dim(1)});
}

Status BagPoolGradShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(CheckBagInputs(ctx, 1, 4));
  SHOAL_ASSIGN_OR_RETURN(const Dim examples, ExamplesOf(ctx, 2));
  SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(
      0, {examples, ctx.int_attribute(0), ctx.input(4).dim(1)}));
  return ctx.SetOutput(ctx.input(4));
}

// y[i,j] = rows[index[i,j]].
SHOAL_REGISTER_OP(Gather)
    .Input("rows", "[u,d]")
    .ConstantInput("index", "[b,f]", DType::kI32)
    .Output("y", "[b,f,d]")
    .ShapeFn(&GatherShape)
    .Gradient({.op = "GatherGrad",
               .args = {"grad(y)", "index", "rows"},
               .returns = {"grad(rows)"}});

// drows[r] = sum of dy at the positions where index is r, in their order.
SHOAL_REGISTER_OP(GatherGrad)
    .Input("dy", "[b,f,d]")
    .ConstantInput("index", "[b,f]", DType::kI32)
    .ShapeOf("rows", "[u,d]")
    .Output("drows", "[u,d]")
    .ShapeFn(&GatherGradShape)
    .NoGradient("it is a gradient itself");

// y[s] = sum of weights[j] * rows[index[j]] for j in bag s, from offsets[s] to
// before offsets[s + 1]; divided by their number if mean. An empty bag gives 0.
SHOAL_REGISTER_OP(BagPool)
    .Input("rows", "[u,d]")
    .ConstantInput("index", "[n]", DType::kI32)
    .ConstantInput("offsets", "[b*fields+1]", DType::kI32)
    .ConstantInput("weights", "[n]")
    .Output("y", "[b,fields,d]")
    .Ints({"fields", "mean"})
    .ShapeFn(&BagPoolShape)
    .Gradient({.op = "BagPoolGrad",
               .args = {"grad(y)", "index", "offsets", "weights", "rows"},
               .returns = {"grad(rows)"}});

SHOAL_REGISTER_OP(BagPoolGrad)
    .Input("dy", "[b,fields,d]")
    .ConstantInput("index", "[n]", DType::kI32)
    .ConstantInput("offsets", "[b*fields+1]", DType::kI32)
    .ConstantInput("weights", "[n]")
    .ShapeOf("rows", "[u,d]")
    .Output("drows", "[u,d]")
    .Ints({"fields", "mean"})
    .ShapeFn(&BagPoolGradShape)
    .NoGradient("it is a gradient itself");

}  // namespace
}  // namespace shoal::graph
