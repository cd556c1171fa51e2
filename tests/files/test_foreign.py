"""Files of strangers: what has no end is not read, and JSON that asks for much is refused."""

import json
import math
import os
from pathlib import Path

import pytest
from conftest import memory_below

from tiny_llm.cli import main
from tiny_llm.files.foreign import content_of, opened, parsed


def test_what_is_usual_is_parsed_as_json_is():
    value = {"a": [1, -2.5e3, None, True, "\u00e9\n"], "b": {"c": {}}, "n": 10**17}
    assert parsed(json.dumps(value)) == value


def test_numbers_that_are_not_finite_only_where_they_may_be():
    for text in ("NaN", "Infinity", "-Infinity", "1e999"):
        with pytest.raises(ValueError, match="not finite"):
            parsed(f'{{"a": {text}}}')
        assert not math.isfinite(parsed(f'{{"a": {text}}}', all_floats=True)["a"])


@pytest.mark.parametrize(
    "text",
    ["9" * 10**6, "-" + "1" * 400, "[" * 10**6, "[" * 21 + "]" * 21,
     '{"a":' * 500 + "1" + "}" * 500,
     "[" + "[]," * 10**6 + "0]", "[" + "0," * 3 * 10**6 + "0]", "", "{", "nul"],
    ids=lambda text: f"{text[:6]}... {len(text)}",
)  # fmt: skip
def test_immoderate_and_damaged_json_is_a_value_error_and_takes_no_memory(text):
    with memory_below(50_000_000), pytest.raises(ValueError):
        parsed(text)


def test_a_vocabulary_of_a_large_model_is_moderate():
    names = {f"token{i}": i for i in range(200_000)}
    merges = [["a", "b"]] * 200_000
    assert len(parsed(json.dumps({"vocab": names, "merges": merges}))["merges"]) == 200_000


@pytest.mark.skipif(os.name != "posix", reason="no such files")
@pytest.mark.parametrize("kind", ["pipe", "zero", "full"])
def test_no_pipe_and_no_device_is_read(kind, tmp_path, monkeypatch, capsys):
    """By any command, under any flag; a link to one is one."""
    monkeypatch.chdir(tmp_path)
    if kind == "pipe":
        os.mkfifo("odd")
    else:
        Path("odd").symlink_to(f"/dev/{kind}")
    for read in (opened, content_of):
        with pytest.raises(OSError, match="pipe or a device"):
            read(Path("odd"))
    Path("odd.json").write_text('{"format": "tiny_llm tokens 1"}', encoding="utf-8")
    Path("t.bin").write_bytes(b"")
    Path("t.bin.json").symlink_to("odd")
    for words in (
        ["generate", "-c", "odd"],
        ["eval", "-c", "odd"],
        ["attention", "-c", "odd"],
        ["trace", "-c", "odd"],
        ["report", "-c", "odd"],
        ["train", "--resume", "odd"],
        ["train", "--out", "odd"],
        ["train", "--metrics", "odd"],
        ["train", "--data", "odd"],
        ["train", "--data", "t.bin"],
        ["train", "--recipe", "odd"],
        ["train", "--tokenizer-file", "odd"],
        ["tokenizer", "show", "a", "--tokenizer", "odd"],
        ["tokenizer", "train", "-o", "odd"],
        ["prepare", "odd", "-o", "p.bin"],
        ["prepare", "odd.json", "-o", "odd"],
        ["plot", "odd"],
        ["plot", "odd", "--svg", "odd"],
    ):
        assert main(words) == 1, words
        err = capsys.readouterr().err
        assert err.count("\n") == 1, (words, err)
        assert err.startswith("tiny-lm: error: "), (words, err)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such file")
def test_no_device_is_read_as_a_text(capsys):
    assert main(["train", "--data", "/dev/zero"]) == 1
    assert "/dev/zero is a device, which may never end; give a text file" in capsys.readouterr().err
