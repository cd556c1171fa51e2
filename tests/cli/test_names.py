"""What users name: files that cannot be, values that are no numbers, and what to type next."""

import os
import shlex
import time
from pathlib import Path

import pytest
from conftest import CATS

from tiny_llm.cli import main
from tiny_llm.run.errors import UserError, alone, to_type
from tiny_llm.run.saved import load_run
from tiny_llm.run.sources import read_source

TINY = ["--data", "text.txt", "--context-length", "4", "--d-hidden", "4", "-n", "2"]


pytestmark = pytest.mark.usefixtures("text_folder")


def train(*flags, steps=2):
    return main(["train", *TINY, "--steps", str(steps), *flags])


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tiny-lm: error: ")
    return line


def typed(capsys):
    """The command that is printed to be typed, as words behind the program's name."""
    lines = capsys.readouterr().err.replace(" \\\n", "").splitlines()
    (command,) = [line for line in lines if line.startswith("    python3 -m tiny_llm ")]
    return shlex.split(command)[3:]


NAMES = {
    "": "is empty; name a file",
    "https://example.org/a.txt": "https://example.org/a.txt is an address, and only files of this",
    "a\0b": "holds a character of value 0",
}
NAMING = [
    ["train", "--data"], ["train", "--out"], ["train", "--metrics"], ["train", "--resume"],
    ["train", "--tokenizer-file"], ["eval", "--data"], ["generate", "-c"], ["generate"],
    ["prepare"],
    ["prepare", "text.txt", "-o"], ["report", "-o"], ["plot"], ["plot", "--svg"], ["trace", "-c"],
    ["tokenizer", "train", "-o"], ["tokenizer", "show", "a", "--tokenizer"],
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", NAMING, ids=" ".join)
def test_a_name_that_no_file_has_is_refused(command, name, capsys):
    assert main([*command, name]) == 2
    assert NAMES[name] in error_of(capsys)


@pytest.mark.parametrize("name", NAMES)
def test_so_it_is_from_python(name):
    with pytest.raises(UserError, match=NAMES[name].rpartition("a.txt ")[2]):
        read_source(name)


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
@pytest.mark.parametrize(
    "flag", ["--temperature", "--top-p", "--lr", "--dropout", "--weight-decay"]
)
def test_a_value_that_is_not_finite_is_called_so(flag, value, capsys):
    assert main(["train", f"{flag}={value}"]) == 2
    assert "must be a finite number" in error_of(capsys)


# ------------------------------------------------------------------ what stands where a file goes


def test_a_file_where_the_folder_goes(capsys):
    Path("runs").write_text("precious", encoding="utf-8")
    for words in (["train", *TINY], ["tokenizer", "train", "--data", "text.txt", "--quiet"]):
        assert main(words) == 1
        assert "runs is no folder; rename it, or choose another place" in error_of(capsys)
    assert Path("runs").read_text("utf-8") == "precious"


def test_links_that_lead_to_themselves(capsys):
    try:
        Path("loop").symlink_to("loop")
    except (OSError, NotImplementedError):
        pytest.skip("no links here")
    assert train("--quiet", "--out", "m") == 0
    Path("runs").mkdir()
    Path("runs/x.safetensors").symlink_to("x.safetensors")
    for words in [
        ["train", "--data", "loop"], ["train", *TINY, "--out", "loop"], ["generate", "-c", "loop"],
        ["train", *TINY, "--metrics", "loop"], ["prepare", "loop"], ["report", "m", "-o", "loop"],
        ["prepare", "text.txt", "-o", "loop"], ["train", "--resume", "loop"],
    ]:  # fmt: skip
        assert main([*words, "--quiet"]) == 1
        line = error_of(capsys)
        assert "loop" in line and "links" in line, words
    assert Path("loop").is_symlink()
    assert main(["generate"]) == 1
    assert "there is no checkpoint in runs" in error_of(capsys)


@pytest.mark.parametrize("out", [".", "..", "/", "folder"])
def test_a_folder_where_a_file_goes(out, capsys):
    Path("folder").mkdir()
    assert train("--out", "m", "--quiet") == 0
    for words in (["train", *TINY, "--out"], ["report", "m", "-o"], ["prepare", "text.txt", "-o"]):
        assert main([*words, out, "--quiet"]) == 1
        line = error_of(capsys)
        assert f"cannot write {out}: it is a folder; name a file in it" in line
    assert main(["report", out, "--quiet"]) == 1
    assert f"cannot read {out}: " in error_of(capsys)


# ------------------------------------------------------------------------------ what to type next


@pytest.mark.parametrize("out", ["-x", "--out", "a b", "m"])
def test_what_is_printed_to_be_typed_goes_on(out, capsys):
    flags = [f"--out={out}", "--metrics", "log", "--save-every", "2"]
    assert train(*flags, "--stop-after", "2", steps=4) == 0
    words = typed(capsys)
    assert main([*words, "-n", "2"]) == 0
    assert load_run(Path(out)).step == 4
    assert len(Path("log").read_text("utf-8").splitlines()) == 4
    assert not Path(f"{out}.metrics.jsonl").exists()
    words = typed(capsys)
    assert words[0] == "generate"
    assert main(words) == 0


def test_a_prepared_file_of_any_name_is_trained_on(capsys):
    assert main(["prepare", "text.txt", "--out=-x"]) == 0
    assert main([*typed(capsys), "--steps", "1", "--context-length", "4", "-n", "0"]) == 0


@pytest.mark.parametrize("prompt", ["a\0b", "a\nb", "a\x1b[31mb", "a\x9bb", "a\u202eb", "a\udc80"])
def test_a_prompt_that_no_terminal_takes_is_not_printed_back(prompt, capsys):
    assert train("--tokenizer", "bpe", "--prompt", prompt.replace("\udc80", "\x80")) == 0
    assert "--prompt" not in typed(capsys)


def test_a_prompt_that_looks_like_a_flag_is_joined_to_it(capsys):
    Path("text.txt").write_text(CATS + "-x", encoding="utf-8")
    assert train("--prompt=-x") == 0
    words = typed(capsys)
    assert "--prompt=-x" in words
    assert main(words) == 0


def test_to_type():
    assert to_type("train", {"--data": "-"}).endswith(" train --data -")
    assert to_type("train", {"--data": "-a b"}).endswith(" train '--data=-a b'")


# ------------------------------------------------------------------------------ two at once


WRITING = {
    "m": ["train", *TINY, "--steps", "2", "-o", "m"],
    "m.best": ["train", *TINY, "--steps", "2", "-o", "m"],
    "m.metrics.jsonl": ["train", *TINY, "--steps", "2", "-o", "m"],
    "p.bin": ["prepare", "text.txt", "-o", "p.bin"],
    "t.json": ["tokenizer", "train", "--data", "text.txt", "--vocab-size", "260", "-o", "t.json"],
    "t": ["tokenizer", "train", "--data", "text.txt", "--vocab-size", "260", "-o", "t"],
}


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
@pytest.mark.parametrize("name", WRITING)
def test_a_file_that_another_command_is_about_to_write_is_left_to_it(name, capsys):
    with alone(Path(name)):
        assert main([*WRITING[name], "--quiet"]) == 1
    assert error_of(capsys) == (
        f"tiny-lm: error: another command is about to write {name}; wait for it, or name another "
        f"file"
    )
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["text.txt"]
    assert main([*WRITING[name], "--quiet"]) == 0
    assert not [path for path in Path().iterdir() if path.name.endswith(".lock")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked, to die")
def test_a_command_that_was_killed_is_in_nobodys_way():
    ready, waiting = os.pipe()
    child = os.fork()
    if not child:
        with alone(Path("m")):
            os.write(waiting, b"!")
            time.sleep(600)
        os._exit(0)
    os.read(ready, 1)
    assert train("-o", "m") == 1
    os.kill(child, 9)
    os.waitpid(child, 0)
    assert train("-o", "m") == 0
