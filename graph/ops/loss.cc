#include "base/strcat.h"
#include "graph/op.h"

namespace shoal::graph {
namespace {

// Every input is [b, 1].
Status ColumnShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 2));
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(i, {ctx.input(0).dim(0), 1}));
  }
  return ctx.SetOutput(ctx.input(0));
}

Status CheckClasses(const ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(ctx.ExpectRank(0, 2));
  const Dim& classes = ctx.input(0).dim(1);
  if (!classes.is_constant() || classes.offset() < 1) {
    return InvalidArgumentError(StrCat(
        ctx.Text(0), "; the number of classes must be a constant above 0"));
  }
  for (int i = 1; i < ctx.num_inputs(); ++i) {
    SHOAL_RETURN_IF_ERROR(ctx.ExpectShape(i, {ctx.input(0).dim(0), 1}));
  }
  return OkStatus();
}

Status SoftmaxLossShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(CheckClasses(ctx));
  return ctx.SetOutput({ctx.input(0).dim(0), 1});
}

Status SoftmaxShape(ShapeContext& ctx) {
  SHOAL_RETURN_IF_ERROR(CheckClasses(ctx));
  return ctx.SetOutput(ctx.input(0));
}

// loss = max(z, 0) - z y + log(1 + exp(-|z|)) for the logit z and the label y
// in [0, 1].
SHOAL_REGISTER_OP(SigmoidCrossEntropy)
    .Input("logits", "[b,1]")
    .ConstantInput("labels", "[b,1]")
    .Output("y", "[b,1]")
    .ShapeFn(&ColumnShape)
    .Gradient({.op = "SigmoidCrossEntropyGrad",
               .args = {"logits", "labels", "grad(y)"},
               .returns = {"grad(logits)"}})
    .InPlace();

SHOAL_REGISTER_OP(SigmoidCrossEntropyGrad)
    .Input("logits", "[b,1]")
    .ConstantInput("labels", "[b,1]")
    .Input("dloss", "[b,1]")
    .Output("dlogits", "[b,1]")
    .ShapeFn(&ColumnShape)
    .NoGradient("it is a gradient itself")
    .InPlace();

// loss = log(sum_c exp(z_c)) - z_label; labels are numbers of classes.
SHOAL_REGISTER_OP(SoftmaxCrossEntropy)
    .Input("logits", "[b,c]")
    .ConstantInput("labels", "[b,1]")
    .Output("y", "[b,1]")
    .ShapeFn(&SoftmaxLossShape)
    .Gradient({.op = "SoftmaxCrossEntropyGrad",
               .args = {"logits", "labels", "grad(y)"},
               .returns = {"grad(logits)"}});

SHOAL_REGISTER_OP(SoftmaxCrossEntropyGrad)
    .Input("logits", "[b,c]")
    .ConstantInput("labels", "[b,1]")
    .Input("dloss", "[b,1]")
    .Output("dlogits", "[b,c]")
    .ShapeFn(&SoftmaxShape)
    .NoGradient("it is a gradient itself");

SHOAL_REGISTER_OP(Softmax)
    .Input("logits", "[b,c]")
    .Output("y", "[b,c]")
    .ShapeFn(&SoftmaxShape)
    .NoGradient("it is for predictions; train with SoftmaxCrossEntropy");

// loss = (prediction - label)^2.
SHOAL_REGISTER_OP(SquaredError)
    .Input("prediction", "[b,1]")
    .ConstantInput("labels", "[b,1]")
    .Output("y", "[b,1]")
    .ShapeFn(&ColumnShape)
    .Gradient({.op = "SquaredErrorGrad",
               .args = {"prediction", "labels", "grad(y)"},
               .returns = {"grad(prediction)"}})
    .InPlace();

SHOAL_REGISTER_OP(SquaredErrorGrad)
    .Input("prediction", "[b,1]")
    .ConstantInput("labels", "[b,1]")
    .Input("dloss", "[b,1]")
    .Output("dprediction", "[b,1]")
    .ShapeFn(&ColumnShape)
    .NoGradient("it is a gradient itself")
    .InPlace();

}  // namespace
}  // namespace shoal::graph
