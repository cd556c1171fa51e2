"""tiny-lm quantize, and --int8: a model with weights of one byte."""

import re
from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.cli.introduce import count_parameters
from tiny_llm.fast.packed import Packed
from tiny_llm.run.saved import is_packed, load_run

SMALL = ["--data", "text.txt", "--steps", "3", "--context-length", "8", "-n", "0", "--quiet"]


@pytest.fixture(autouse=True)
def model(text_folder, capsys):
    assert main(["train", "--model", "modern", *SMALL, "-o", "m.safetensors"]) == 0
    capsys.readouterr()


def said(capsys, *words, code=0):
    assert main(list(words)) == code, capsys.readouterr().err
    return capsys.readouterr()


def test_a_quantized_file_is_read_by_every_command_that_only_reads(capsys):
    err = said(capsys, "quantize", "m.safetensors").err
    sizes = [Path(name).stat().st_size for name in ("m.int8.safetensors", "m.safetensors")]
    assert "saved m.int8.safetensors: {:,} bytes, of {:,}.".format(*sizes) in err
    assert sizes[0] < sizes[1] / 8  # which holds the optimizer's averages, too
    assert is_packed(load_run(Path("m.int8.safetensors")).model)
    for words in (
        ["generate", "-n", "5"],
        ["generate", "-n", "5", "--int8", "--show-attention"],
        ["eval", "--data", "text.txt"],
        ["eval", "--data", "text.txt", "--without-head", "1.1"],
        ["attention"],
        ["report"],
        ["trace", "--forward-only"],
    ):
        assert "int8 weights" in said(capsys, *words, "-c", "m.int8.safetensors").err


def test_a_quantized_file_is_read_without_decoding_it(capsys, monkeypatch):
    """A large one would take minutes."""
    said(capsys, "quantize", "m.safetensors")

    def decoded(self):
        raise AssertionError("its rows were decoded")

    monkeypatch.setattr(Packed, "__iter__", decoded)
    run = load_run(Path("m.int8.safetensors"))
    assert count_parameters(run) == count_parameters(load_run(Path("m.safetensors")))
    said(capsys, "generate", "-c", "m.int8.safetensors", "-n", "5")


def test_it_says_and_writes_the_same_as_the_model_that_is_rounded_on_the_spot(capsys):
    said(capsys, "quantize", "m.safetensors", "-o", "small")
    for words in ["generate", "-n", "20"], ["eval", "--data", "text.txt"]:
        from_file = said(capsys, *words, "-c", "small").out
        rounded = said(capsys, *words, "-c", "m.safetensors", "--int8").out
        assert from_file and from_file in re.sub("validation part, not rounded.*\n", "", rounded)


def test_eval_says_what_it_costs(capsys):
    table = said(capsys, "eval", "--data", "text.txt", "-c", "m.safetensors", "--int8").out
    rows = dict(re.findall(r"^(validation part\S*(?: not rounded)?) .*?(\d\.\d{3})", table, re.M))
    exact = said(capsys, "eval", "--data", "text.txt", "-c", "m.safetensors").out
    assert f"{rows['validation part, not rounded']} " in exact
    assert abs(float(rows["validation part"]) - float(rows["validation part, not rounded"])) < 0.01


@pytest.mark.parametrize(
    "words", [["train", "--resume", "m8", "--data", "text.txt"], ["trace", "-c", "m8"]]
)
def test_training_it_is_refused(capsys, words):
    said(capsys, "quantize", "m.safetensors", "-o", "m8")
    before = Path("m8").read_bytes()
    assert "m8 has int8 weights, which are read and not trained" in said(capsys, *words, code=1).err
    assert Path("m8").read_bytes() == before


def test_what_is_there_is_kept_or_left_alone(capsys):
    said(capsys, "quantize", "m.safetensors", "-o", "m8")
    assert "m8 has int8 weights already" in said(capsys, "quantize", "m8", code=1).err
    first = Path("m8").read_bytes()
    assert main(["train", "--model", "modern", *SMALL, "--seed", "1", "-o", "n"]) == 0
    assert "kept: the older m8 is now m8.bak" in said(capsys, "quantize", "n", "-o", "m8").err
    assert Path("m8.bak").read_bytes() == first != Path("m8").read_bytes()
    for name in "text.txt", "m.safetensors":
        before = Path(name).read_bytes()
        problem = f"{name} exists and is no model with int8 weights; choose another --out"
        assert problem in said(capsys, "quantize", "n", "-o", name, code=1).err
        assert Path(name).read_bytes() == before


def test_int8_weights_cannot_be_said_to_be_rounded_twice(capsys):
    said(capsys, "quantize", "m.safetensors", "-o", "m8")
    plain = said(capsys, "eval", "--data", "text.txt", "-c", "m8").out
    assert said(capsys, "eval", "--data", "text.txt", "-c", "m8", "--int8").out == plain


def test_of_a_task_both_shares_are_said(capsys):
    words = ["train", "--task", "find", "--model", "attention", "--steps", "2", "-o", "t"]
    said(capsys, *words, "--quiet")
    out = said(capsys, "eval", "-c", "t", "--int8").out
    assert re.findall(r"find \(.*\): (not rounded, )?[\d.]+% right", out) == ["", "not rounded, "]
