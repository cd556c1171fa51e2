"""docs/worked_example.md: every number in it, as arithmetic and against the package."""

import math
import re
from pathlib import Path

from pytest import approx

from tiny_llm import SGD, MLPConfig, MLPLanguageModel, cross_entropy
from tiny_llm.layers import (
    attention,
    attention_backward,
    layer_norm,
    layer_norm_backward,
    linear_backward,
    softmax,
    tanh_backward,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "worked_example.md").read_text("utf-8")
FUNCTIONS = {"tanh": math.tanh, "exp": math.exp, "log": math.log, "sqrt": math.sqrt}
ROUNDED = 0.5e-4 + 1e-12  # half of the last decimal


def statements(document):
    """The lines of the code blocks as (name, expressions), in order."""
    for block in re.findall(r"```\n(.*?)```", document, re.DOTALL):
        for line in block.splitlines():
            name, *expressions = line.split(" = ")
            yield name, expressions


def value(expression):
    return eval(expression, dict(FUNCTIONS))


def package_values():
    """All that the document names, computed by the package."""
    named = {name: value(parts[-1]) for name, parts in statements(DOCUMENT)}
    model = MLPLanguageModel(MLPConfig(3, context_length=2, d_embedding=2, d_hidden=2))
    for name in model.parameters:
        model.parameters[name] = named[name]
    before = {name: [list(row) if isinstance(row, list) else row for row in tensor]
              for name, tensor in model.parameters.items()}  # fmt: skip
    logits, cache = model.forward([[0, 1]])
    loss, dlogits = cross_entropy(logits, [2])
    gradients = model.backward(dlogits, cache)
    dhidden, _, _ = linear_backward(dlogits, cache.hidden, model.parameters["output.weight"])
    dsums = tanh_backward(dhidden, cache.hidden)
    dinputs, _, _ = linear_backward(dsums, cache.inputs, model.parameters["hidden.weight"])
    SGD(named["learning_rate"]).update(model.parameters, gradients)
    new_logits, _ = model.forward([[0, 1]])
    out, head = attention([named["query"]], named["keys"], named["values"])
    dquery, _, _ = attention_backward([named["dout"]], head)
    _, seen = attention([named["query"]] * 2, named["keys"], named["values"])
    seen_out = [sum(w * v[i] for w, v in zip(seen.weights[0], named["values"])) for i in (0, 1)]
    (unit,), norm = layer_norm([named["row"]], [1.0] * 4, [0.0] * 4)
    (drow,), _, _ = layer_norm_backward([named["dunit"]], [1.0] * 4, norm)
    return {
        **before,
        **{f"d{name}": gradient for name, gradient in gradients.items()},
        **{f"new {name}": tensor for name, tensor in model.parameters.items()},
        "learning_rate": 0.5,
        "inputs": cache.inputs[0],
        "sums": [math.atanh(h) for h in cache.hidden[0]],
        "hidden": cache.hidden[0],
        "logits": logits[0],
        "Z": sum(map(math.exp, logits[0])),
        "p": softmax(logits[0]),
        "loss": loss,
        "guessing": math.log(3),
        "dlogits": dlogits[0],
        "dhidden": dhidden[0],
        "dsums": dsums[0],
        "dinputs": dinputs[0],
        "new logits": new_logits[0],
        "new p": softmax(new_logits[0]),
        "new loss": cross_entropy(new_logits, [2])[0],
        **{name: named[name] for name in ("query", "keys", "values", "dout")},
        "scores": head.scores[0],
        "weights": head.weights[0],
        "out": out[0],
        "dweights": [row[0] for row in head.values],
        "mean": head.weights[0][0],
        "dscores": [head.weights[0][0] * head.weights[0][1] * sign for sign in (1, -1)],
        "dquery": dquery[0],
        "seen_scores": seen.scores[0],
        "seen_weights": seen.weights[0],
        "seen_out": seen_out,
        **{name: named[name] for name in ("row", "dunit")},
        "row_mean": sum(named["row"]) / 4,
        "variance": norm[0][1] ** -2,
        "deviation": 1 / norm[0][1],
        "unit": unit,
        "dmean": sum(named["dunit"]) / 4,
        "along": sum(d * u for d, u in zip(named["dunit"], unit)) / 4,
        "drow": drow,
    }


def compare(ours, documented, tolerance):
    if isinstance(documented, list):
        assert len(ours) == len(documented)
        for a, b in zip(ours, documented):
            compare(a, b, tolerance)
    else:
        assert documented == approx(ours, abs=tolerance)


def test_every_line_is_right_as_arithmetic():
    for name, parts in statements(DOCUMENT):
        for expression in parts[:-1]:
            # The operands are rounded, too, so the last decimal may be off by a little more.
            compare(value(expression), value(parts[-1]), 3 * ROUNDED)
        assert parts, name


def test_every_number_is_what_the_package_computes():
    computed = package_values()
    seen = set()
    for name, parts in statements(DOCUMENT):
        base, *indices = re.split(r"\[(\d)\]", name)
        ours = computed[base]
        for index in filter(None, indices):
            ours = ours[int(index)]
        compare(ours, value(parts[-1]), ROUNDED)
        seen.add(base)
    assert seen == computed.keys()


def test_no_number_hides_in_the_prose():
    prose = re.sub(r"```\n.*?```", "", DOCUMENT, flags=re.DOTALL)
    assert not re.search(r"\d\.\d", prose)
