"""Writes ps/optax_cases.inc: what Optax does to two variables.

Run it with a Python that has jax and optax (on a CPU, in float64):
    python3 tests/optimizers/optax_reference.py > ps/optax_cases.inc
    clang-format -i ps/optax_cases.inc
ps/optax_test.cc reads the result, so that nothing needs Optax to test.

Optax's lars divides by |g + beta w|, the paper (and Shoal) by |g| + beta |w|:
they are the same without weight decay, which is what is compared.
"""

import random

import jax
import numpy as np
import optax

jax.config.update("jax_enable_x64", True)

SIZES = [3, 2]  # the second begins at zero
STEPS = 12

# Name, our settings, their transformation.
CASES = [
    ("lamb", dict(kind="lamb", learning_rate=0.05, epsilon=0.01, beta1=0.85,
                  beta2=0.97), 0,
     optax.lamb(0.05, b1=0.85, b2=0.97, eps=0.01)),
    ("lamb_decay", dict(kind="lamb", learning_rate=0.05, epsilon=0.01,
                        beta1=0.85, beta2=0.97, weight_decay=0.2), 0,
     optax.lamb(0.05, b1=0.85, b2=0.97, eps=0.01, weight_decay=0.2)),
    ("lars", dict(kind="lars", learning_rate=0.5, momentum=0.8,
                  trust_coefficient=0.1), 0,
     optax.lars(0.5, momentum=0.8, trust_coefficient=0.1)),
    ("clipped_sgd", dict(kind="sgd", learning_rate=0.2), 1.5,
     optax.chain(optax.clip_by_global_norm(1.5), optax.sgd(0.2))),
    ("clipped_adam", dict(kind="adam", learning_rate=0.05, epsilon=0.01,
                          beta1=0.85, beta2=0.97), 1.5,
     optax.chain(optax.clip_by_global_norm(1.5),
                 optax.adam(0.05, b1=0.85, b2=0.97, eps=0.01))),
]


def literal(value):
    return f'"{value}"' if isinstance(value, str) else repr(value)


def numbers(values):
    return ", ".join(repr(float(value)) for value in values)


def main():
    dice = random.Random(2)
    first = [np.float32([dice.uniform(-1, 1) for _ in range(SIZES[0])]),
             np.zeros(SIZES[1], np.float32)]
    gradients = [[np.float32([dice.uniform(-1, 1) * dice.choice([0, 1, 1, 4])
                              for _ in range(size)]) for size in SIZES]
                 for _ in range(STEPS)]
    print(f"// Written by tests/optimizers/optax_reference.py with Optax "
          f"{optax.__version__}, float64.\n")
    print(f"constexpr int64_t kOptaxSizes[] = {{{SIZES[0]}, {SIZES[1]}}};")
    print(f"constexpr int64_t kOptaxSteps = {STEPS};\n")
    print(f"constexpr float kOptaxFirst[] = {{{numbers(first[0])}}};\n")
    flat = [x for step in gradients for part in step for x in part]
    print(f"constexpr float kOptaxGradients[] = {{{numbers(flat)}}};\n")
    print("// Both variables after each step.\nconst std::vector<OptaxCase> "
          "kOptaxCases = {")
    for name, config, clip, transformation in CASES:
        values = [np.float64(part) for part in first]
        state = transformation.init(values)
        after = []
        for step in gradients:
            updates, state = transformation.update(
                [np.float64(part) for part in step], state, values)
            values = optax.apply_updates(values, updates)
            after += [x for part in values for x in part]
        fields = ", ".join(f".{key} = {literal(value)}"
                           for key, value in config.items())
        print(f'{{"{name}", {{{fields}}}, {clip}, {{{numbers(after)}}}}},')
    print("};")


main()
