"""The same seed gives the same bytes, however often a run is stopped, interrupted or killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.files import checkpoint
from tiny_llm.run.metrics import read_metrics

ROOT = Path(__file__).parents[2]
TEXT = "the cat sat on the mat. the dog sat on the log. " * 8
RUNGS = {
    "mlp": ["--context-length", "4", "--d-embedding", "3", "--d-hidden", "6"],
    "attention": ["--context-length", "4", "--d-model", "6", "--lr", "0.1"],
    "modern": ["--context-length", "4", "--d-model", "4", "--n-heads", "2", "--n-layers", "2"],
}
# Whatever else a resumed run has to pick up: a step of several batches, dropout, a schedule.
RUNGS["modern, with everything"] = [
    *RUNGS["modern"], *["--gradient-accumulation-steps", "3", "--dropout", "0.2"],
    *["--grad-clip", "0.5", "--warmup-steps", "9", "--weight-decay", "0.1", "--patience", "1000"],
]  # fmt: skip
STEPS = 40


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def command(rung, *flags, steps=STEPS):
    model = rung.split(",")[0]
    return ["train", "--model", model, "--data", "text.txt", "--steps", str(steps), "-n", "1",
            "--eval-every", "7", *RUNGS[rung], *flags]  # fmt: skip


def resume(*flags):
    return ["train", "--resume", "stopped", "--data", "text.txt", "-n", "1", *flags]


def bytes_of(path):
    return Path(path).read_bytes()


@pytest.mark.parametrize("rung", RUNGS)
def test_the_same_seed_gives_the_same_bytes(rung):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main(command(rung, "--out", name, "--seed", str(seed))) == 0
    assert bytes_of("a") == bytes_of("b") != bytes_of("c")


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("stops", [[1], [7, 8], [13, 14, 39]])
def test_a_stopped_run_ends_with_the_same_bytes(rung, stops, capsys):
    assert main(command(rung, "--out", "whole")) == 0
    assert main(command(rung, "--out", "stopped", "--stop-after", str(stops[0]))) == 0
    assert "train --resume stopped --data text.txt" in capsys.readouterr().err
    for step in stops[1:]:
        assert main(resume("--stop-after", str(step))) == 0
    assert bytes_of("stopped") != bytes_of("whole")
    assert main(resume()) == 0
    assert bytes_of("stopped") == bytes_of("whole")
    assert bytes_of("stopped.best") == bytes_of("whole.best")
    assert main(resume()) == 0  # nothing is left to do, and nothing changes
    assert bytes_of("stopped") == bytes_of("whole")
    assert not Path("stopped.bak").exists()


def test_how_often_it_is_saved_does_not_matter():
    main(command("modern", "--out", "a"))
    main(command("modern", "--out", "b", "--save-every", "1"))
    assert bytes_of("a") == bytes_of("b")


def test_no_path_date_or_duration_is_stored(folder):
    main(command("mlp", "--out", "a"))
    metadata = json.dumps(checkpoint.load(Path("a")).metadata)
    assert str(folder) not in metadata
    assert "text.txt" not in metadata
    assert set(checkpoint.load(Path("a")).metadata) == {
        "format", "model", "config", "tokenizer", "training", "step", "best", "recent"
    }  # fmt: skip


def test_a_resumed_run_can_be_made_longer():
    main(command("mlp", "--out", "stopped", steps=10))
    assert main(resume("--steps", "15")) == 0
    assert checkpoint.load(Path("stopped")).metadata["step"] == 15


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        (["--batch-size", "5"], 2, "--batch-size cannot change in a resumed run"),
        (["--model", "modern"], 2, "--model cannot change in a resumed run"),
        (["--d-hidden", "9"], 2, "--d-hidden cannot change in a resumed run"),
        (["--seed", "9"], 2, "--seed cannot change in a resumed run"),
        (["--steps", "39"], 2, "can be made longer, not 39 steps long"),
        (["--d-model", "6"], 2, "--d-model is no size of --model mlp"),
        (["--stop-after", "5"], 2, "--stop-after 5 lies behind"),
        (["--data", "other.txt"], 1, "give the same text again with --data"),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_is_lost(flags, code, expected, capsys):
    Path("other.txt").write_text(TEXT + "x", encoding="utf-8")
    main(command("mlp", "--out", "stopped", "--stop-after", "5"))
    before = bytes_of("stopped")
    capsys.readouterr()
    assert main(resume(*flags)) == code
    assert expected in capsys.readouterr().err
    assert bytes_of("stopped") == before


def start(words):
    return subprocess.Popen(
        [sys.executable, "-m", "tiny_llm", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_saves_and_says_how_to_go_on():
    long = command("mlp", "--out", "stopped", steps=200_000)
    process = start(long)
    for line in process.stderr:
        if line.startswith("first loss"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "train --resume stopped --data text.txt" in err
    assert "Traceback" not in err
    step = checkpoint.load(Path("stopped")).metadata["step"]
    assert step > 0
    assert main(resume("--stop-after", str(step + 3))) == 0
    assert main([*long, "--out", "whole", "--stop-after", str(step + 3)]) == 0
    assert bytes_of("stopped") == bytes_of("whole")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
@pytest.mark.parametrize("rung", RUNGS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(rung):
    """At least 20 kills at random moments, many of them while the file is being written."""
    rng = random.Random(rung)
    steps = {"mlp": 2000, "attention": 1200, "modern": 640}.get(rung, 240)
    flags = ["--save-every", "1"]
    assert main(command(rung, "--out", "whole", steps=steps)) == 0
    kills = 0
    while True:
        begun = Path("stopped").exists()
        process = start(
            resume(*flags) if begun else command(rung, "--out", "stopped", *flags, steps=steps)
        )
        if kills < 20:
            for line in process.stderr:  # it has started, so that the kill comes in the loop
                if line.startswith("yardstick"):
                    break
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            process.communicate()
            kills += 1
        else:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
            break
        for path in Path("stopped"), Path("stopped.best"):
            if path.exists():
                checkpoint.load(path)  # raises if it is not whole
    assert kills >= 20
    assert bytes_of("stopped") == bytes_of("whole")
    assert bytes_of("stopped.best") == bytes_of("whole.best")
    for name in "stopped", "whole":
        records = read_metrics(Path(f"{name}.metrics.jsonl"))
        assert [record["step"] for record in records] == list(range(1, steps + 1))
