"""One traced step: its numbers against the model's, its arithmetic, its lines, its references."""

import copy
import io
import itertools
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_llm import (
    SGD,
    AdamW,
    AttentionConfig,
    AttentionLanguageModel,
    BPETokenizer,
    CharTokenizer,
    MLPConfig,
    MLPLanguageModel,
    ModernConfig,
    ModernLanguageModel,
    Sampling,
    cross_entropy,
    generate,
    layers,
)
from tiny_llm.cli import main
from tiny_llm.fast.tensors import scaled
from tiny_llm.layers import AttentionCache, add_rows, embedding, linear, softmax, tanh
from tiny_llm.model import LanguageModel, Start
from tiny_llm.optimizers import clip_by_global_norm, global_norm
from tiny_llm.run.begin import schedule_of
from tiny_llm.run.saved import load_run
from tiny_llm.training import Diverged, loss_and_gradients
from tiny_llm.view.rows import ASCII_HEIGHTS, NEGATIVE, POSITIVE, in_columns, strip
from tiny_llm.view.terminal import HEIGHTS, Style, display_width, plain
from tiny_llm.view.trace.record import recorded
from tiny_llm.view.trace.stages import in_words, place_of, stages
from tiny_llm.view.trace.step import as_json, trace, trace_forward
from tiny_llm.view.trace.text import as_lines

ROOT = Path(__file__).parents[2]
RUNGS = ("mlp", "attention", "modern")
TOKENIZER = CharTokenizer.from_text("abcde")
PROMPT = "abcdeabc"
WIDE = Style(width=400)
OPTIMIZERS = [lambda: SGD(0.1), lambda: AdamW(0.01)]
WTE = ("wte.weight", "wpe.weight")
NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"


@pytest.fixture(params=OPTIMIZERS, ids=["SGD", "AdamW"])
def build_optimizer(request):
    return request.param


def text_of(told, style=WIDE):
    return "\n".join(as_lines(told, style))


def part_of(text, number):
    """One of the eight parts of a trace."""
    return re.split(r"^\d\. .*$", text, flags=re.MULTILINE)[number]


def half_unit(text, figures=None):
    """Half of the last place of a printed number, which may have lost zeros at its end."""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    decimals = len(mantissa.partition(".")[2])
    if figures and float(mantissa):
        decimals = max(decimals, figures - 1 - math.floor(math.log10(float(mantissa))))
    return 0.5 * 10.0 ** (int(exponent or 0) - decimals)


def assert_printed(text, value, figures=None):
    """A printed number is this value, within the precision that it is printed with."""
    assert abs(float(text) - value) <= half_unit(text, figures) * (1 + 1e-9), (text, value)


def examples(ids, model):
    """The context and the targets that a training step on these tokens has."""
    context = ids[-1 - model.config.context_length : -1]
    targets = ids[-len(context) :] if model.predicts_every_token else ids[-1:]
    return context, targets


# ---------------------------------------------------------------- the data


def test_the_step_is_the_one_that_training_takes(build, build_optimizer):
    model, optimizer = build(), build_optimizer()
    twin, twins_optimizer = copy.deepcopy(model), build_optimizer()
    context, targets = examples(TOKENIZER.encode(PROMPT), model)
    for steps_before in range(3):
        told = trace(model, TOKENIZER, optimizer, PROMPT)
        loss, gradients = loss_and_gradients(twin, [context], targets)
        twins_optimizer.update(twin.parameters, gradients)
        assert told.steps_before == steps_before
        assert told.loss.loss == told.again.loss_before == loss
        assert {g.name: g.norm for g in told.backward.norms} == {
            name: global_norm({name: gradient}) for name, gradient in gradients.items()
        }
        assert told.backward.norm == pytest.approx(global_norm(gradients))
        assert model.parameters == twin.parameters
        assert optimizer.state == twins_optimizer.state
        assert told.again.loss == cross_entropy(model.forward([context])[0], targets)[0]


def test_tokens_vectors_and_prediction_are_the_models(build):
    model = build()
    before = copy.deepcopy(model)
    context, targets = examples(TOKENIZER.encode(PROMPT), model)
    told = trace(model, TOKENIZER, SGD(0.1), PROMPT)
    assert [token.id for token in told.tokens.seen] == context
    assert [token.id for token in told.tokens.targets] == targets
    assert "".join(token.text for token in told.tokens.seen) == TOKENIZER.decode(context)
    assert told.tokens.given == len(PROMPT)
    for row in told.vectors.rows:
        assert row.values == before.parameters[row.table][row.index]
    assert told.vectors.rows[0].index == context[-1]
    logits, _ = before.forward([context])
    probabilities = softmax(logits[-1])
    assert [g.probability for g in told.prediction.guesses] == sorted(probabilities, reverse=True)
    right = told.prediction.right
    assert (right.token.id, right.is_right) == (targets[-1], True)
    assert right.rank == 1 + sum(p > probabilities[targets[-1]] for p in probabilities)
    assert told.loss.p_right == right.probability == probabilities[targets[-1]]
    assert told.loss.each[-1] == pytest.approx(-math.log(told.loss.p_right))
    assert sum(told.loss.each) / len(targets) == pytest.approx(told.loss.loss)
    assert told.loss.guessing == pytest.approx(math.log(5))


def matrices_of(model, cache, logits):
    """What the stages should be, in order."""
    if isinstance(model, MLPLanguageModel):
        p = model.parameters
        sums = linear(cache.inputs, p["hidden.weight"], p["hidden.bias"])
        assert tanh(sums) == cache.hidden
        return [cache.inputs, sums, cache.hidden, logits]
    tables = [name for name in model.parameters if "embedding" in name or name in WTE]
    ids = cache.tokens, cache.positions
    made = [embedding(i, model.parameters[table]) for i, table in zip(ids, tables)]
    made.append(add_rows(*made))
    if isinstance(model, AttentionLanguageModel):
        (head,) = cache.heads
        made += [head.queries, head.keys, head.values, cache.mixed, head.scores, head.weights]
        made += [model.linear("projection", cache.mixed), cache.out]
        return [*made, model.linear("hidden", cache.out), cache.hidden, logits]
    for i, block in enumerate(cache.blocks):
        heads = [rows for h in block.heads[0] for rows in (h.scores[-1:], h.weights[-1:])]
        qkv = model.linear(f"h.{i}.attn.c_attn", block.normed_1)
        branch = model.linear(f"h.{i}.attn.c_proj", block.mixed)
        made += [block.normed_1, qkv, block.mixed, *heads, branch, add_rows(block.x, branch)]
        narrow = model.linear(f"h.{i}.mlp.c_proj", block.active)
        made += [block.normed_2, block.wide, block.active, narrow, block.out]
    return [*made, cache.final, logits]


def test_every_stage_is_what_the_forward_computed(build):
    model = build()
    context, _ = examples(TOKENIZER.encode(PROMPT), model)
    twin = copy.deepcopy(model)
    logits, cache = twin.forward([context])
    expected = matrices_of(twin, cache, logits)
    told = trace(model, TOKENIZER, SGD(0.1), PROMPT)
    shown = [numbers for stage in told.stages for numbers in stage.numbers]
    assert [numbers.row for numbers in shown] == [rows[-1] for rows in expected]
    for numbers, rows in zip(shown, expected):
        values = [value for row in rows for value in row]
        assert (numbers.lowest, numbers.highest) == (min(values), max(values))
    for stage in told.stages:
        assert stage.name and stage.what
        if len(stage.numbers) == 1:
            assert stage.shape[1] == len(stage.numbers[0].row)
        if stage.is_attention:
            assert sum(stage.numbers[1].row) == pytest.approx(1)


def test_the_followed_weight_has_the_slope_that_is_measured(build):
    told = trace(build(), TOKENIZER, SGD(0.1), PROMPT)
    slope, weight = told.backward.slope, told.backward.followed
    assert slope.agree
    assert slope.difference == abs(slope.analytic - slope.numerical) <= slope.allowed
    assert slope.numerical == (slope.above - slope.below) / (2 * slope.step)
    assert told.vectors.rows[0].values[weight.column] == weight.value
    assert (weight.name, weight.row) == (told.vectors.rows[0].table, told.vectors.rows[0].index)


def test_a_wrong_backward_is_told(build_rung):
    model = build_rung()
    right = model.backward

    def wrong(dlogits, cache):
        gradients = right(dlogits, cache)
        table = next(iter(model.parameters))
        gradients[table] = [[1.01 * value for value in row] for row in gradients[table]]
        return gradients

    model.backward = wrong
    told = trace(model, TOKENIZER, SGD(0.1), PROMPT)
    assert not told.backward.slope.agree
    assert "DISAGREE" in text_of(told)


def test_a_long_gradient_is_clipped_as_in_training(build_rung):
    model = build_rung()
    twin, optimizer = copy.deepcopy(model), SGD(0.1)
    context, targets = examples(TOKENIZER.encode(PROMPT), model)
    _, gradients = loss_and_gradients(twin, [context], targets)
    norm = global_norm(gradients)
    told = trace(model, TOKENIZER, SGD(0.1), PROMPT, grad_clip=norm / 3)
    clip_by_global_norm(gradients, norm, norm / 3)
    optimizer.update(twin.parameters, gradients)
    assert model.parameters == twin.parameters
    assert told.update.clipping.unclipped == told.backward.slope.analytic
    assert told.update.gradient == pytest.approx(told.backward.slope.analytic / 3, rel=1e-4)
    check_arithmetic(told)
    assert trace(model, TOKENIZER, SGD(0.1), PROMPT, grad_clip=99.0).update.clipping is None


def test_tokens_of_several_characters_and_of_single_bytes():
    tokenizer = BPETokenizer.train("the cat sat on the mat. " * 9, 270)
    model = ModernLanguageModel(ModernConfig(270, 8, 4, 2, 1))
    told = trace(model, tokenizer, AdamW(), "the cat 🙂")
    assert [token.text for token in told.tokens.seen][-3:] == ["\\xf0", "\\x9f", "\\x99"]
    assert told.tokens.targets[-1].text == "\\x82"
    assert any(len(token.text) > 1 and "\\" not in token.text for token in told.tokens.seen)
    assert json.loads(as_json(told))["tokens"]["targets"][-1]["text"] == "\\x82"


@pytest.mark.parametrize("prompt", ["", "a"])
def test_a_prompt_with_nothing_to_predict_is_refused(build_rung, prompt):
    with pytest.raises(ValueError, match=f"needs 2 tokens .* has {len(prompt)}; give a longer"):
        trace(build_rung(), TOKENIZER, SGD(), prompt)


class OfTheReader(LanguageModel):
    """A rung that nobody here has heard of: it scores the next token by the last one alone."""

    @staticmethod
    def layout(config):
        return {"table.weight": Start((config.vocab_size, config.vocab_size), 1.0)}

    def forward(self, contexts):
        last = [context[-1] for context in contexts]
        looked_up = layers.embedding(last, self.parameters["table.weight"])  # B x V
        logits = layers.tanh(looked_up)
        return logits, (last, logits)

    def backward(self, dlogits, cache):
        last, logits = cache
        dlooked_up = layers.tanh_backward(dlogits, logits)
        return {"table.weight": layers.embedding_backward(dlooked_up, last, len(logits[0]))}


def test_a_rung_of_the_readers_own_is_told_by_its_own_names():
    told = trace(OfTheReader(MLPConfig(5, 4)), TOKENIZER, SGD(0.1), PROMPT)
    assert [stage.name for stage in told.stages] == ["looked_up", "logits"]
    assert [stage.places[0].function for stage in told.stages] == ["embedding", "tanh"]
    assert told.stages[1].what == "Each number squashed into -1 .. 1"
    assert told.stages[0].letters == "B x V" and told.stages[0].layer == "table"
    assert "logits = layers.tanh(looked_up)" in text_of(told)


def doubled(x):
    """Each number twice: N x D -> N x D."""
    return [[2 * value for value in row] for row in x]


class WithParts(OfTheReader):
    """Two tables whose rows are not added, by name; layers with numbers; a layer of its own."""

    @staticmethod
    def layout(config):
        v = config.vocab_size
        tables = {"table.weight": Start((v, v), 1.0), "other.weight": Start((4, v), 1.0)}
        return {**tables, "h.0.weight": Start((v, v), 1.0), "h.1.weight": Start((v, v), 1.0)}

    def rows(self, last):
        return layers.embedding(table=self.parameters["table.weight"], ids=last)

    def forward(self, contexts):
        last = [context[-1] for context in contexts]
        rows = self.rows(last)
        for _ in range(2):
            place = layers.embedding([0], self.parameters["other.weight"])
        x = [[a - b for a, b in zip(*pair)] for pair in zip(rows, place * len(rows))]
        twice = doubled(x)
        first = layers.linear(twice, self.parameters["h.0.weight"], [0.0] * 5)
        second = layers.linear(first, self.parameters["h.1.weight"], [0.0] * 5)
        return layers.tanh(second), None


def test_a_rung_of_the_readers_own_may_be_of_another_kind():
    told = trace_forward(WithParts(MLPConfig(5, 4)), TOKENIZER, PROMPT)
    assert [(row.reader, row.table, row.index) for row in told.vectors.rows] == [
        ("token", "table.weight", 2),
        ("place", "other.weight", 0),
        ("place", "other.weight", 0),
    ]
    assert told.vectors.total is None  # they are not added up, so no sum is told
    looked_up, twice, end = told.stages[0], told.stages[3], told.stages[-1]
    assert (twice.name, twice.what) == ("twice", "Each number twice")
    assert twice.places[0].function == "doubled"
    parts = [stage.part for stage in told.stages[3:]]
    assert parts == ["", "layer 1 of 2", "layer 2 of 2", "layer 2 of 2"]
    assert end.code == "return layers.tanh(second), None"  # the rung's, not who called the rung
    assert looked_up.name == "rows"
    text = text_of(told)
    assert "sum" not in part_of(text, 2) and "slot" not in part_of(text, 2)
    assert "place is row 0 of other.weight (4 x 5)" in text


class WithoutTables(OfTheReader):
    """Takes rows without layers.embedding."""

    def forward(self, contexts):
        last = [context[-1] for context in contexts]
        logits = layers.tanh([list(self.parameters["table.weight"][token]) for token in last])
        return logits, (last, logits)


def test_without_a_lookup_another_weight_is_followed():
    told = trace(WithoutTables(MLPConfig(5, 4)), TOKENIZER, SGD(0.1), PROMPT)
    assert told.vectors.rows == []
    assert told.backward.followed.name == "table.weight"
    assert told.backward.followed.row == 1  # the only row that has slopes: the last token, b
    assert told.backward.slope.agree and told.backward.slope.analytic
    assert "looked up no row" in text_of(told)


@pytest.mark.parametrize(
    "model",
    [
        AttentionLanguageModel(AttentionConfig(5, 8, 4)),
        ModernLanguageModel(ModernConfig(5, 8, 4, 2, 1)),
    ],
    ids=["attention", "modern"],
)
def test_heads_name_the_functions_that_made_them(model, monkeypatch):
    def functions():
        stages = trace_forward(model, TOKENIZER, PROMPT).stages
        return {tuple(p.function for p in stage.places) for stage in stages if stage.is_attention}

    assert functions() == {("attention", "softmax")}

    def shares(scores):
        """Scores without exp."""
        return [1 / len(scores)] * len(scores)

    shares.__module__, shares.__qualname__ = layers.__name__, "shares"
    monkeypatch.setattr(layers, "softmax", shares)
    assert functions() == {("attention", "shares")}
    assert "softmax" not in part_of(text_of(trace_forward(model, TOKENIZER, PROMPT)), 3)


def test_a_head_that_another_function_made_names_that_one(monkeypatch):
    def uniform(queries, keys, values):
        """The mean of all values."""
        weights = [[1 / len(keys)] * len(keys) for _ in queries]
        mean = [sum(column) / len(keys) for column in zip(*values)]
        return [mean for _ in queries], AttentionCache(queries, keys, values, weights, weights)

    uniform.__module__ = layers.__name__
    monkeypatch.setattr(layers, "attention", uniform)
    told = trace_forward(AttentionLanguageModel(AttentionConfig(5, 8, 4)), TOKENIZER, PROMPT)
    (head,) = (stage for stage in told.stages if stage.is_attention)
    (place,) = head.places
    assert place.function.endswith("uniform")


class Twice(SGD):
    """Another optimizer than the one whose formula is told."""

    def update(self, parameters, gradients):
        super().update(parameters, gradients)
        super().update(parameters, gradients)


class OtherAverages(AdamW):
    """Averages of other slopes; what it makes of them is the formula that is told."""

    def update(self, parameters, gradients):
        super().update(parameters, scaled(gradients, 1.5))


@pytest.mark.parametrize("optimizer", [Twice(0.1), OtherAverages(0.01)], ids=["w", "averages"])
def test_an_optimizer_that_computes_something_else_is_told(optimizer):
    model = MLPLanguageModel(MLPConfig(5, 4, 3, 4))
    told = trace(model, TOKENIZER, optimizer, PROMPT)
    assert not told.update.agrees
    text = " ".join(part_of(text_of(told), 7).split())
    assert f"something else than this: it wrote {told_weight(model, told):.6g}" in text
    assert "another order" not in text and "exactly" not in text


def test_another_loss_is_told(monkeypatch):
    def halved(logits, targets):
        loss, dlogits = cross_entropy(logits, targets)
        return loss / 2, [[slope / 2 for slope in row] for row in dlogits]

    model = MLPLanguageModel(MLPConfig(5, 4, 3, 4))
    assert "another one" not in text_of(trace(model, TOKENIZER, SGD(0.1), PROMPT))
    monkeypatch.setattr("tiny_llm.view.trace.step.cross_entropy", halved)
    told = trace(model, TOKENIZER, SGD(0.1), PROMPT)
    assert f"another one here: {told.loss.each[-1]:.6g}." in text_of(told)


def test_nothing_is_replaced_any_more_once_a_forward_was_noted(build_rung):
    before = dict(vars(layers)), layers.multi_head_attention.__defaults__
    model = build_rung()
    with pytest.raises(ValueError), recorded(model):
        assert vars(layers) != before[0]
        model.forward([[]])
    assert (dict(vars(layers)), layers.multi_head_attention.__defaults__) == before


def test_a_layer_that_is_another_has_another_name(monkeypatch):
    def relu(x):
        """Negative numbers become 0: N x O -> N x O."""
        return [[max(0.0, value) for value in row] for row in x]

    relu.__module__ = "tiny_llm.layers"
    monkeypatch.setattr(layers, "tanh", relu)
    told = trace(MLPLanguageModel(MLPConfig(5, 4, 3, 4)), TOKENIZER, SGD(0.1), PROMPT)
    hidden = told.stages[2]
    assert (hidden.name, hidden.what) == ("hidden", "Negative numbers become 0")
    assert hidden.places[0].function.endswith("relu")


def test_words_are_those_of_the_function():
    assert in_words(tanh) == "Each number squashed into -1 .. 1"
    assert in_words(linear) == "y = x W + b"
    assert in_words(lambda: None) == "<lambda>"


def test_a_stage_is_the_line_of_the_rung_that_asked_for_it(build_rung):
    model = build_rung()
    with recorded(model) as calls:
        model.forward([[1, 2, 3]])
    for stage in stages(model, calls):
        if not stage.is_attention:
            file, line = stage.code_place.rsplit(":", 1)
            assert (
                stage.code.split(" = ")[0] in (ROOT / file).read_text().splitlines()[int(line) - 1]
            )


def with_all(value, model):
    """The model with this number everywhere in the tokens' vectors."""
    for row in model.parameters[next(iter(model.parameters))]:
        row[:] = [value] * len(row)
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_mean_nothing_are_refused(build, value):
    with pytest.raises(Diverged, match="too large"):
        trace(with_all(value, build()), TOKENIZER, SGD(), PROMPT)


@pytest.mark.parametrize("value", [0.0, 1e150, 1e200, 1e308])
def test_extreme_weights_give_a_whole_trace_or_a_clear_refusal(build, value):
    try:
        told = trace(with_all(value, build()), TOKENIZER, SGD(), PROMPT)
    except Diverged as error:
        assert value and "too large" in str(error)
    else:
        assert json.loads(as_json(told))["model"] == told.model
        assert max(map(display_width, as_lines(told, Style(width=40)))) <= 40


def test_a_step_that_does_not_help_is_told():
    model, optimizer = AttentionLanguageModel(AttentionConfig(5, 4, 4, 6)), AdamW(0.01)
    for _ in range(12):
        trace(model, TOKENIZER, optimizer, "ab")
    told = trace(model, TOKENIZER, optimizer, "ac")  # AdamW still goes towards b
    assert told.again.loss > told.again.loss_before
    assert "did NOT go down" in text_of(told)
    assert "The loss went down" not in text_of(told)


def test_a_step_without_end_is_refused():
    with pytest.raises(Diverged, match="learning rate"):
        trace(MLPLanguageModel(MLPConfig(5, 4, 3, 4)), TOKENIZER, SGD(1e300), "ab")


def test_the_json_is_the_data_and_ascii(build, build_optimizer):
    told = trace(build(), TOKENIZER, build_optimizer(), PROMPT)
    text = as_json(told)
    assert text.isascii()
    plain_data = json.loads(text, parse_constant=lambda name: pytest.fail(name))

    def lists(value):
        if isinstance(value, dict):
            return {key: lists(entry) for key, entry in value.items()}
        return [lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    assert plain_data == lists(asdict(told))


# ---------------------------------------------------------------- files and lines


def places_in(data):
    """Every reference to the source, wherever it stands in the data."""
    if isinstance(data, dict):
        if {"file", "line", "function"} == data.keys():
            yield data
        for entry in data.values():
            yield from places_in(entry)
    elif isinstance(data, list):
        for entry in data:
            yield from places_in(entry)


def check_places(told, folder):
    """Every reference points at the line that defines the function of that name."""
    places = list(places_in(told))
    for place in places:
        lines = (folder / place["file"]).read_text("utf-8").splitlines()
        *classes, name = place["function"].split(".")
        assert lines[place["line"] - 1].lstrip().startswith(f"def {name}(")
        for class_ in classes:
            above = [line for line in lines[: place["line"]] if line.startswith("class ")]
            assert re.match(rf"class {class_}\b", above[-1])
    return {place["function"] for place in places}


def test_every_part_and_stage_names_the_lines_that_did_it(build, build_optimizer):
    told = trace(build(), TOKENIZER, build_optimizer(), PROMPT)
    data = json.loads(as_json(told))
    functions = check_places(data, ROOT)
    assert {"CharTokenizer.encode", "embedding", "linear", "softmax", "cross_entropy"} <= functions
    assert {f"{told.model}.backward", f"{told.update.optimizer}.update"} <= functions
    for part in ("tokens", "vectors", "prediction", "loss", "backward", "update", "again"):
        assert data[part]["places"]
    assert all(stage["places"] for stage in data["stages"])
    text = text_of(told)
    for place in places_in(data):
        assert f"{place['file']}:{place['line']} {place['function']}" in text


def test_references_are_right_in_an_installed_package_too(tmp_path):
    shutil.copytree(
        ROOT / "tiny_llm", tmp_path / "tiny_llm", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "corpus.txt", tmp_path / "tiny_llm")
    ops = tmp_path / "tiny_llm" / "layers.py"
    ops.write_text("# one line more\n" + ops.read_text("utf-8"), "utf-8")
    done = command("trace", "--json", env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    told = json.loads(done.stdout)
    assert "softmax" in check_places(told, tmp_path)
    (softmax_place,) = told["prediction"]["places"]
    assert softmax_place["line"] == place_of(softmax).line + 1


def test_a_function_from_elsewhere_has_its_file_without_folders():
    place = place_of(test_a_function_from_elsewhere_has_its_file_without_folders)
    assert place.file.endswith("test_trace.py")


# ---------------------------------------------------------------- what is printed


def evaluate(expression):
    """A printed expression with its powers and products as Python has them."""
    python = expression.replace(" x ", " * ").replace("^", "**").replace("ln ", "log ")
    python = re.sub(rf"log ({NUMBER})", r"log(\1)", python)
    return eval(python, {"log": math.log, "sqrt": math.sqrt})


def bounds(expression):
    """The lowest and the highest result that the rounding of the printed numbers allows."""
    rounded = [m for m in re.finditer(NUMBER, expression) if re.search(r"[.e]", m[0])]
    results = []
    for signs in itertools.product((-1, 1), repeat=len(rounded)):
        varied = expression
        for sign, m in reversed(list(zip(signs, rounded))):
            moved = float(m[0]) + sign * half_unit(m[0], 6)
            varied = varied[: m.start()] + repr(moved) + varied[m.end() :]
        results.append(evaluate(varied))
    return min(results), max(results)


def is_arithmetic(part):
    return bool(re.fullmatch(rf"(?:{NUMBER}|-?ln|sqrt| x |[-+/^() ])+", part))


def equations(text):
    """name -> the printed expression and its printed result."""
    found = {}
    for line in text.splitlines():
        name, *parts = line.strip().split(" = ")
        if len(parts) > 1 and is_arithmetic(parts[-2]) and re.fullmatch(NUMBER, parts[-1]):
            found[name] = parts[-2], parts[-1]
    return found


def check_equation(expression, result):
    low, high = bounds(expression)
    slack = half_unit(result, 6)
    assert low - slack <= float(result) <= high + slack, (expression, result)


def check_arithmetic(told):
    """Every calculation that is written out gives what is printed behind it."""
    found = equations(text_of(told))
    for expression, result in found.values():
        check_equation(expression, result)
    return found


def test_the_arithmetic_that_is_written_out_is_right(build, build_optimizer):
    model, optimizer = build(), build_optimizer()
    for _ in range(3):
        told = trace(model, TOKENIZER, optimizer, PROMPT)
        found = check_arithmetic(told)
        names = {"-ln p(right)", "guessing", "new w", "change"}
        if told.update.moments:
            names |= {"new m", "new v", "m'", "v'"}
        assert found.keys() == names
        update = told.update
        assert_printed(found["new w"][1], update.after, 6)
        assert update.computed == pytest.approx(update.after, rel=1e-12, abs=1e-15)
        assert update.after == told_weight(model, told)
        assert_printed(found["-ln p(right)"][1], told.loss.each[-1], 6)
        assert_printed(found["change"][1], told.again.loss - told.again.loss_before, 6)


def told_weight(model, told):
    weight = told.backward.followed
    return model.parameters[weight.name][weight.row][weight.column]


def test_the_moments_are_the_optimizers():
    model, optimizer = MLPLanguageModel(MLPConfig(5, 4, 3, 4)), AdamW(0.01, weight_decay=0.5)
    trace(model, TOKENIZER, optimizer, PROMPT)
    before = copy.deepcopy(optimizer.state)
    told = trace(model, TOKENIZER, optimizer, PROMPT)
    weight, moments = told.backward.followed, told.update.moments
    for letter in "mv":
        was, now = (
            state[f"{letter}.{weight.name}"][weight.row][weight.column]
            for state in (before, optimizer.state)
        )
        assert getattr(moments, f"{letter}_before") == was != 0
        assert getattr(moments, letter) == now
    assert (moments.step, moments.weight_decay) == (2, 0.5)
    found = check_arithmetic(told)
    assert_printed(found["new m"][1], moments.m, 6)
    assert_printed(found["v'"][1], moments.v_corrected, 6)


@pytest.mark.parametrize("expression", ["0.21 - 0.3 x 0.79", "-ln 0.5", "(0.1 / (1 - 0.9^2))"])
def test_wrong_arithmetic_is_noticed(expression):
    right = evaluate(expression)
    check_equation(expression, f"{right:.6g}")
    with pytest.raises(AssertionError):
        check_equation(expression, f"{right * 1.0001:.6g}")


def test_every_printed_number_is_the_datas(build):
    told = trace(build(), TOKENIZER, AdamW(0.01), PROMPT)
    text = text_of(told)
    stages = [numbers for stage in told.stages for numbers in stage.numbers]
    ranges = re.findall(rf"({NUMBER}) \.\. ({NUMBER}) ", part_of(text, 3))
    ranges = [pair for pair in ranges if pair != ("-1", "1")]  # a sentence on tanh
    assert len(ranges) == len(stages)
    for (low, high), numbers in zip(ranges, stages):
        assert_printed(low, numbers.lowest)
        assert_printed(high, numbers.highest)
    rows = re.findall(r"\[(.*)\]$", part_of(text, 2), re.MULTILINE)
    values = [row.values for row in told.vectors.rows] + [told.vectors.total or []]
    for shown, row in zip(rows, values):
        for number, value in zip(shown.split(), row):
            assert_printed(number, value)
        assert len(shown.split()) == len(row)
    guesses = re.findall(rf"^ +({NUMBER})  (\S) ", part_of(text, 4), re.MULTILINE)
    assert len(guesses) == 5
    for (p, label), guess in zip(guesses, told.prediction.guesses):
        assert_printed(p, guess.probability)
        assert label == guess.token.text
    assert f"rank {told.prediction.right.rank} of 5" in text
    norms = [*told.backward.norms, told.backward]
    lines = re.findall(rf"^  \S.*? +({NUMBER})(?: [^ \d]*)?$", part_of(text, 6), re.MULTILINE)
    for shown, gradient in zip(lines, norms):
        assert_printed(shown, gradient.norm)
    assert len(lines) >= len(norms)
    slope = told.backward.slope
    for sign, loss in (("+", slope.above), ("-", slope.below)):
        (shown,) = re.findall(rf"loss\(w \{sign} 1e-05\) = (.*)", text)
        assert_printed(shown, loss)
    (shown,) = re.findall(r"difference / \(2 x 1e-05\) = (.*)", text)
    assert_printed(shown, slope.numerical, 6)


@pytest.mark.parametrize(
    "model",
    [
        AttentionLanguageModel(AttentionConfig(5, 8, 4)),
        ModernLanguageModel(ModernConfig(5, 8, 4, 2, 1)),
    ],
    ids=["attention", "modern"],
)
def test_scores_and_weights_stand_under_their_keys(model):
    told = trace(model, TOKENIZER, SGD(), PROMPT)
    (scores, weights) = next(s for s in told.stages if s.is_attention).numbers
    rows = dict(re.findall(r"^    (key|score|weight) +(.*)", text_of(told), re.MULTILINE))
    assert rows["key"].split() == list(PROMPT[:-1])
    for shown, value in zip(rows["score"].split(), scores.row):
        assert_printed(shown, value)
    for shown, value in zip(rows["weight"].split(), weights.row):
        assert_printed(shown, value)
    assert len(rows["score"].split()) == len(rows["weight"].split()) == len(PROMPT) - 1


def test_of_many_keys_the_heaviest_are_shown():
    model = AttentionLanguageModel(AttentionConfig(5, 64, 4))
    told = trace(model, TOKENIZER, SGD(), "abcde" * 10)
    (stage,) = (stage for stage in told.stages if stage.is_attention)
    text = text_of(told)
    assert "(the 20 heaviest of 49)" in text
    (shown,) = re.findall(r"^    weight +(.*)", text, re.MULTILINE)
    heaviest = sorted(stage.numbers[1].row)[-20:]
    for number, weight in zip(sorted(shown.split()), heaviest):
        assert_printed(number, weight)


# Something of each kind that can break a column, as in test_view.py.
ODD = "a \n\t\x1b\xad\u0301\u0903\u200d\u200f\u05d0\u0661\u4e2d\u3099\u302a\U0001f600\ud800\u2800"
characters = st.sampled_from(ODD) | st.characters()


@given(
    st.text(characters, min_size=2, max_size=40),
    st.builds(Style, st.booleans(), st.booleans(), st.integers(40, 100)),
    st.sampled_from(["mlp", "attention", "modern"]),
    st.integers(1, 12),
    st.sampled_from([1.0, 1e6]),
)
@settings(max_examples=60, deadline=None)
def test_a_trace_of_any_text_keeps_to_its_columns(text, style, rung, length, scale):
    tokenizer = CharTokenizer.from_text(text)
    size = tokenizer.vocab_size
    model = {
        "mlp": lambda: MLPLanguageModel(MLPConfig(size, length, 2, 50)),
        "attention": lambda: AttentionLanguageModel(AttentionConfig(size, length, 1)),
        "modern": lambda: ModernLanguageModel(ModernConfig(size, length, 4, 2, 2)),
    }[rung]()
    table = next(iter(model.parameters))
    model.parameters[table] = [[w * scale for w in row] for row in model.parameters[table]]
    told = trace(model, tokenizer, AdamW(), text, grad_clip=0.1)
    for line in as_lines(told, style):
        assert display_width(line) <= style.width, line
        assert all(c.isprintable() or c == "\u200e" for c in plain(line))
        assert style.color or "\x1b" not in line
        assert style.unicode or line.isascii()
        line.encode("utf-8")


def test_long_names_and_numbers_keep_to_40_columns():
    tokenizer = BPETokenizer.train("incomprehensibilities and 中文中文中文 " * 9, 300)
    model = ModernLanguageModel(ModernConfig(300, 64, 8, 2, 11))
    told = trace(model, tokenizer, AdamW(1.23456789e-7), "incomprehensibilities 中文中文 中" * 3)
    assert max(map(display_width, as_lines(told, Style(width=40)))) <= 40


# ---------------------------------------------------------------- strips and columns


def test_a_strip_runs_from_the_lowest_to_the_highest():
    row = [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    assert strip(row, -4, 4, 9, Style()) == "▁▂▃▄▅▆▇██"
    assert strip(row, -4, 4, 9, Style(unicode=False)) == ".:-=+*%##"
    assert strip(row, -4, 4, 5, Style()) == "▁▂▃▄…"
    assert strip(row, -4, 4, 5, Style(unicode=False)) == ".:-=~"
    assert strip([2.0, 2.0], 2, 2, 9, Style()) == "▁▁"
    assert len(HEIGHTS) == len(ASCII_HEIGHTS) == len(set(ASCII_HEIGHTS))


def test_a_strip_has_one_colour_below_0_and_another_above():
    drawn = strip([-1.0, -1.0, 0.0, 1.0, -1.0], -1, 1, 9, Style(color=True))
    below, above = f"\x1b[{NEGATIVE}m", f"\x1b[{POSITIVE}m"
    assert drawn == f"{below}▁▁\x1b[0m{above}▅█\x1b[0m{below}▁\x1b[0m"


def test_columns_are_cut_to_the_width():
    rows = {"token": ["a", "中", "c"], "id": ["1", "22", "3"]}
    assert list(in_columns(rows, Style())) == ["  token  a 中  c", "  id     1 22  3"]
    assert list(in_columns(rows, Style(width=14))) == [
        "  token  a 中", "  id     1 22", "  token  c", "  id     3",
    ]  # fmt: skip


# ---------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words, env=(), **settings):
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tiny_llm", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **dict(env)},
        capture_output=True, timeout=120, check=True, **settings,
    )  # fmt: skip


def json_of(capsys, *words):
    assert main(["trace", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("model", RUNGS)
def test_the_loss_falls(folder, capsys, model):
    told = json_of(capsys, "--model", model)
    assert told["again"]["loss"] < told["again"]["loss_before"]
    assert told["tokens"]["targets"][-1]["text"] == " "
    assert told["config"]["context_length"] == 16
    assert told["backward"]["slope"]["agree"]
    assert main(["trace", "--full", "--model", model]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "The loss went down." in " ".join(out.split())
    assert re.findall(r"^(\d)\. ", out, re.MULTILINE) == list("12345678")


def test_flags_change_the_step(folder, capsys):
    told = json_of(capsys, "--optimizer", "adamw", "--lr", "0.25", "--d-hidden", "7", "--seed", "1")
    assert told["update"]["optimizer"] == "AdamW"
    assert told["update"]["learning_rate"] == 0.25
    assert told["config"]["d_hidden"] == 7
    assert told["vectors"] != json_of(capsys, "--seed", "2")["vectors"]
    assert told["vectors"]["rows"] == json_of(capsys, "--seed", "1")["vectors"]["rows"]


def train(*flags):
    assert main(["train", "--steps", "3", "-n", "1", "--quiet", *flags]) == 0


@pytest.mark.parametrize("model", RUNGS)
def test_a_checkpoint_takes_its_own_next_step_and_is_not_changed(folder, capsys, model):
    train("--model", model, "--context-length", "5", "--steps", "9", "--stop-after", "4")
    capsys.readouterr()
    file = Path("runs") / f"{model}.safetensors"
    content, saved = file.read_bytes(), load_run(file, to_train=True)
    told = json_of(capsys, "-c", str(file), "-p", "token")
    assert file.read_bytes() == content
    assert told["steps_before"] == 4
    share = schedule_of(saved.options)(4) / saved.options.batch_size
    assert told["update"]["learning_rate"] == share
    context, targets = examples(saved.tokenizer.encode("token"), saved.model)
    loss, gradients = loss_and_gradients(saved.model, [context], targets)
    assert told["loss"]["loss"] == loss
    saved.optimizer.learning_rate = told["update"]["learning_rate"]
    saved.optimizer.update(saved.model.parameters, gradients)
    weight = told["backward"]["followed"]
    row = saved.model.parameters[weight["name"]][weight["row"]]
    assert told["update"]["after"] == row[weight["column"]]
    if model == "modern":
        assert told["update"]["moments"]["step"] == 5
    assert json_of(capsys, "-c", str(file), "--lr", "0.5")["update"]["learning_rate"] == 0.5


def test_a_checkpoint_clips_as_it_did_in_training(folder, capsys):
    train("--grad-clip", "0.001")
    capsys.readouterr()
    told = json_of(capsys, "-c", "runs/mlp.safetensors")
    assert told["update"]["clipping"]["limit"] == 0.001


def test_models_of_lines_and_of_pieces(folder, capsys):
    Path("names.txt").write_text("emma\nolivia\nava\nisabella\n" * 5, encoding="utf-8")
    told = json_of(capsys, "--data", "names.txt", "--lines")
    assert "".join(t["text"] for t in told["tokens"]["seen"]).startswith("\nemma")
    train("--data", "names.txt", "--lines")
    capsys.readouterr()
    saved = load_run(Path("runs/mlp.safetensors"))
    ids = saved.tokenizer.encode("\n")
    ids += generate(
        saved.model, ids, 6, random.Random(), Sampling(temperature=0)
    )  # what it writes itself
    told = json_of(capsys, "-c", "runs/mlp.safetensors")
    assert [token["id"] for token in told["tokens"]["seen"]] == ids[: told["tokens"]["given"] - 1]
    assert told["tokens"]["given"] == (1 + ids[1:].index(ids[0]) + 1 if ids[0] in ids[1:] else 7)
    told = json_of(capsys, "--tokenizer", "bpe", "--vocab-size", "300", "--model", "modern")
    assert told["prediction"]["vocab_size"] == 300
    assert max(len(token["text"]) for token in told["tokens"]["seen"]) > 1


def test_a_text_without_the_usual_prompt(folder, capsys):
    Path("text.txt").write_text("xyzzy " * 20, encoding="utf-8")
    told = json_of(capsys, "--data", "text.txt")
    assert "".join(t["text"] for t in told["tokens"]["seen"]) == "xyzzy xyzzy xyzz"


@pytest.mark.parametrize(
    "flags, code, message",
    [
        (["-p", "a"], 1, "needs 2 tokens or more"),
        (["-p", "a\u4e2d"], 1, "does not know '\u4e2d'"),
        (["--lr", "1e300"], 1, "the learning rate"),
        (["--model", "mlp", "--n-heads", "2"], 2, "--n-heads is no size of --model mlp"),
        (["--lr", "0"], 2, "must be above 0"),
        (["--data", "none.txt"], 1, "there is no file none.txt"),
        (["-c", "none.safetensors"], 1, "there is no checkpoint"),
        (["-c", "x", "--d-model", "4"], 2, "--d-model is for a new model"),
        (["-c", "x", "--data", "y"], 2, "--data is for a new model"),
        (["-c", "x", "--seed", "0"], 2, "--seed is for a new model"),
    ],
)
def test_mistakes_get_one_line(folder, capsys, flags, code, message):
    assert main(["trace", *flags]) == code
    line = error_of(capsys)
    assert line.startswith("tiny-lm: error: ")
    assert message in line


def test_a_checkpoint_of_another_rung_is_named(folder, capsys):
    train()
    capsys.readouterr()
    assert main(["trace", "--quiet", "-c", "runs/mlp.safetensors", "--model", "modern"]) == 2
    assert error_of(capsys).endswith("runs/mlp.safetensors is no modern: it is mlp")


def test_piped_there_is_no_colour(folder):
    out = command("trace", env={"PYTHONIOENCODING": "ascii"}).stdout.decode("utf-8")
    assert "\x1b" not in out and "\\u" not in out
    assert all(display_width(line) <= 80 for line in out.splitlines())
    assert b"\x1b[1m" in command("trace", "--color", "always").stdout


def test_a_terminal_of_ascii_gets_ascii(folder, monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    terminal = Terminal(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["trace", "--color", "never"]) == 0
    terminal.flush()
    out = terminal.buffer.getvalue()
    assert b"\\u" not in out and b"\x1b" not in out
    assert len(out.splitlines()) > 20 and all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("model", RUNGS)
def test_the_forward_alone(folder, capsys, model):
    assert main(["trace", "--full", "--model", model, "--forward-only", "-p", "models"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(\d)\. ", out, re.MULTILINE) == list("1234")
    assert not any(word in out for word in ("backward", "target", "right", "guessed", "followed"))


def test_the_forward_alone_needs_nothing_to_predict(folder, capsys):
    told = json_of(capsys, "--forward-only", "-p", "e")
    assert [token["text"] for token in told["tokens"]["seen"]] == ["e"]  # the last one, too
    assert (told["tokens"]["targets"], told["prediction"]["right"]) == ([], None)
    assert told["loss"] is told["backward"] is told["update"] is told["again"] is None
    train("--model", "modern", "--context-length", "5")
    capsys.readouterr()
    told = json_of(capsys, "--forward-only", "-c", "runs/modern.safetensors", "-p", "language")
    assert "".join(token["text"] for token in told["tokens"]["seen"]) == "guage"
    assert told["steps_before"] == 3
    model = load_run(Path("runs/modern.safetensors")).model
    logits, _ = model.forward([[token["id"] for token in told["tokens"]["seen"]]])
    assert told["prediction"]["guesses"][0]["logit"] == max(logits[-1])


def test_all_heads_key_by_key(folder, capsys):
    assert main(["trace", "--full", "--model", "modern", "-p", "models"]) == 0
    short = capsys.readouterr().out
    assert main(["trace", "--full", "--model", "modern", "-p", "models", "--show-attention"]) == 0
    assert (short.count("key by key"), capsys.readouterr().out.count("key by key")) == (1, 4)


@pytest.mark.parametrize("model", RUNGS)
def test_a_traced_step_makes_the_text_likelier_and_does_not_learn_it_by_heart(capsys, model):
    """The text is alone, so the step is its share of a step that training makes for a batch."""
    told = json_of(capsys, "--model", model)
    assert 0.02 < told["loss"]["loss"] - told["again"]["loss"] < 1.5


def test_a_deep_trace_is_short_too(capsys, monkeypatch, model="modern"):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["trace", "--model", model, "--n-layers", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 48
    assert "  The stages of layer 1 of 3 come again in each of the 2 after it." in lines


@pytest.mark.parametrize("model", RUNGS)
@pytest.mark.parametrize("flags", [[], ["--forward-only"]])
def test_a_trace_is_short_unless_all_is_asked_for(capsys, monkeypatch, model, flags):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["trace", "--model", model, *flags]) == 0
    short = capsys.readouterr().out.splitlines()
    assert len(short) <= 48 and max(map(len, short)) <= 80
    assert main(["trace", "--model", model, "--full", *flags]) == 0
    full = capsys.readouterr().out.splitlines()
    assert len(full) > len(short)
    assert "--full" in short[-1]
    titles = [line for line in full if re.match(r"[1-8]\. ", line)]
    assert titles == [line for line in short if re.match(r"[1-8]\. ", line)]
    for start in ("  loss before", "  loss after"):
        numbers = [line.split()[-1] for line in full if line.startswith(start)]
        assert numbers == [line.split()[-1] for line in short if line.startswith(start)], start
