"""Foreign text, foreign files and a full standard error: nothing commands the terminal, nothing
hangs, and the result comes all the same."""

import errno
import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout

import pytest
from conftest import memory_below

from tiny_llm.cli import entry, main
from tiny_llm.files import checkpoint
from tiny_llm.run.errors import quoted

EVIL = "\x1b]0;x\x07\x9b31m\u202e"
COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200f\u2028-\u202e\u2066-\u2069]")
SIZES = ["--context-length", "4", "--d-model", "4", "--n-heads", "2"]


class Terminal(io.StringIO):
    """A terminal of 80 columns that understands UTF-8."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch, request):
    """(standard output, standard error), which `main` now takes for terminals without colour."""
    for name, value in {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    streams = Terminal(), Terminal()

    def in_terminal(words):
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            return entry.main(words)

    monkeypatch.setattr(request.module, "main", in_terminal)
    return streams


def trained(folder, name="m", text="the cat sat on the mat. " * 5):
    """The checkpoint of a short run, and its text, in files of this name."""
    data, path = folder / f"{name}.txt", folder / f"{name}.safetensors"
    data.write_text(text, encoding="utf-8")
    words = ["train", "--quiet", "--data", str(data), "--out", str(path), "--model", "modern"]
    assert main([*words, *SIZES, "--steps", "2", "-n", "0"]) == 0
    return path, data


def both(terminal):
    return terminal[0].getvalue() + terminal[1].getvalue()


def test_a_sample_in_a_terminal_commands_nothing(tmp_path, terminal):
    path, _ = trained(tmp_path, text=f"ab{EVIL}\tc\n" * 12)
    assert main(["generate", "-c", str(path), "-n", "200", "--temperature", "2"]) == 0
    out = terminal[0].getvalue()
    assert not COMMANDS.search(both(terminal))
    assert "\\x9b" in out
    assert "\\u202e" in out
    assert "\t" in out
    assert out.count("\n") > 3


def test_a_sample_in_a_file_is_what_the_model_wrote(tmp_path, capsys):
    path, _ = trained(tmp_path, text=f"ab{EVIL}\tc\n" * 12)
    assert main(["generate", "-c", str(path), "-n", "200", "--temperature", "2", "--quiet"]) == 0
    assert set(EVIL) <= set(capsys.readouterr().out)


@pytest.mark.skipif(os.name != "posix", reason="no such names")
def test_names_of_files_command_nothing(tmp_path, terminal):
    """Every command that says the name of a file, of one that is there and of one that is not."""
    path, data = trained(tmp_path, EVIL)
    metrics, there = path.with_name(f"{EVIL}.metrics.jsonl"), ["-c", str(path)]
    metrics.write_text(metrics.read_text() + "damaged\n\n")
    (tmp_path / f"{EVIL}.png").write_bytes(b"\x89PNG")
    for words in (
        ["generate", *there, "-n", "1"],
        ["eval", *there, "--data", str(data)],
        ["attention", *there],
        ["trace", *there],
        ["report", *there, "--data", str(data)],
        ["report", *there, "--data", str(data)],  # the older one is kept
        ["plot", str(metrics)],
        ["prepare", str(tmp_path), "-o", str(tmp_path / f"{EVIL}.bin")],
        ["train", "--resume", str(path), "--data", str(data), "--steps", "3", "-n", "0"],
        ["train", "--resume", str(path), "--data", str(data), "--steps", "5", "--stop-after", "4"],
        ["train", "--data", str(data), "--out", str(path), *SIZES, "--steps", "1", "-n", "0",
         "--model", "modern"],
        ["tokenizer", "train", "--data", str(data), "-o", str(tmp_path / f"{EVIL}.json")],
        ["tokenizer", "show", "a", "--tokenizer", str(tmp_path / f"{EVIL}.json")],
    ):  # fmt: skip
        assert main(words) == 0, (words, terminal[1].getvalue())
    for words in (
        ["generate", "-c", f"no{EVIL}"],
        ["plot", f"no{EVIL}"],
        ["train", "--data", f"no{EVIL}"],
        ["train", "--recipe", f"no{EVIL}"],
        ["train", f"--no{EVIL}"],
        ["prepare", f"no{EVIL}", "-o", str(tmp_path / "o.bin")],
        ["tokenizer", "show", "a", "--tokenizer", f"no{EVIL}"],
        ["report", "-c", str(path), "-o", str(metrics)],
        ["generate", "-c", f"no{EVIL}", "--debug"],
    ):
        assert main(words) in (1, 2)
    assert not COMMANDS.search(both(terminal)), COMMANDS.findall(both(terminal))


def test_a_name_is_typed_without_commanding_the_terminal(tmp_path):
    assert quoted("a b") == "'a b'"
    assert quoted("a\x9b\n\\'é") == "$'a\\xc2\\x9b\\x0a\\\\\\'é'"
    assert os.fsdecode(b"\xff") == "\udcff"
    assert quoted("\udcff") == "$'\\xff'"


def test_what_a_checkpoint_holds_is_shown_short_and_commands_nothing(tmp_path, terminal):
    path, _ = trained(tmp_path)
    long = EVIL + "x" * 10**5

    def changed(change):
        tensors, metadata = checkpoint.load(path)
        change(tensors, metadata)
        checkpoint.save(tmp_path / "changed", tensors, metadata)
        size = len(terminal[1].getvalue())
        code = main(["generate", "-c", str(tmp_path / "changed"), "-n", "0"])
        assert len(terminal[1].getvalue()) < size + 1500
        return code

    assert changed(lambda t, m: m["training"].update({long: 1, f"b{EVIL}": 2})) == 0
    assert "left out here" in terminal[1].getvalue()
    for change in (
        lambda t, m: m["config"].update({long: 1}),
        lambda t, m: t.update({long: [1.0]}),
        lambda t, m: m.update(model=long),
        lambda t, m: m.update(format=long),
        lambda t, m: m.update(step=long),
        lambda t, m: m.update(best=long),
        lambda t, m: m.update(recent={"total": long, "count": long}),
        lambda t, m: m["tokenizer"].update(kind=long),
    ):
        assert changed(change) == 1
    assert not COMMANDS.search(both(terminal))


class Full(io.StringIO):
    """Standard error on a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "words",
    [["generate", "-n", "3"], ["attention"], ["trace"], ["eval", "--data", "m.txt"], ["plot"],
     ["report"], ["gradcheck", "--model", "mlp"], ["tokenizer", "show", "a"],
     ["prepare", "m.txt", "-o", "o.bin"],
     ["train", "--data", "m.txt", *SIZES[:2], "--steps", "1", "-n", "3"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_with_standard_error_full_the_result_comes_all_the_same(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    trained(tmp_path)
    named = {"plot": ["m.metrics.jsonl"], "report": ["m.safetensors"]}
    if words[0] in ("generate", "attention", "trace", "eval"):
        named[words[0]] = ["-c", "m.safetensors"]
    capsys.readouterr()
    with redirect_stderr(Full()):
        assert main([*words, *named.get(words[0], [])]) == 0
    out = capsys.readouterr().out
    assert out or (tmp_path / "m.report.html").exists()


# ------------------------------------------------------------------------- files of an attacker

HUGE = 10**17


@pytest.mark.parametrize("model", ["mlp", "attention", "modern"])
def test_huge_sizes_in_a_checkpoint_are_refused_before_anything_grows(model, tmp_path, capsys):
    data, path = tmp_path / "t.txt", tmp_path / "m"
    data.write_text("the cat sat on the mat. " * 5, encoding="utf-8")
    sizes = SIZES if model == "modern" else SIZES[:2]
    words = ["train", "--data", str(data), "--out", str(path), "--model", model, "--steps", "1"]
    assert main([*words, *sizes, "-n", "0", "--quiet"]) == 0
    tensors, metadata = checkpoint.load(path)
    for name, value in metadata["config"].items():
        if name == "vocab_size" or isinstance(value, bool):
            continue
        for huge in (HUGE, 10**9, 10**6):
            changed = {**metadata, "config": {**metadata["config"], name: huge}}
            checkpoint.save(path, tensors, changed)
            with memory_below(5_000_000):
                assert main(["generate", "-c", str(path), "-n", "0"]) == 1
            assert f"{name} {huge} does not fit its tensors" in capsys.readouterr().err


METRICS = [
    '{"step": 1, "loss": 2.0, "val_loss": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"step": 1, "loss": 2.0, "x": ' + '{"a":' * 900 + "1" + "}" * 900 + "}",
    '{"step": 1, "loss": ' + "9" * 4000 + "}",
    '{"step": ' + "9" * 400 + ', "loss": 1.0}',
    '{"step": 1, "loss": "\x1b"}',
    '{"step": 1, "loss": 2.0, "val_loss": 3.0, "train_loss": []}',
    '{"step": 1, "loss": 2.0, "val_loss": 3.0, "train_loss": "a"}',
    '{"step": 1, "loss": 2.0, "val_loss": true, "train_loss": 1.0}',
    '{"step": true, "loss": 2.0}',
    '{"step": -1, "loss": 2.0}',
    '{"step": null, "loss": 2.0}',
    "x" * 200_000,
]


@pytest.mark.parametrize("line", METRICS, ids=lambda line: line[:40])
def test_a_hostile_line_of_metrics_is_a_damaged_one(line, tmp_path, capsys):
    path, data = trained(tmp_path)
    metrics = tmp_path / "m.metrics.jsonl"
    good = metrics.read_text("utf-8")
    metrics.write_text(line + "\n" + good, encoding="utf-8")
    assert main(["plot", str(metrics)]) == 0
    assert "line 1 is damaged" in capsys.readouterr().err
    assert main(["report", str(path), "--quiet"]) == 0
    words = ["train", "--resume", str(path), "--data", str(data), "--steps", "3", "-n", "0"]
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "m.metrics.jsonl.bak" in err  # nothing is lost
    assert metrics.read_text("utf-8").startswith(good)
    assert (tmp_path / "m.metrics.jsonl.bak").read_text("utf-8").startswith(line)


@pytest.mark.parametrize("loss", ["1e308", "-1e308", "1e999", "NaN", "Infinity", "99999999999999"])
def test_losses_of_any_size_are_drawn_or_left_out(loss, tmp_path, capsys):
    path, _ = trained(tmp_path)
    metrics = tmp_path / "m.metrics.jsonl"
    line = f'{{"step": 1, "loss": {loss}, "train_loss": {loss}, "val_loss": {loss}}}\n'
    metrics.write_text(line * 3 + metrics.read_text("utf-8"), encoding="utf-8")
    assert main(["plot", str(metrics)]) == 0
    assert main(["report", str(path)]) == 0
    assert "damaged" not in capsys.readouterr().err


def test_a_resumed_run_reads_no_nonsense(tmp_path, capsys):
    path, data = trained(tmp_path)
    tensors, metadata = checkpoint.load(path)
    words = ["train", "--resume", str(tmp_path / "c"), "--data", str(data), "-n", "0"]
    nonsense = [
        ("recent", {"total": 1.0, "count": -1}),
        ("recent", {"total": 1.0, "count": 0.5}),
        ("recent", {"total": 1.0, "count": 10**400}),
        ("best", {"step": -1, "val_loss": 1.0}),
        ("training", {**metadata["training"], "steps": 10**400}),
        ("training", {**metadata["training"], "gradient_accumulation_steps": 10**12}),
        ("training", {**metadata["training"], "matmul": "x" * 1000}),
        ("training", {**metadata["training"], "text_beginning": "x" * 1000}),
    ]
    for key, value in nonsense:
        checkpoint.save(tmp_path / "c", tensors, {**metadata, key: value})
        assert main(words) == 1, (key, value)
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert len(err) < 1000
    training = {**metadata["training"], "workers": 400, "steps": 3}
    checkpoint.save(tmp_path / "c", tensors, {**metadata, "training": training})
    assert main([*words, "--stop-after", "3"]) == 0
    assert "instead of 400" in capsys.readouterr().err
