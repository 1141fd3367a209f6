#include "base/strcat.h"
#include "graph/op.h"
#include "graph/ops.h"

namespace shoal::graph {
namespace {

Status ConcatShape(ShapeContext& ctx) {
  Dim width = 0;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(i, 2));
    if (ctx.input(i).dim(0) != ctx.input(0).dim(0)) {
      return InvalidArgumentError(StrCat(ctx.Text(0), " but ", ctx.Text(i),
                                         "; their rows must be as many"));
    }
    const std::optional<Dim> sum = Dim::Sum(width, ctx.input(i).dim(1));
    if (!sum) {
      return InvalidArgumentError(
          StrCat(ctx.Text(i), "; its rows can't be added to those before"));
    }
    width = *sum;
  }
  return ctx.SetOutput({ctx.input(0).dim(0), width});
}

void ConcatGradient(GradientContext& ctx) {
  GraphBuilder& b = ctx.builder();
  int64_t begin = 0;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    const Dim width = b.shape(ctx.input(i)).dim(1);
    if (!width.is_constant()) {
      return b.SetError(UnimplementedError(
          StrCat("node '", b.graph().node(ctx.y()).name,
                 "': Concat of rows whose length is no constant has no "
                 "gradient")));
    }
    if (ctx.wants(i)) {
      ctx.SetGradient(i, Slice(b, ctx.dy(), begin, width.offset()));
    }
    begin += width.offset();
  }
}

// Errors unless [begin, begin + size) lies inside the last axis of `like`.
Status CheckSlice(const ShapeContext& ctx, int like) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(like, 2));
  const int64_t begin = ctx.int_attribute(0);
  const int64_t size = ctx.int_attribute(1);
  const Dim& width = ctx.input(like).dim(1);
  if (!width.is_constant() || begin < 0 || size < 0 || begin > width.offset() ||
      size > width.offset() - begin) {
    return InvalidArgumentError(
        StrCat(ctx.Text(like), "; columns from ", begin, ", ", size,
               " of them, must lie inside a constant number of columns"));
  }
  return OkStatus();
}

Status SliceShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(CheckSlice(ctx, 0));
  return ctx.SetOutput({ctx.input(0).dim(0), ctx.int_attribute(1)});
}

void SliceGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ctx.builder().Op("SliceGrad", {ctx.dy(), ctx.input(0)},
                                      ctx.attributes()));
}

Status SliceGradShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(CheckSlice(ctx, 1));
  SHOAL_RETURN_IF_ERROR(
      ctx.ExpectShape(0, {ctx.input(1).dim(0), ctx.int_attribute(1)}));
  return ctx.SetOutput(ctx.input(1));
}

void SliceGradGradient(GradientContext& ctx) {
  ctx.SetGradient(0, ctx.builder().Op("Slice", {ctx.dy()}, ctx.attributes()));
}

Status ReshapeShape(ShapeContext& ctx) {
  const SymbolicShape& to = ctx.shape_attribute();
  const std::optional<Dim> before = ctx.input(0).NumElements();
  const std::optional<Dim> after = to.NumElements();
  if (!before || !after || *before != *after) {
    return InvalidArgumentError(StrCat(ctx.Text(0), " but the new shape is ",
                                       ctx.Text(to),
                                       "; they must have as many elements"));
  }
  return ctx.SetOutput(to);
}

void ReshapeGradient(GradientContext& ctx) {
  GraphBuilder& b = ctx.builder();
  ctx.SetGradient(0, Reshape(b, ctx.dy(), b.shape(ctx.input(0))));
}

// Side by side.
SHOAL_REGISTER_OP(Concat)
    .Inputs("x", "[m,n_i]")
    .Output("y", "[m,sum of n_i]")
    .ShapeFn(&ConcatShape)
    .Gradient(&ConcatGradient);

// y[i,j] = x[i,begin + j].
SHOAL_REGISTER_OP(Slice)
    .Input("x", "[m,n]")
    .Output("y", "[m,size]")
    .Ints({"begin", "size"})
    .ShapeFn(&SliceShape)
    .Gradient(&SliceGradient);

// dx[i,begin + j] = dy[i,j], and 0 elsewhere.
SHOAL_REGISTER_OP(SliceGrad)
    .Input("dy", "[m,size]")
    .ShapeOf("like", "[m,n]")
    .Output("dx", "[m,n]")
    .Ints({"begin", "size"})
    .ShapeFn(&SliceGradShape)
    .Gradient(&SliceGradGradient);

SHOAL_REGISTER_OP(Reshape)
    .Input("x", "[...]")
    .Output("y", "shape")
    .ShapeAttribute()
    .ShapeFn(&ReshapeShape)
    .Gradient(&ReshapeGradient)
    .Alias();

}  // namespace
}  // namespace shoal::graph
