"""What a user types, and what comes back: results, exit codes, and one line for every mistake."""

import argparse
import errno
import io
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_llm import layers
from tiny_llm.cli import generate, main
from tiny_llm.cli.sample import prompt_ids
from tiny_llm.model import rows_of
from tiny_llm.run import keeping
from tiny_llm.run.errors import typed
from tiny_llm.run.saved import load_run, save_run

ROOT = Path(__file__).parents[2]
RUNGS = ("mlp", "attention", "modern")
TINY = {
    "mlp": ["--context-length", "4", "--d-embedding", "3", "--d-hidden", "6"],
    "attention": ["--context-length", "4", "--d-model", "6"],
    "modern": ["--context-length", "4", "--d-model", "4", "--n-heads", "2", "--n-layers", "1"],
}
TEXT = "the cat sat on the mat. the dog sat on the log. " * 4


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every command runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def text(folder):
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return "text.txt"


def train(text, *flags, model="mlp", steps=3):
    """A tiny run of the command in this process."""
    return main(["train", "--model", model, "--data", text, "--steps", str(steps), "-n", "5",
                 *TINY[model], *flags])  # fmt: skip


def run(*words, **settings):
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tiny_llm", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings.pop("env", {})},
        capture_output=True,
        timeout=120,
        **settings,
    )


def error_of(capsys):
    """The only line on standard error, which a user reads."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("tiny-lm: error: ")
    return lines[0]


@pytest.mark.parametrize("model", RUNGS)
def test_train_generate_eval(text, capsys, model):
    assert train(text, model=model) == 0
    out, err = capsys.readouterr()
    assert len(out) == len("the cat sat") + 5 + 1
    assert f"runs/{model}.safetensors" in err
    for line in ("first loss", "guessing costs ln", "counting pairs", "val loss", "generate"):
        assert line in err
    assert main(["generate", "-n", "7", "-p", "the"]) == 0
    out, err = capsys.readouterr()
    assert len(out) == len("the") + 7 + 1
    assert f"runs/{model}.safetensors" in err
    assert main(["eval", "--data", text]) == 0
    table = capsys.readouterr().out
    assert "validation part" in table
    assert "guessing" in table
    assert "counting pairs" in table


def test_eval_on_another_text_scores_all_of_it(text, folder, capsys):
    train(text)
    Path("other.txt").write_text("the cat", encoding="utf-8")
    capsys.readouterr()
    assert main(["eval", "--data", "other.txt"]) == 0
    assert re.search(r"other.txt +7 +\d\.\d{3}", capsys.readouterr().out)


@pytest.mark.parametrize("model", RUNGS)
@pytest.mark.parametrize("prompt", ["t", "the cat sat on the mat. the dog sat on the log."])
def test_a_prompt_shorter_or_longer_than_the_context_works(text, capsys, model, prompt):
    train(text, model=model)
    capsys.readouterr()
    assert main(["generate", "--prompt", prompt, "-n", "9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(prompt)
    assert len(out) == len(prompt) + 9 + 1


@pytest.mark.parametrize("model", ["attention", "modern"])
def test_show_attention_shows_the_prompt(text, capsys, model):
    assert train(text, "--show-attention", "-p", "the", model=model) == 0
    out = capsys.readouterr().out
    assert "it does not explain" in out
    assert main(["generate", "--show-attention", "-p", "the", "--color", "always"]) == 0
    assert "\x1b[" in capsys.readouterr().out


def test_the_default_prompt_is_shown_and_suits_the_text(text, capsys):
    train(text)
    assert "prompt 'the cat sat'" in capsys.readouterr().err
    Path("names.txt").write_text("emma\nolivia\nava\n" * 5, encoding="utf-8")
    assert train("names.txt") == 0
    assert "prompt 'emma'" in capsys.readouterr().err
    assert train("names.txt", "--lines") == 0
    assert "prompt '\\n'" in capsys.readouterr().err


def test_standard_output_carries_the_text_alone(text):
    done = run("train", "--data", text, "--steps", "2", "-p", "the", "-n", "4", *TINY["mlp"])
    assert done.returncode == 0
    assert re.fullmatch(rb"the.{4}\r?\n", done.stdout, re.DOTALL)
    assert b"\r\x1b" not in done.stderr  # no live line: it is no terminal
    assert b"val loss" in done.stderr


def test_quiet_leaves_the_result_alone(text, capsys):
    assert train(text, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_data_from_standard_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert train("-") == 0


def test_unicode_from_end_to_end(folder, capsys):
    Path("text.txt").write_text("日本語 \U0001f600 שלום é́ ﷽\n" * 9, encoding="utf-8")
    for model in RUNGS:
        flags = ["--show-attention"] if model != "mlp" else []
        assert train("text.txt", "-p", "日本語 \U0001f600", *flags, model=model) == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_what_goes_to_no_terminal_is_utf_8(text, encoding):
    assert train(text, "--tokenizer", "bpe", "--quiet") == 0
    words = ["generate", "-p", "שלום \U0001f600", "-n", "1"]
    done = run(*words, env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert done.stdout.startswith("שלום \U0001f600".encode())
    assert "prompt 'שלום \U0001f600'".encode() in done.stderr


def test_a_terminal_gets_its_own_encoding_with_escapes(monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    terminal, pipe = Terminal(io.BytesIO(), "cp1252"), io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", pipe)
    assert main(["tokenizer", "show", "é ש", "--tokenizer", "none"]) == 1
    print("é ש", end="", flush=True)
    print("é ש", end="", file=sys.stderr, flush=True)
    assert terminal.buffer.getvalue() == b"\xe9 \\u05e9"
    assert pipe.buffer.getvalue().endswith("é ש".encode())


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "standard output: No space left"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "error: Resource temp"),
        (OSError(errno.EMFILE, "Too many open files"), "error: Too many open files"),
        (OSError(errno.EACCES, "Permission denied", "some file"), "some file: Permission denied"),
    ],
)
def test_the_culprit_of_an_error_is_named_only_if_known(error, said, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr("tiny_llm.cli.generate.open_checkpoint", fail)
    assert main(["generate"]) == 1
    assert said in error_of(capsys)


def test_windows_line_ends_and_a_byte_order_mark_are_no_characters(folder, capsys):
    Path("text.txt").write_bytes(b"\xef\xbb\xbf" + b"ab\r\ncd\r\n" * 20)
    assert train("text.txt") == 0
    assert "5 different" in capsys.readouterr().err


def test_an_older_file_is_kept_as_bak(text, capsys):
    train(text)
    before = Path("runs/mlp.safetensors").read_bytes()
    capsys.readouterr()
    train(text, "--seed", "1")
    assert "runs/mlp.safetensors.bak" in capsys.readouterr().err
    assert Path("runs/mlp.safetensors.bak").read_bytes() == before
    assert Path("runs/mlp.safetensors").read_bytes() != before


@pytest.mark.slow
def test_gradcheck(capsys):
    assert main(["gradcheck"]) == 0
    out = capsys.readouterr().out
    for name in ("output.bias", "query.weight", "h.1.mlp.c_proj.weight", "wte.weight"):
        assert name in out
    assert out.count("slopes agree:") == 4
    assert "WRONG" not in out


def test_gradcheck_says_that_its_model_is_small_and_which_numbers_it_shows(capsys):
    assert main(["gradcheck", "--model", "attention", "--quiet"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "attention, made small for this (context_length 6, d_model 8, d_hidden 8)" in out
    assert "the number of a parameter whose two slopes agree worst" in out


def test_gradcheck_finds_a_broken_backward(capsys, monkeypatch):
    monkeypatch.setattr(layers, "tanh_backward", lambda dy, y: dy)
    assert main(["gradcheck", "--model", "mlp"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    assert main(["train", "--help"]) == 0
    assert main(["--version"]) == 0
    assert "tiny-llm-demo" in capsys.readouterr().out


# ------------------------------------------------------------------ one line for every mistake

WRONG_COMMAND_LINES = {
    "no command": ([], "required"),
    "unknown command": (["tarin"], "tarin"),
    "unknown flag": (["train", "--stpes", "3"], "--stpes"),
    "unknown model": (["train", "--model", "gpt"], "gpt"),
    "no number": (["train", "--steps", "many"], "'many' is not a whole number"),
    "zero steps": (["train", "--steps", "0"], "at least 1"),
    "steps and repeat": (["train", "--steps", "1", "--repeat", "1"], "not allowed with"),
    "negative size": (["train", "--d-hidden", "-3"], "at least 1, not -3"),
    "zero context": (["train", "--context-length", "0"], "at least 1"),
    "zero batch": (["train", "--batch-size", "0"], "at least 1"),
    "size of another rung": (["train", "--n-heads", "2"], "--n-heads is no size of --model mlp"),
    "heads": (["train", "--model", "modern", "--d-model", "6", "--n-heads", "4"], "multiple of"),
    "heads in gradcheck": (["gradcheck", "--model", "modern", "--n-heads", "3"], "multiple of"),
    "empty prompt": (["generate", "--prompt", ""], "is empty"),
    "empty prompt to train": (["train", "--prompt", ""], "is empty"),
    "temperature": (["generate", "--temperature", "-0.1"], "at least 0"),
    "temperature nan": (["generate", "--temperature", "nan"], "at least 0"),
    "top-p zero": (["generate", "--top-p", "0"], "above 0 and at most 1"),
    "top-p above one": (["generate", "--top-p", "1.01"], "above 0 and at most 1"),
    "top-k": (["generate", "--top-k", "-1"], "at least 0"),
    "length": (["generate", "-n", "-1"], "at least 0"),
    "learning rate zero": (["train", "--lr", "0"], "above 0"),
    "learning rate infinite": (["train", "--lr", "inf"], "above 0"),
    "validation fraction": (["train", "--val-fraction", "1"], "between 0 and 1"),
    "encoding": (["train", "--encoding", "utf-99"], "not an encoding"),
    "encoding that is none": (["train", "--encoding", "rot13"], "not an encoding"),
    "attention of rung 1": (["train", "--show-attention"], "no attention to show"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_COMMAND_LINES)
def test_a_wrong_command_line_exits_with_2(case, capsys):
    words, expected = WRONG_COMMAND_LINES[case]
    assert main(words) == 2
    assert expected in error_of(capsys)


WRONG_TEXTS = {
    "empty": (b"", "is empty"),
    "shorter than the context": (b"ab" * 10, "use a longer text or a context length"),
    "no validation part": (b"abc", "leaves 3 of 3 tokens for training, and either part needs 2"),
    "not UTF-8": (b"caf\xe9 " * 50, "--encoding"),
}


@pytest.mark.parametrize("case", WRONG_TEXTS)
def test_a_text_that_cannot_be_used_exits_with_1(case, capsys):
    content, expected = WRONG_TEXTS[case]
    Path("text.txt").write_bytes(content)
    assert main(["train", "--data", "text.txt", "--context-length", "30"]) == 1
    assert expected in error_of(capsys)
    assert not Path("runs").exists()


def test_a_text_in_another_encoding_can_be_read(capsys):
    Path("text.txt").write_bytes("café au lait. ".encode("latin-1") * 20)
    assert train("text.txt", "--encoding", "latin-1") == 0


def test_a_missing_file_and_a_folder(capsys):
    assert main(["train", "--data", "none.txt"]) == 1
    assert "there is no file none.txt" in error_of(capsys)
    assert main(["train", "--data", "."]) == 1
    assert "cannot read ." in error_of(capsys)


def test_empty_standard_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["train", "--data", "-"]) == 1
    assert "standard input is empty" in error_of(capsys)


def test_an_unknown_character_is_named_and_the_known_ones_are_shown(text, capsys):
    assert train(text, "-p", "the zoo!") == 1  # before any training
    assert not Path("runs").exists()
    message = error_of(capsys)
    assert "does not know '!' 'z'" in message
    assert "' ' '.' 'a' 'c' 'd'" in message
    train(text, "--quiet")
    capsys.readouterr()
    assert main(["generate", "--quiet", "-p", "ß"]) == 1
    assert "does not know 'ß'" in error_of(capsys)


def test_no_checkpoint(capsys):
    assert main(["generate"]) == 1
    assert "train a model first" in error_of(capsys)
    assert main(["eval", "-c", "none.safetensors"]) == 1
    assert "there is no checkpoint none.safetensors" in error_of(capsys)
    Path("pickle.safetensors").write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.")
    assert main(["generate", "-c", "pickle.safetensors"]) == 1
    assert "no checkpoint of tiny-lm" in error_of(capsys)


@pytest.mark.parametrize("model", RUNGS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_that_becomes_infinite_ends_the_run(text, capsys, model, optimizer):
    train(text, "--quiet", model=model)
    good = Path(f"runs/{model}.safetensors").read_bytes()
    capsys.readouterr()
    flags = ["--lr", "1e200", "--optimizer", optimizer, "--quiet"]
    assert train(text, *flags, model=model, steps=50) == 1
    message = error_of(capsys)
    assert "learning rate 1e+200 is too high" in message
    backup = Path(f"runs/{model}.safetensors.bak")
    assert backup.read_bytes() == good
    assert f"this run had saved nothing yet, {backup} is of one before" in message
    assert main(["generate", "--quiet", "-n", "1", "-c", str(backup)]) == 0


def test_an_output_folder_that_cannot_be_made(text, capsys):
    assert train(text, "--quiet", "--out", "text.txt/model.safetensors") == 1
    assert "text.txt" in error_of(capsys)
    assert Path("text.txt").read_text(encoding="utf-8") == TEXT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output(text):
    assert train(text, "--quiet") == 0
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tiny_llm", "generate", "--quiet"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr == "tiny-lm: error: standard output: No space left on device\n"


def test_a_full_disk_behind_any_result_is_named_by_its_file(text, monkeypatch, capsys):
    assert train(text, "--out", "m", "--quiet") == 0

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")  # as os.fsync does: no file name

    monkeypatch.setattr("tiny_llm.files.atomic.os.fsync", full)
    for words, out in [
        (["report", "m"], "m.report.html"), (["prepare", text], "tokens.bin"),
        (["plot", "m.metrics.jsonl", "--svg", "a.svg"], "a.svg"),
        (["tokenizer", "train", "-o", "t.json"], "t.json"),
        (["train", *TINY["mlp"], "--out", "n"], "n.metrics.jsonl"),
    ]:  # fmt: skip
        assert main([*words, "--quiet"]) == 1
        assert f"cannot write {out}: No space left on device" in error_of(capsys)
        assert not Path(out).exists()


def test_a_reader_that_has_seen_enough_makes_no_noise(text):
    assert train(text, "--quiet") == 0
    command = f"'{sys.executable}' -m tiny_llm generate --quiet -n 3000 | head -c 1"
    done = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
    )
    assert (done.stderr, len(done.stdout)) == (b"", 1)


def test_a_traceback_only_with_debug(capsys):
    assert main(["generate", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_never_overwritten(text, capsys):
    Path("notes.txt").write_text("precious", encoding="utf-8")
    assert train(text, "--quiet", "--out", "notes.txt") == 1
    assert "notes.txt exists and is no checkpoint" in error_of(capsys)
    assert Path("notes.txt").read_text(encoding="utf-8") == "precious"
    assert train(text, "--quiet", "--out", text) == 1
    assert "is the text itself" in error_of(capsys)
    assert Path(text).read_text(encoding="utf-8") == TEXT


def test_files_of_others_beside_the_checkpoint_are_left_alone(text, folder):
    names = ["m.tmp", ".m.tmp", "m.bak.tmp"]
    for name in names:
        Path(name).write_text("precious", encoding="utf-8")
    assert train(text, "--quiet", "--out", "m") == 0
    assert train(text, "--quiet", "--out", "m") == 0
    assert all(Path(name).read_text(encoding="utf-8") == "precious" for name in names)
    own = {"m", "m.best", "m.metrics.jsonl"}
    backups = {f"{name}.bak" for name in own}
    assert {path.name for path in folder.iterdir()} == {*names, *own, *backups, "text.txt"}


@pytest.mark.skipif(os.name == "nt", reason="POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "2>/dev/full", "2>&1 | head -n 1", "<&-"])
def test_training_is_saved_whatever_becomes_of_the_streams(text, closed):
    command = f"'{sys.executable}' -m tiny_llm train --data text.txt --steps 3 -n 2 -o m {closed}"
    done = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
    )
    assert b"Traceback" not in done.stderr
    assert b"fault of tiny-lm" not in done.stderr + done.stdout
    assert main(["generate", "--quiet", "-c", "m", "-n", "1"]) == 0


def test_a_finished_run_can_be_resumed_into_another_file(text, capsys):
    train(text, "--out", "a")
    words = ["train", "--resume", "a", "--data", text, "--out", "b", "-n", "1"]
    assert main(words) == 0
    assert Path("a").read_bytes() == Path("b").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
def test_a_second_run_of_the_same_name_is_refused_and_the_first_goes_on(text, capsys):
    words = ["train", "--data", text, "--save-every", "1", "-n", "1", "-o", "m", *TINY["mlp"]]
    first = subprocess.Popen(
        [sys.executable, "-m", "tiny_llm", *words, "--steps", "1000000"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while not Path("m").exists():
            assert first.poll() is None
            time.sleep(0.01)
        assert main([*words, "--steps", "1"]) == 1
        assert "another command is about to write m" in error_of(capsys)
        first.terminate()
        assert b"m is saved" in first.communicate(timeout=60)[1]
        assert first.returncode == 143
    finally:
        first.kill()
        first.wait()
    assert main(["generate", "--quiet", "-c", "m", "-n", "1"]) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a tmpfs")
@pytest.mark.parametrize("metrics, failing", [("here", "m.best"), ("disk/metrics", "metrics")])
def test_a_disk_that_fills_up_ends_the_run_and_leaves_the_last_checkpoint(
    text, folder, capsys, metrics, failing
):
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        assert train(text, "--quiet", "--out", "disk/m", "--metrics", metrics, steps=2) == 0
        with pytest.raises(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        capsys.readouterr()
        words = ["train", "--data", text, "--resume", "disk/m", "--steps", "9", "--quiet"]
        words += ["--metrics", metrics]
        assert main([*words, "--save-every", "1"]) == 1
        message = error_of(capsys)
        problem = f"cannot write disk/{failing}: No space left on device; disk/m holds step 2"
        assert problem in message
        assert main(["generate", "--quiet", "-c", "disk/m", "-n", "1"]) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_text_of_another_run_is_named_as_the_reason(text, capsys):
    train(text, "--quiet")
    assert main(["eval", "--quiet"]) == 1
    assert "the built-in corpus is not the text that it was trained on" in error_of(capsys)


@pytest.mark.parametrize("model", RUNGS)
@pytest.mark.parametrize("command", ["eval", "attention", "generate", "report", "trace"])
def test_weights_too_large_to_compute_with_give_no_result(text, capsys, command, model):
    train(text, model=model)
    run = load_run(Path(f"runs/{model}.safetensors"), to_train=True)
    for tensor in run.model.parameters.values():
        for row in rows_of(tensor):
            row[:] = [(-1) ** i * 1e308 for i in range(len(row))]
    save_run(Path("huge"), run)
    capsys.readouterr()
    data = ["--data", text] if command == "eval" else []
    assert main([command, "-c", "huge", "--quiet", *data]) == 1
    out, err = capsys.readouterr()
    if command == "attention" and model == "mlp":
        assert "no attention" in err
    else:
        assert "too large" in err and len(err.splitlines()) == 1
    assert "nan" not in out and not Path("huge.report.html").exists()


def test_huge_losses_keep_to_their_columns(text, capsys):
    assert train(text, "--lr", "1e20", steps=9) == 1
    capsys.readouterr()
    assert main(["eval", "--data", text]) == 0
    assert {len(line) for line in capsys.readouterr().out.splitlines()} == {78}
    assert main(["report", "--data", text]) == 0
    page = Path("runs/mlp.report.html").read_text("utf-8")
    assert re.search(r"Its best loss on held-out text is \S{1,8} nats", page)


def test_a_sample_begins_with_the_own_texts_first_words(folder, capsys):
    """Also where its letters could write the built-in corpus's phrase, and later in generate."""
    (folder / "own.txt").write_text("\n The old  goat said: male dogs run. " + TEXT * 3, "utf-8")
    for flags in ([], ["--tokenizer", "bpe", "--vocab-size", "257"]):
        assert train("own.txt", *flags) == 0
        assert capsys.readouterr().out.startswith("The old goat")
        assert main(["generate", "runs/mlp.safetensors", "-n", "3", "--quiet"]) == 0
        assert capsys.readouterr().out.startswith("The old goat")


def test_a_prompt_may_hold_the_token_that_begins_a_document(folder, capsys):
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).write_text(f"{name} " + TEXT, "utf-8")
    files = ["a.txt", "b.txt", "c.txt"]
    assert main(["prepare", *files, "--tokenizer", "bpe", "--vocab-size", "260", "--quiet"]) == 0
    assert train("tokens.bin", model="attention") == 0
    args = flags_of(["generate", "runs/attention.safetensors", "--prompt", "<|endoftext|>a"])
    run = load_run(Path("runs/attention.safetensors"))
    separator = run.tokenizer.special_tokens["<|endoftext|>"]
    assert separator not in prompt_ids(run, args)
    args.allow_special = True
    assert prompt_ids(run, args)[:1] == [separator]
    capsys.readouterr()
    flags = ["-p", "<|endoftext|>a", "--allow-special", "--quiet"]
    assert main(["generate", "runs/attention.safetensors", *flags, "-n", "2"]) == 0
    assert capsys.readouterr().out.startswith("<|endoftext|>a")
    assert main(["attention", "runs/attention.safetensors", *flags]) == 0


def flags_of(words):
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    return parser.parse_args(words[1:])


@pytest.mark.parametrize("width", [20, 75])
def test_a_command_to_type_wraps_between_words(width):
    words = ["python3", "-m", "tiny_llm", "generate", "--checkpoint", "my runs/a.safetensors",
             "--prompt", "it's one", "--seed", "1"]  # fmt: skip
    command = typed(words, width)
    assert shlex.split(command.replace("\\\n", " ")) == words
    assert max(map(len, command.split("\n"))) <= max(width, 8 + len("'my runs/a.safetensors' \\"))
    assert "\n" in command


def test_what_train_says_to_type_fits_in_80_columns(text, folder, capsys):
    out = f"{'a' * 30}/{'b' * 20}.safetensors"
    assert train(text, "--out", out, "--prompt", "the cat sat on the ") == 0
    told = capsys.readouterr().err.split("type\n\n")[1]
    assert max(map(len, told.split("\n"))) <= 80
    command = shlex.split(told.replace("\\\n", " "))
    assert main(command[command.index("generate") :]) == 0


@pytest.mark.parametrize(
    "name", ["runs/attention.safetensors", "runs/mlp.best.safetensors", "my own.bin"]
)
def test_the_advice_for_a_missing_checkpoint_makes_this_file(text, name, capsys):
    assert main(["generate", name]) == 1
    command = shlex.split(error_of(capsys).split("train one with: ")[1])
    flags = command[command.index("train") + 1 :]
    assert main(["train", *flags, "--data", text, "--steps", "3", "-n", "1"]) == 0
    assert Path(name.replace(".best", "")).exists()


@pytest.mark.parametrize("name", ["runs/attention.metrics.jsonl", "my own.jsonl"])
def test_the_advice_for_missing_metrics_makes_this_file(text, name, capsys):
    assert main(["plot", name]) == 1
    command = shlex.split(error_of(capsys).split("its metrics: ")[1])
    flags = command[command.index("train") + 1 :]
    assert main(["train", *flags, "--data", text, "--steps", "3", "-n", "1"]) == 0
    assert main(["plot", name]) == 0


def test_the_advice_for_a_model_without_attention_makes_one_with_it(text, capsys):
    train(text)
    capsys.readouterr()
    assert main(["attention", "--quiet"]) == 1
    assert "tiny_llm train --model attention" in error_of(capsys)


# ------------------------------------------------------------------------------ a newcomer's hour


@pytest.mark.parametrize("way", ["diverged", "killed"])
def test_a_run_that_saves_nothing_leaves_nothing_that_is_taken_for_the_one_before(
    text, capsys, monkeypatch, way
):
    assert train(text, "--out", "m", "--eval-every", "1") == 0
    names = ("m", "m.best", "m.metrics.jsonl")
    before = {name: Path(name).read_bytes() for name in names}
    if way == "killed":
        monkeypatch.setattr(keeping, "save_run", lambda *_: 1 / 0)
    rate = ["--lr", "1e300"] if way == "diverged" else []
    assert train(text, "--out", "m", "--seed", "1", "--eval-every", "2", *rate) == 1
    assert {name: Path(name + ".bak").read_bytes() for name in names} == before
    assert not Path("m").exists() and not Path("m.best").exists()
    capsys.readouterr()
    assert main(["train", "--data", text, "--resume", "m"]) == 1
    assert "there is no checkpoint m; m.bak is one, though" in error_of(capsys)


def test_the_best_of_a_run_is_not_written_over(text, capsys):
    assert train(text, "--out", "m.safetensors", "--eval-every", "1") == 0
    before = Path("m.best.safetensors").read_bytes()
    capsys.readouterr()
    words = ["train", "--data", text, "--resume", "m.best.safetensors", "--steps", "4", "-n", "0"]
    assert main(words) == 2
    assert "m.best.safetensors is the best of a run; name where to go on" in error_of(capsys)
    assert Path("m.best.safetensors").read_bytes() == before
    assert main([*words, "-o", "n.safetensors"]) == 0
    assert Path("m.best.safetensors").read_bytes() == before
    Path("m.safetensors").unlink()  # then it is a checkpoint like any other
    assert main(words) == 0


@pytest.mark.parametrize(
    "words, problem",
    [
        (
            ["train", "extra"],
            "unrecognized arguments: extra (see python3 -m tiny_llm train --help)",
        ),
        (
            ["bench", "--matmul", "x"],
            "arguments: --matmul x (see python3 -m tiny_llm bench --help)",
        ),
        (["train", "--d-hidden", "10000000000"], "weights needs about"),
        (["train", "--model", "modern", "--n-layers", "90000000"], "weights needs about"),
        (["train", "--task", "find", "--prompt", "x"], "a task asks its own cases"),
        (["train", "--recipe", "text.txt"], "text.txt is no recipe: it begins with 'the'"),
    ],
)
def test_what_a_newcomer_typed(text, capsys, words, problem):
    assert main(words) in (1, 2)
    assert problem in error_of(capsys)


def test_a_checkpoint_without_its_ending_is_found_out(text, capsys):
    assert train(text, "--out", "m.safetensors") == 0
    capsys.readouterr()
    assert main(["generate", "-c", "m"]) == 1
    assert "there is no checkpoint m; m.safetensors is one, though" in error_of(capsys)


def test_eval_says_that_a_text_is_another_one(text, capsys):
    bpe = ["--tokenizer", "bpe", "--vocab-size", "260"]
    assert train(text, "--out", "m", *bpe) == 0
    capsys.readouterr()
    assert main(["eval", "-c", "m"]) == 0
    note = "the built-in corpus is not the text that it was trained on; --data names one"
    assert note in capsys.readouterr().err
    assert main(["eval", "-c", "m", "--data", text]) == 0
    assert note not in capsys.readouterr().err


def test_a_run_on_the_built_in_text_is_resumed_without_data(text, capsys):
    assert main(["train", "--steps", "2", "-n", "0", "-o", "m", *TINY["mlp"]]) == 0
    capsys.readouterr()
    for other in ["--data", text], ["--task", "find"]:
        assert main(["train", "--resume", "m", *other]) == 1
        assert "leave --data and --task out" in error_of(capsys)


def test_eval_says_which_head_is_off(text, capsys):
    assert train(text, "--out", "m", model="modern") == 0
    assert main(["eval", "-c", "m", "--data", text, "--without-head", "1.1"]) == 0
    assert capsys.readouterr().out.splitlines()[-5].startswith("without head 1.1  ")
    assert main(["eval", "-c", "m", "--data", text, "--without-head", "9.1"]) == 1
    assert "has no attention head 9.1; its last is " in capsys.readouterr().err


@pytest.mark.parametrize("way", ["lanes", "short-lanes"])
def test_slopes_are_not_checked_by_products_that_round(capsys, way):
    assert main(["gradcheck", "--model", "mlp", "--matmul", way]) == 2
    assert f"--matmul {way} rounds what it multiplies" in capsys.readouterr().err
