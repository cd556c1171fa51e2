"""What is measured is what is claimed: the counts are exact, the yardstick is the same model."""

import json
import os
import re
import subprocess
import sys

import pytest
from pytest import approx

from benchmarks import autograd, performance
from benchmarks.pages import renewed
from tiny_llm import AdamW, ModernConfig, ModernLanguageModel, cross_entropy
from tiny_llm.cli import main
from tiny_llm.fast import bench
from tiny_llm.fast.bench import QUICK, SIZES, ProductTimes, Size, StepTime
from tiny_llm.fast.products import WAYS, Chosen
from tiny_llm.model import rows_of

CONTEXTS, TARGETS = [[0, 3, 1, 4], [2, 2]], [3, 1, 4, 0, 2, 1]


def close(ours, theirs, abs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        for row, other in zip(rows_of(ours[name]), rows_of(tensor)):
            assert row == approx(other, abs=abs), name


def rung_3(tied, layers=2):
    config = ModernConfig(5, 4, 8, n_heads=2, n_layers=layers, tie_embeddings=tied)
    model = ModernLanguageModel(config, seed=1)
    for tensor in model.parameters.values():  # no bias of 0 and no gain of 1, which hide errors
        for row in rows_of(tensor):
            row[:] = [number + 0.1 * (i % 3) for i, number in enumerate(row)]
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_the_yardstick_has_the_loss_and_the_slopes_of_rung_3(tied):
    model = rung_3(tied)
    logits, cache = model.forward(CONTEXTS)
    loss, dlogits = cross_entropy(logits, TARGETS)
    gradients = model.backward(dlogits, cache)
    scalars = autograd.Scalars(model.config, model.parameters)
    value = scalars.loss(CONTEXTS, TARGETS)
    value.backward()
    assert value.data == approx(loss, abs=1e-12)
    assert scalars.read("data") == model.parameters
    close(scalars.read("grad"), gradients, abs=1e-9)


def test_the_yardstick_makes_the_same_steps():
    model, optimizer = rung_3(tied=True, layers=1), AdamW()
    scalars = autograd.Scalars(model.config, model.parameters)
    for _ in range(3):
        logits, cache = model.forward(CONTEXTS)
        loss, dlogits = cross_entropy(logits, TARGETS)
        optimizer.update(model.parameters, model.backward(dlogits, cache))
        assert autograd.training_step(scalars, CONTEXTS, TARGETS) == approx(loss, abs=1e-9)
    close(scalars.read("data"), model.parameters, abs=1e-9)


def formula(size):
    """The multiply-adds of a step: each product of the forward, and two for it in the backward."""
    c, n = size.config, size.tokens
    d, t = c.d_model, c.context_length
    block = n * 12 * d * d + size.sequences * 2 * t * t * d  # the four layers; scores and mixtures
    return 3 * (c.n_layers * block + n * d * c.vocab_size)


@pytest.mark.parametrize(
    "size", [*SIZES[:2], pytest.param(SIZES[2], marks=pytest.mark.slow)], ids=lambda size: size.name
)
def test_the_multiply_adds_of_a_step_are_counted_exactly(size):
    assert bench.multiply_adds(bench.step_products(size).elements()) == formula(size)


def test_the_counted_products_are_those_that_really_run(monkeypatch):
    real, name_of = [], Chosen._name

    def noted(self, n, k, m):
        real.append((n, k, m))
        return name_of(self, n, k, m)

    monkeypatch.setattr(Chosen, "_name", noted)
    bench.training_step(SIZES[0])()
    monkeypatch.undo()
    assert sorted(real) == sorted(bench.step_products(SIZES[0]).elements())
    assert SIZES[0].main_product in real
    assert "counted" not in WAYS


def test_the_steps_that_are_timed_learn():
    step = bench.training_step(SIZES[0])
    first = step()
    for _ in range(20):
        last = step()
    assert last < first


def test_best_seconds_takes_the_shortest_of_at_least_so_many_runs(monkeypatch):
    clock = iter([0, 1, 4, 5, 7, 8, 13, 13])  # began; start and end, three times; a look
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    assert bench.best_seconds(lambda: None, seconds=1, least=3) == 2


def test_a_way_that_would_take_too_long_is_left_out(monkeypatch):
    shapes = [(2, 3, 4), (4, 3, 2), (20, 30, 40)]
    monkeypatch.setattr(bench, "best_seconds", lambda *_, **__: 24e-9)
    small, same, large = bench.time_products(shapes, seconds=0.1, longest=20e-6)
    assert list(small.seconds) == list(same.seconds) == list(WAYS)
    assert list(large.seconds) == [large.chosen]  # which is measured whatever it takes
    assert small.nanoseconds("loops") == approx(1)


def test_what_follows_from_the_measured_seconds():
    times = ProductTimes((10, 10, 10), {"loops": 2e-6, "mapped": 1e-6}, "loops")
    assert times.best == "mapped"
    assert times.nanoseconds("mapped") == approx(1)
    step = StepTime(Size("", ModernConfig(5, 8), 4), 1000, 2e-6, 1e-6)
    assert (step.share, step.nanoseconds) == (0.5, approx(2))
    assert step.tokens_per_second == approx(32 / 2e-6)


def test_bench_prints_two_tables(capsys):
    assert main(["bench", "--quick", "--color", "never"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert any(re.split("  +", line)[1:] == list(map(text_of, QUICK.shapes)) for line in lines)
    for name in (*WAYS, "int8, packed", "micro ", "medium "):
        assert any(line.startswith(name) for line in lines)
    assert "small" not in out
    assert out.count("*") == 1 + len(QUICK.shapes)
    assert len(err.splitlines()) == len(QUICK.shapes) + len(QUICK.sizes)
    assert max(map(len, lines)) <= 80


def text_of(shape):
    return " x ".join(map(str, shape))


def test_bench_prints_json(capsys):
    assert main(["bench", "--quick", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    results = json.loads(out)
    assert err == ""
    assert results["python"].split()[1] == ".".join(map(str, sys.version_info[:3]))
    assert [step["size"] for step in results["steps"]] == ["micro", "medium"]
    for product in results["products"]:
        assert product["auto"] in WAYS
        assert min(product["nanoseconds"].values()) > 0
    for step in results["steps"]:
        assert step["tokens_per_second"] == approx(step["tokens"] / step["seconds"])


def test_the_section_of_the_readme_shows_every_interpreter_and_figure():
    results = json.loads(performance.RESULTS.read_text("utf-8"))
    table, _, note = performance.section(results).partition("\n\n")
    head, _, *rows = table.splitlines()
    assert len(rows) == len(performance.ROWS)
    assert all(row.count("|") == len(results["pythons"]) + 2 for row in [head, *rows])
    assert results["machine"] in note
    page = "before\n<!-- begin performance -->\nold\n<!-- end performance -->\nafter\n"
    texts = {"performance": performance.section(results)}
    assert renewed(page, texts) == page.replace("old", texts["performance"])
    assert renewed("no marks", texts) == "no marks"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["products.py", "performance.py"])
def test_the_scripts_run(script, tmp_path):
    flags = {"products.py": ["--quick"], "performance.py": ["--child", "startup"]}[script]
    done = subprocess.run(
        [sys.executable, performance.ROOT / "benchmarks" / script, *flags],
        env={**os.environ, "PYTHONPATH": str(performance.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
