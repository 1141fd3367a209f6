"""Writes ps/optimizer_torch_cases.inc: what PyTorch's optimizers do to a row.

Run it with a Python that has PyTorch (any device; it computes in float64):
    python3 tests/optimizers/reference.py > ps/optimizer_torch_cases.inc
    clang-format -i ps/optimizer_torch_cases.inc
ps/optimizer_test.cc reads the result, so that nothing needs PyTorch to test.
"""

import random

import torch

DIM = 3
STEPS = 12

ADAM = dict(learning_rate=0.05, beta1=0.85, beta2=0.97, epsilon=0.01)


def adam(c, **more):
    return dict(lr=c["learning_rate"], betas=(c["beta1"], c["beta2"]),
                eps=c["epsilon"], **more)


O = torch.optim
# Name, our numbers, their optimizer.
CASES = [
    ("sgd", dict(kind="sgd", learning_rate=0.05),
     lambda p, c: O.SGD(p, lr=0.05)),
    ("sgd_decay", dict(kind="sgd", learning_rate=0.05, weight_decay=0.3),
     lambda p, c: O.SGD(p, lr=0.05, weight_decay=0.3)),
    ("sgd_clip_value", dict(kind="sgd", learning_rate=0.05, clip_value=0.4),
     lambda p, c: O.SGD(p, lr=0.05)),
    ("momentum", dict(kind="momentum", learning_rate=0.05, momentum=0.8),
     lambda p, c: O.SGD(p, lr=0.05, momentum=0.8)),
    ("nesterov", dict(kind="nesterov", learning_rate=0.05, momentum=0.8),
     lambda p, c: O.SGD(p, lr=0.05, momentum=0.8, nesterov=True)),
    ("nesterov_decay", dict(kind="nesterov", learning_rate=0.05, momentum=0.8,
                            weight_decay=0.2),
     lambda p, c: O.SGD(p, lr=0.05, momentum=0.8, nesterov=True,
                        weight_decay=0.2)),
    ("adagrad", dict(kind="adagrad", learning_rate=0.05,
                     initial_accumulator=0.25, epsilon=0.01),
     lambda p, c: O.Adagrad(p, lr=0.05, initial_accumulator_value=0.25,
                            eps=0.01)),
    ("adadelta", dict(kind="adadelta", learning_rate=0.7, epsilon=1e-3,
                      rho=0.8),
     lambda p, c: O.Adadelta(p, lr=0.7, rho=0.8, eps=1e-3)),
    ("rmsprop", dict(kind="rmsprop", learning_rate=0.05, momentum=0.0,
                     epsilon=0.01, rho=0.8),
     lambda p, c: O.RMSprop(p, lr=0.05, alpha=0.8, eps=0.01)),
    ("rmsprop_momentum", dict(kind="rmsprop", learning_rate=0.05, momentum=0.7,
                              epsilon=0.01, rho=0.8),
     lambda p, c: O.RMSprop(p, lr=0.05, alpha=0.8, eps=0.01, momentum=0.7)),
    ("rmsprop_centered", dict(kind="rmsprop", learning_rate=0.01, momentum=0.7,
                              epsilon=0.1, rho=0.8, centered=True),
     lambda p, c: O.RMSprop(p, lr=0.01, alpha=0.8, eps=0.1, momentum=0.7,
                            centered=True)),
    ("adam", dict(kind="adam", **ADAM), lambda p, c: O.Adam(p, **adam(c))),
    ("adam_decay", dict(kind="adam", **ADAM, weight_decay=0.2),
     lambda p, c: O.Adam(p, **adam(c, weight_decay=0.2))),
    ("adamw", dict(kind="adam", **ADAM, weight_decay=0.2, decoupled=True),
     lambda p, c: O.AdamW(p, **adam(c, weight_decay=0.2))),
    ("amsgrad", dict(kind="amsgrad", **ADAM),
     lambda p, c: O.Adam(p, **adam(c, amsgrad=True))),
    ("adamax", dict(kind="adamax", **ADAM),
     lambda p, c: O.Adamax(p, **adam(c))),
]

FIELDS = ["kind", "learning_rate", "momentum", "initial_accumulator",
          "epsilon", "beta1", "beta2", "rho", "weight_decay", "clip_value",
          "decoupled", "centered"]


def literal(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def numbers(values):
    lines, line = [], "    "
    for value in values:
        text = repr(value) + ","
        if len(line) + len(text) + 1 > 79:
            lines.append(line.rstrip())
            line = "    "
        line += text + " "
    return "\n".join(lines + [line.rstrip()])


def f32(value):
    return torch.tensor(value, dtype=torch.float32).item()


def main():
    dice = random.Random(1)
    first = [f32(dice.uniform(-1, 1)) for _ in range(DIM)]
    gradients = [f32(dice.uniform(-1, 1) * dice.choice([0, 1, 1, 4]))
                 for _ in range(DIM * STEPS)]
    print("// Written by tests/optimizers/reference.py with PyTorch "
          f"{torch.__version__.split('+')[0]}, float64.\n")
    print(f"constexpr int64_t kTorchDim = {DIM};")
    print(f"constexpr int64_t kTorchSteps = {STEPS};\n")
    print("constexpr float kTorchFirst[] = {\n" + numbers(first) + "\n};\n")
    print("constexpr float kTorchGradients[] = {\n" + numbers(gradients) +
          "\n};\n")
    print("// The row after each step.\nconst std::vector<TorchCase> "
          "kTorchCases = {")
    for name, config, make in CASES:
        w = torch.tensor(first, dtype=torch.float64, requires_grad=True)
        optimizer = make([w], config)
        after = []
        for t in range(STEPS):
            w.grad = torch.tensor(gradients[t * DIM:(t + 1) * DIM],
                                  dtype=torch.float64)
            if "clip_value" in config:
                torch.nn.utils.clip_grad_value_([w], config["clip_value"])
            optimizer.step()
            after += w.detach().tolist()
        fields = ", ".join(f".{f} = {literal(config[f])}" for f in FIELDS
                           if f in config)
        assert set(config) <= set(FIELDS), config
        print(f'{{"{name}",\n {{{fields}}},\n {{\n{numbers(after)}\n }}}},')
    print("};")


main()
