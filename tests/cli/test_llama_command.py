"""--model llama: every command takes it, as it takes the rungs."""

import re
from pathlib import Path

import pytest
from pytest import approx

from tiny_llm.beyond.models import plug_in
from tiny_llm.cli import main
from tiny_llm.fast.kv_cache import NOTHING, Reader, read_on
from tiny_llm.run.saved import load_run
from tiny_llm.run.without_head import switch_off

SIZES = ["--context-length", "8", "--d-model", "8", "--n-heads", "2", "--n-kv-heads", "1"]
TRAIN = ["train", "--model", "llama", "--data", "text.txt", *SIZES, "--n-layers", "2", "-n", "5"]


@pytest.fixture(autouse=True)
def model(text_folder, capsys):
    plug_in()
    assert main([*TRAIN, "--d-hidden", "6", "--steps", "6", "-o", "m", "--quiet"]) == 0
    capsys.readouterr()


def said(capsys, *words, code=0):
    assert main(list(words)) == code, capsys.readouterr().err
    return capsys.readouterr()


@pytest.mark.parametrize(
    "words, shows",
    [
        (["generate", "-c", "m", "-n", "20", "--show-attention"], "layer 2 of 2, head 2 of 2"),
        (["eval", "-c", "m", "--data", "text.txt"], "validation part"),
        (["attention", "-c", "m"], "reads most from"),
        (["trace", "-c", "m", "--full"], "they agree"),
        (["trace", "--model", "llama", "--data", "text.txt"], "rms_norm"),
        (["gradcheck", "--model", "llama"], "llama: all "),
        (["eval", "-c", "m", "--data", "text.txt", "--without-head", "2.2"], "without head 2.2"),
        (["eval", "-c", "m", "--data", "text.txt", "--int8"], "not rounded"),
    ],
)
def test_a_command_takes_it(capsys, words, shows):
    assert shows in said(capsys, *words).out


def test_it_is_reported_and_quantized(capsys):
    said(capsys, "report", "-c", "m")
    assert "llama" in Path("m.report.html").read_text("utf-8")
    said(capsys, "quantize", "m", "-o", "m8")
    assert said(capsys, "generate", "-c", "m8", "-n", "9", "--temperature", "0").out


@pytest.mark.parametrize("more", [[], ["--workers", "2", "--no-tie-embeddings"]])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(more):
    words = [*TRAIN, *more, "--steps", "6", "--quiet"]
    assert main([*words, "-o", "whole"]) == 0
    assert main([*words, "-o", "half", "--stop-after", "3"]) == 0
    assert main(["train", "--resume", "half", "--data", "text.txt", "--quiet"]) == 0
    assert Path("half").read_bytes() == Path("whole").read_bytes()


def test_it_takes_a_task(capsys):
    words = ["train", "--task", "find", "--model", "llama", "--steps", "2", "-o", "t"]
    words += SIZES[2:]  # a task has a window of its own
    assert re.search(r"find \(.*\): [\d.]+% right", said(capsys, *words).out)


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--n-heads", "2", "--n-kv-heads", "3"], "cannot share n_kv_heads"),
        (["--d-embedding", "4"], "--d-embedding is no size of --model llama"),
        (["--dropout", "0.1"], "--dropout is there for --model modern, not for llama"),
    ],
)
def test_what_it_has_not_is_refused(capsys, flags, problem):
    assert problem in said(capsys, "train", "--model", "llama", *flags, code=2).err


def test_what_is_remembered_gives_the_same_logits():
    model = load_run(Path("m")).model
    text = [1, 2, 3, 4, 5, 6, 7, 1]
    whole, _ = model.forward([text])
    logits, (past,) = read_on(model, [NOTHING], [text[:3]])
    assert logits[0] == approx(whole[2], abs=1e-12)
    for place in range(3, len(text)):
        logits, (past,) = read_on(model, [past], [text[place : place + 1]])
        assert logits[0] == approx(whole[place], abs=1e-12)
    reader, plain = Reader(model), Reader(model, remember=False)
    for length in range(1, 9):
        assert reader(text[:length]) == approx(plain(text[:length]), abs=1e-12)


def test_a_head_that_is_off_writes_nothing():
    model = load_run(Path("m")).model
    _, before = model.forward([[1, 2, 3]])
    switch_off(model, 1, 2)
    mixed = before.blocks[0].mixed
    weight = model.parameters["layers.0.self_attn.o_proj.weight"]
    for row in mixed:
        out = [sum(x * w for x, w in zip(row, line)) for line in weight]
        of_head_1 = [sum(x * w for x, w in zip(row[:4], line[:4])) for line in weight]
        assert out == approx(of_head_1, abs=1e-12)
    with pytest.raises(ValueError, match=r"has no attention head 1\.3; its last is 2\.2"):
        switch_off(model, 1, 3)
