#include "graph/op.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/strcat.h"

namespace shoal::graph {

Registry<OpDef>& OpRegistry() {
  static Registry<OpDef> registry("op");
  return registry;
}

bool OpDef::IsConstantInput(int i) const {
  const auto number = static_cast<size_t>(i);
  return number < constant_inputs.size() && constant_inputs[number];
}

const OpDef::Argument& OpDef::InputAt(int i) const {
  const auto number = static_cast<size_t>(i);
  return number < inputs.size() ? inputs[number] : inputs.back();
}

int OpDef::FindInput(std::string_view input) const {
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i].name == input) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

std::string ShapeContext::InputName(int i) const {
  const std::string& name = op_.InputAt(i).name;
  const bool many =
      op_.variadic && i + 1 >= static_cast<int>(op_.inputs.size());
  return many ? StrCat(name, "[", i + 1 - static_cast<int>(op_.inputs.size()),
                       "]")
              : name;
}

std::string ShapeContext::Text(int i) const {
  return StrCat(InputName(i), " is ", Text(input(i)));
}

Status ShapeContext::ExpectRank(int i, int rank) const {
  if (input(i).rank() != rank) {
    return InvalidArgumentError(StrCat(Text(i), "; it must have ", rank,
                                       rank == 1 ? " axis, " : " axes, ",
                                       op_.InputAt(i).shape));
  }
  return OkStatus();
}

Status ShapeContext::ExpectSame(int i, int j) const {
  if (input(i) != input(j)) {
    return InvalidArgumentError(
        StrCat(Text(i), " but ", Text(j), "; they must be equal"));
  }
  return OkStatus();
}

Status ShapeContext::ExpectShape(int i, const SymbolicShape& shape) const {
  if (input(i) != shape) {
    return InvalidArgumentError(StrCat(Text(i), "; it must be ", Text(shape)));
  }
  return OkStatus();
}

Status SameAsFirst(ShapeContext& ctx) { return ctx.SetOutput(ctx.input(0)); }

Status AllSame(ShapeContext& ctx) {
  for (int i = 1; i < ctx.num_inputs(); ++i) {
    SHOAL_RETURN_IF_ERROR(ctx.ExpectSame(0, i));
  }
  return ctx.SetOutput(ctx.input(0));
}

GradientContext::GradientContext(GraphBuilder& builder, NodeRef node,
                                 NodeRef dy, std::vector<bool> wanted)
    : builder_(builder),
      node_(node),
      dy_(dy),
      inputs_(builder.graph().node(node).inputs),
      attributes_(builder.graph().node(node).attributes),
      wanted_(std::move(wanted)),
      gradients_(inputs_.size()) {}

void GradientContext::SetGradient(int i, NodeRef gradient) {
  if (wants(i)) {
    gradients_[static_cast<size_t>(i)] = gradient;
  }
}

OpDefBuilder& OpDefBuilder::Input(std::string_view name, std::string_view shape,
                                  DType dtype) {
  def_.inputs.push_back({std::string(name), std::string(shape), dtype});
  def_.constant_inputs.push_back(false);
  return *this;
}

OpDefBuilder& OpDefBuilder::Inputs(std::string_view name,
                                   std::string_view shape) {
  def_.variadic = true;
  return Input(name, shape);
}

OpDefBuilder& OpDefBuilder::ShapeOf(std::string_view name,
                                    std::string_view shape) {
  ConstantInput(name, shape);
  def_.inputs.back().shape_only = true;
  return *this;
}

OpDefBuilder& OpDefBuilder::ConstantInput(std::string_view name,
                                          std::string_view shape, DType dtype) {
  Input(name, shape, dtype);
  def_.constant_inputs.back() = true;
  return *this;
}

OpDefBuilder& OpDefBuilder::Output(std::string_view name,
                                   std::string_view shape) {
  def_.outputs.push_back({std::string(name), std::string(shape)});
  return *this;
}

OpDefBuilder& OpDefBuilder::Ints(std::initializer_list<const char*> names) {
  def_.ints.assign(names.begin(), names.end());
  return *this;
}

OpDefBuilder& OpDefBuilder::Floats(std::initializer_list<const char*> names) {
  def_.floats.assign(names.begin(), names.end());
  return *this;
}

OpDefBuilder& OpDefBuilder::ShapeAttribute() {
  def_.has_shape_attribute = true;
  return *this;
}

OpDefBuilder& OpDefBuilder::ShapeFn(graph::ShapeFn fn) {
  def_.shape_fn = fn;
  return *this;
}

OpDefBuilder& OpDefBuilder::Gradient(GradientFn fn) {
  def_.gradient_fn = fn;
  return *this;
}

OpDefBuilder& OpDefBuilder::Gradient(GradientRule rule) {
  def_.gradient_rule = std::move(rule);
  return *this;
}

OpDefBuilder& OpDefBuilder::NoGradient(std::string_view because) {
  def_.no_gradient_because = because;
  return *this;
}

OpDefBuilder& OpDefBuilder::InPlace() {
  def_.in_place = true;
  return *this;
}

OpDefBuilder& OpDefBuilder::Alias() {
  def_.alias = true;
  return *this;
}

OpDefBuilder::operator bool() const {
  const int ways = static_cast<int>(def_.gradient_fn != nullptr) +
                   static_cast<int>(!def_.gradient_rule.op.empty()) +
                   static_cast<int>(!def_.no_gradient_because.empty());
  const bool one_output = def_.outputs.size() == 1 ||
                          (!def_.outputs.empty() && !def_.has_gradient());
  if (ways != 1 || def_.shape_fn == nullptr || !one_output) {
    std::fprintf(stderr,
                 "op '%s' in %s needs a shape rule and either one output and "
                 "a gradient or the reason why there is none\n",
                 def_.name.c_str(), file_);
    std::abort();
  }
  return OpRegistry().Add(def_.name, def_, file_);
}

}  // namespace shoal::graph
