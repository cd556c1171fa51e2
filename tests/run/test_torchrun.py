"""A run that goes on in PyTorch, on several processes, is the run that it would have been here."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.files import checkpoint, hugging_face
from tiny_llm.model import rows_of
from tiny_llm.run.metrics import read_metrics

torch = pytest.importorskip("torch", reason="torch is not installed: .[torch]")
pytestmark = pytest.mark.torchrun

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "train_torchrun.py")
TEXT = "the cat sat on the mat. the dog sat on the log. a cat! " * 40
LINES = "".join(
    f"{first}{middle}{last}\n" for first in "abcdef" for middle in ("", "nna", "l")
    for last in ("nna", "lma", "ori", "tte")
)  # fmt: skip
SIZES = ["--d-model", "8", "--n-heads", "4", "--n-layers", "2", "--context-length", "8"]
HOW = ["--batch-size", "8", "--steps", "60", "--eval-every", "10", "--matmul", "float64",
       "--grad-clip", "0.5", "--weight-decay", "0.1", "--quiet", "-n", "0"]  # fmt: skip
KINDS = {
    "gpt2-char": [],
    "gpt2-bpe-accumulated": ["--tokenizer", "bpe", "--vocab-size", "270",
                             "--gradient-accumulation-steps", "3", "--warmup-steps", "5"],
    "llama-char": ["--model", "llama", "--n-kv-heads", "2"],
    "llama-bpe": ["--model", "llama", "--n-kv-heads", "1", "--tokenizer", "bpe",
                  "--vocab-size", "270"],
    "lines": ["--lines"],
    "sgd": ["--optimizer", "sgd", "--lr", "0.1", "--schedule", "constant"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("lines.txt").write_text(LINES, encoding="utf-8")


def train(out, kind, *flags):
    data = "lines.txt" if kind == "lines" else "text.txt"
    words = ["train", "--model", "modern", "--data", data, "-o", out, *SIZES, *HOW, *KINDS[kind]]
    assert main([*words, *flags]) in (0, 130)


def export(kind="gpt2-char"):
    data = "lines.txt" if kind == "lines" else "text.txt"
    assert main(["export", "-c", "run", "--to", "torch", "-o", "f", "--data", data]) == 0
    return data


def torchrun(count, *flags, folder="f"):
    """The command, with a port of its own."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = [*torchrun, "--nproc-per-node", str(count), SCRIPT, folder, "--dtype", "float64"]
    return [*words, *flags]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(count, *flags, **more):
    done = subprocess.run(torchrun(count, *flags, **more), capture_output=True, text=True,
                          timeout=300, env=ENVIRONMENT)  # fmt: skip
    assert "Traceback" not in done.stderr.partition("torch/distributed/elastic")[0], done.stderr
    return done


def numbers(path):
    tensors = checkpoint.load(Path(path)).tensors
    return {name: [x for row in rows_of(tensor) for x in row] for name, tensor in tensors.items()}


def furthest(one, other):
    """The largest difference between numbers of the same name."""
    one, other = numbers(one), numbers(other)
    assert one.keys() == other.keys()
    return max(abs(a - b) for name in one for a, b in zip(one[name], other[name]))


def losses(path):
    records = read_metrics(Path(path))
    names = ("loss", "train_loss", "val_loss", "learning_rate", "gradient_norm")
    return [[record["step"], *(record[name] or 0.0 for name in names)] for record in records]


@pytest.mark.parametrize("kind, count, flags", [
    ("gpt2-char", 1, []), ("gpt2-char", 2, []), ("gpt2-char", 4, []),
    ("gpt2-bpe-accumulated", 2, []), ("llama-char", 2, []), ("llama-bpe", 2, []),
    ("lines", 2, []), ("sgd", 2, []), ("gpt2-char", 2, ["--fsdp"]), ("llama-bpe", 2, ["--fsdp"]),
])  # fmt: skip
def test_out_and_back_it_is_as_if_it_had_stayed(kind, count, flags):
    """20 steps here, 20 there, 20 here again."""
    train("whole", kind)
    train("run", kind, "--stop-after", "20")
    data = export(kind)
    done = run(count, "--stop-after", "40", *flags)
    assert done.returncode == 0, done.stderr
    assert main(["import", "f", "-o", "back", "--quiet"]) == 0
    assert main(["train", "--resume", "back", "--data", data, "--quiet", "-n", "0"]) == 0
    assert furthest("whole", "back") < 1e-7
    here, there = losses("whole.metrics.jsonl"), losses("back.metrics.jsonl")
    assert len(here) == len(there) == 60
    assert max(abs(a - b) for one, other in zip(here, there) for a, b in zip(one, other)) < 1e-9
    best = [checkpoint.load(Path(path)).metadata["best"] for path in ("whole", "back")]
    assert best[0]["step"] == best[1]["step"]


def test_the_folder_holds_what_was_learned_for_those_who_read_such_folders():
    train("run", "gpt2-char", "--stop-after", "20")
    export()
    assert run(2, "--stop-after", "22").returncode == 0
    own = checkpoint.load(Path("f/run.safetensors")).tensors
    theirs = hugging_face.read(Path("f")).tensors
    assert all(list(t.read()) == list(rows_of(own[name])) for name, t in theirs.items())


def test_one_that_is_killed_ends_the_others_and_the_rest_is_as_if_nothing_had_been():
    train("whole", "gpt2-char")
    train("run", "gpt2-char", "--stop-after", "20")
    export()
    shutil.copytree("f", "g")
    process = subprocess.Popen(torchrun(2, "--save-every", "1"), stderr=subprocess.PIPE, text=True,
                               env=ENVIRONMENT)  # fmt: skip
    metrics = Path("f/metrics.jsonl")
    while len(read_metrics(metrics)) < 25:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    began = time.monotonic()
    _, err = process.communicate(timeout=100)
    assert process.returncode and time.monotonic() - began < 60
    assert "because another one has gone; f holds the last checkpoint" in err
    done = run(4)  # to the end of the run, with another number of processes
    assert done.returncode == 0, done.stderr
    assert furthest("whole", "f/run.safetensors") < 1e-7
    here, there = losses("whole.metrics.jsonl"), losses("f/metrics.jsonl")
    assert max(abs(a - b) for one, other in zip(here, there) for a, b in zip(one, other)) < 1e-9


def test_what_does_not_fit_is_one_line():
    train("run", "gpt2-char", "--stop-after", "20")
    export()
    for count, flags, problem in (
        (3, [], "3 processes cannot share batches of 8 contexts evenly"),
        (2, ["--stop-after", "20"], "lies behind"),
    ):
        done = run(count, *flags)
        assert done.returncode and done.stderr.count("train_torchrun: error: ") == 1
        assert problem in done.stderr
    tokens = bytearray(Path("f/tokens.bin").read_bytes())
    tokens[10] ^= 1
    Path("f/tokens.bin").write_bytes(tokens)
    done = run(2)
    assert done.returncode and "its bytes have changed" in done.stderr
    alone = subprocess.run([sys.executable, SCRIPT, "f"], capture_output=True, text=True)
    assert alone.returncode == 2 and "start it with torchrun" in alone.stderr


def test_without_pytorch_it_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, SCRIPT, "f"], capture_output=True, text=True,
                          env=environment)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "PyTorch is not installed: pip install 'tiny-llm-demo[torch]'\n"


def test_dropout_is_there_and_the_loss_stays_sane():
    train("run", "gpt2-char", "--stop-after", "20", "--dropout", "0.2")
    export()
    assert run(2).returncode == 0
    records = [json.loads(line) for line in Path("f/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 60 and records[-1]["val_loss"] < records[19]["val_loss"] + 0.1
