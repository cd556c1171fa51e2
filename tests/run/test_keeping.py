"""What a run leaves behind: metrics step by step, its best checkpoint, and a word of warning."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CATS

from tiny_llm.cli import main
from tiny_llm.files import checkpoint
from tiny_llm.run.metrics import read_metrics

RISING = ["--lr", "1.5", "--schedule", "constant", "--batch-size", "2"]
FLAGS = ["--data", "text.txt", "--context-length", "4", "-n", "1"]


pytestmark = pytest.mark.usefixtures("text_folder")


def train(*flags, steps=30):
    return main(["train", *FLAGS, "--steps", str(steps), "--eval-every", "5", *flags])


def metadata(path):
    return checkpoint.load(Path(path)).metadata


# ----------------------------------------------------------------------------------------- metrics


def test_every_step_leaves_a_line_that_any_tool_can_read():
    assert train("-o", "m", "--grad-clip", "0.5", "--warmup-steps", "3", steps=12) == 0
    records = read_metrics(Path("m.metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(1, 13))
    assert all(record["loss"] > 0 and record["tokens_per_second"] > 0 for record in records)
    assert all(record["gradient_norm"] > 0 for record in records)
    rates = [record["learning_rate"] for record in records]
    assert rates[:4] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1])
    evaluated = [record for record in records if record["val_loss"] is not None]
    assert [record["step"] for record in evaluated] == [5, 10, 12]
    means = [sum(r["loss"] for r in records[a:b]) / (b - a) for a, b in ((0, 5), (5, 10), (10, 12))]
    assert [record["train_loss"] for record in evaluated] == pytest.approx(means)
    best = metadata("m")["best"]
    assert best["val_loss"] == min(record["val_loss"] for record in evaluated)


def test_metrics_go_where_they_are_told_and_an_older_file_is_kept():
    assert train("-o", "m", "--metrics", "folder/log", steps=2) == 0
    assert train("-o", "m", "--metrics", "folder/log", steps=3) == 0
    assert len(read_metrics(Path("folder/log"))) == 3
    assert len(read_metrics(Path("folder/log.bak"))) == 2
    assert not Path("m.metrics.jsonl").exists()


@pytest.mark.parametrize("torn", ['{"step": 8, "lo', "[1]", "{}", ""])
def test_a_resumed_run_goes_on_behind_its_checkpoint(torn):
    assert train("-o", "m", "--stop-after", "7") == 0
    path = Path("m.metrics.jsonl")
    kept = path.read_text("utf-8").splitlines()
    ahead = json.dumps({**json.loads(kept[-1]), "step": 8})  # killed after it, before the next save
    path.write_text("\n".join([*kept, ahead, torn]), encoding="utf-8")
    assert main(["train", *FLAGS, "--resume", "m"]) == 0
    lines = path.read_text("utf-8").splitlines()
    assert lines[:7] == kept
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 31))


def test_a_damaged_line_takes_no_other_with_it(capsys):
    assert train("-o", "m", "--stop-after", "7") == 0
    path = Path("m.metrics.jsonl")
    lines = path.read_text("utf-8").splitlines()
    damaged = "\n".join([*lines[:3], '{"step": 4, "lo', *lines[4:]]) + "\n"
    path.write_text(damaged, encoding="utf-8")
    assert main(["train", *FLAGS, "--resume", "m"]) == 0
    steps = [record["step"] for record in read_metrics(path)]
    assert steps == [1, 2, 3, *range(5, 31)]
    assert "it is now m.metrics.jsonl.bak" in capsys.readouterr().err.replace("\n" + " " * 11, " ")
    assert Path("m.metrics.jsonl.bak").read_text("utf-8") == damaged


def test_a_run_that_goes_on_elsewhere_takes_its_metrics_along_and_no_other():
    assert train("-o", "a", "--stop-after", "7") == 0
    assert train("-o", "b", "--seed", "3", steps=9) == 0
    old = Path("b.metrics.jsonl").read_bytes()
    assert main(["train", *FLAGS, "--resume", "a", "-o", "b"]) == 0
    a, b = (Path(f"{name}.metrics.jsonl").read_text("utf-8").splitlines() for name in "ab")
    assert b[:7] == a and len(b) == 30
    assert Path("b.metrics.jsonl.bak").read_bytes() == old


def test_a_file_that_holds_no_metrics_is_left_alone(capsys):
    Path("log").write_text("precious", encoding="utf-8")
    assert train("-o", "m", "--metrics", "log") == 1
    assert "log exists and holds no metrics; choose another --metrics" in capsys.readouterr().err
    assert Path("log").read_text("utf-8") == "precious"
    assert not Path("m").exists()


def test_the_training_loss_is_the_mean_since_the_last_evaluation_whatever_happens_between():
    assert train("-o", "whole") == 0
    assert train("-o", "parts", "--stop-after", "3") == 0
    assert main(["train", *FLAGS, "--resume", "parts"]) == 0
    whole, parts = (read_metrics(Path(f"{name}.metrics.jsonl")) for name in ("whole", "parts"))
    for record in [*whole, *parts]:
        del record["tokens_per_second"]
    assert whole == parts


def test_files_of_runs_whose_names_have_dots_do_not_meet():
    for out in "lr0.1", "lr0.2", "a.b.safetensors":
        assert train("-o", out, steps=2) == 0
    names = {path.name for path in Path().iterdir()} - {"text.txt"}
    stems = {"lr0.1": "", "lr0.2": "", "a.b": ".safetensors"}
    assert names == {
        f"{stem}{part}"
        for stem, end in stems.items()
        for part in (end, f".best{end}", ".metrics.jsonl")
    }


def test_the_text_is_not_replaced_by_any_file_of_the_run(capsys):
    Path("text.txt").rename("m.best")
    words = ["train", "--data", "m.best", *FLAGS[2:], "--steps", "3", "-o", "m"]
    assert main(words) == 1
    assert "m.best is the text itself" in capsys.readouterr().err
    assert Path("m.best").read_text("utf-8") == CATS


@pytest.mark.parametrize("path", ["m", "m.best"])
def test_metrics_do_not_go_where_a_checkpoint_does(path, capsys):
    assert train("-o", "m", "--metrics", path) == 1
    assert "choose another --metrics" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------- the best


def test_the_best_checkpoint_is_kept_beside_the_last():
    assert train("-o", "runs/m.safetensors", "--lr", "1.5", "--schedule", "constant") == 0
    last, best = metadata("runs/m.safetensors"), metadata("runs/m.best.safetensors")
    assert last["step"] == 30
    assert best["step"] == best["best"]["step"] == last["best"]["step"] < 30
    assert main(["eval", "-c", "runs/m.best.safetensors", "--data", "text.txt"]) == 0


def test_a_new_run_does_not_leave_the_best_of_another_beside_it():
    assert train("-o", "m", steps=10) == 0
    old = Path("m.best").read_bytes()
    assert train("-o", "m", "--seed", "1", "--stop-after", "2", steps=10) == 0
    assert Path("m.best.bak").read_bytes() == old
    assert not Path("m.best").exists()


def test_a_run_that_goes_on_elsewhere_takes_its_best_along():
    assert train("-o", "m", "--stop-after", "7") == 0
    assert main(["train", *FLAGS, "--resume", "m", "--out", "n", "--stop-after", "8"]) == 0
    assert Path("n.best").read_bytes() == Path("m.best").read_bytes()


def test_a_run_can_go_on_from_its_best(capsys):
    assert train("-o", "m.safetensors", *RISING) == 1
    best = Path("m.best.safetensors").read_bytes()
    words = ["train", *FLAGS, "--resume", "m.best.safetensors", "-o", "m.safetensors"]
    for _ in range(2):  # it stays where it is
        assert main([*words, "--stop-after", str(metadata("m.best.safetensors")["step"] + 1)]) == 0
        assert Path("m.best.safetensors").read_bytes() == best
    assert "m.safetensors.bak" in capsys.readouterr().err


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a tmpfs")
def test_a_full_disk_is_named_before_the_first_step_and_leaves_no_half_copy(capsys):
    assert train("-o", "m", "--stop-after", "10") == 0
    Path("disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", "disk"]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        assert main(["train", *FLAGS, "--resume", "m", "--out", "disk/n", "--quiet"]) == 1
        assert "cannot write disk/n.best: No space left on device" in capsys.readouterr().err
        assert list(Path("disk").iterdir()) == []
    finally:
        subprocess.run(["umount", "disk"], check=True)


# --------------------------------------------------------------------------------------- patience


def test_a_run_ends_when_its_patience_does(capsys):
    assert train("-o", "m", *RISING, "--patience", "2", steps=400) == 1
    end = metadata("m")
    assert end["step"] == end["best"]["step"] + 2 * 5 < 400
    err = capsys.readouterr().err
    assert "patience" in err and "m holds step" in err
    before = Path("m").read_bytes()
    assert main(["train", *FLAGS, "--resume", "m"]) == 0  # there is nothing more to do
    assert Path("m").read_bytes() == before
    assert (
        main(
            [
                "train",
                *FLAGS,
                "--resume",
                "m",
                "--patience",
                "0",
                "--stop-after",
                str(end["step"] + 1),
            ]
        )
        == 0
    )  # but with more of it there is
    assert metadata("m")["step"] == end["step"] + 1


def test_without_patience_a_run_goes_on(capsys):
    assert train("-o", "m", *RISING) == 1
    assert metadata("m")["step"] == 30
    assert "patience" not in capsys.readouterr().err


# ---------------------------------------------------------------------------------- the two losses


def test_a_model_that_memorizes_is_said_to_once(capsys):
    Path("text.txt").write_text("abcdefghij" * 5 + "jihgfedcba" * 5, encoding="utf-8")
    assert train("-o", "m", "--val-fraction", "0.5", "--lr", "0.5", steps=150) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("only learns its text by heart") == 1
    assert "m.best holds the best" in err


def test_a_loss_that_rises_is_no_result(capsys):
    assert train("-o", "m", *RISING) == 1
    out, err = capsys.readouterr()
    assert out == "" and "done" not in err
    err = " ".join(err.split())
    assert (
        err.count("the loss stays above guessing (2.639): the learning rate 1.5 is too high") == 1
    )
    assert (
        "try a lower one (--lr 0.15), or clip long gradients (--grad-clip 1); m holds step 30, "
        in err
    )
    assert err.endswith(f"and m.best the best, step {metadata('m.best')['step']}")
    assert metadata("m")["step"] == 30
    assert train("-o", "n", *RISING, "--lr", "0.15", "--quiet") == 0


@pytest.mark.parametrize("flags", [[], ["--grad-clip", "1"]])
def test_a_loss_of_any_size_fits_in_a_line(flags, capsys):
    for optimizer in "sgd", "adamw":
        assert train("--lr", "1e30", "--optimizer", optimizer, *flags) == 1
        err = capsys.readouterr().err
        assert max(map(len, err.splitlines()[:-1])) <= 80
        assert "JSON" not in err
        assert ("--grad-clip" in err.splitlines()[-1]) is not bool(flags)


@pytest.mark.parametrize("steps", [5, 40])
def test_a_run_that_ends_above_guessing_says_so_once(steps, capsys):
    sizes = ["--d-model", "4", "--n-heads", "2", "--seed", "3"]
    assert train("-o", "m", "--model", "modern", *sizes, "--lr", "1e-9", steps=steps) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("so the model has learned nothing yet: take more steps, or another") == 1


# ----------------------------------------------------------------------------------------- samples


def test_samples_on_the_way_change_nothing_of_the_run(capsys):
    assert train("-o", "a", "--sample-every", "10", "--prompt", "the") == 0
    assert capsys.readouterr().out.count("the") >= 3  # after steps 10, 20 and at the end
    assert train("-o", "b", "--prompt", "the") == 0
    assert Path("a").read_bytes() == Path("b").read_bytes()
