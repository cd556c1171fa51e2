"""train --task, and eval and attention of what it made."""

from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.run.saved import load_run, save_run
from tiny_llm.text.tasks import TASKS
from tiny_llm.view.heads import choose_heads, recall


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tiny_llm.text.tasks.HELD_OUT", 20)  # cases, so that it takes no time


def train(task, model, *flags, steps=2):
    return main(
        ["train", "--task", task, "--model", model, "--steps", str(steps), "--quiet", *flags]
    )


@pytest.mark.parametrize("model", ["mlp", "attention", "modern"])
@pytest.mark.parametrize("task", TASKS)
def test_every_rung_can_be_given_every_task(task, model, capsys):
    assert train(task, model) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"{task} ({TASKS[task].about}): ")
    assert load_run(Path(f"runs/{model}.safetensors")).options.task == task
    assert main(["eval", "--quiet"]) == 0
    assert capsys.readouterr().out == out  # the same cases, the same answers


def test_rung_1_learns_what_stands_at_one_place(capsys):
    assert train("place", "mlp", "--d-embedding", "8", "--d-hidden", "24", steps=300) == 0
    assert "100.0% right" in capsys.readouterr().out


@pytest.mark.slow
def test_a_task_is_gone_on_with(capsys):
    assert train("recall", "modern", "-o", "whole", steps=4) == 0
    assert train("recall", "modern", "-o", "parts", "--stop-after", "2", steps=4) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "parts"]) == 1
    assert "give --task recall" in capsys.readouterr().err
    assert main(["train", "--resume", "parts", "--task", "recall", "--quiet"]) == 0
    assert Path("parts").read_bytes() == Path("whole").read_bytes()


@pytest.mark.parametrize("flags, message", [
    (["--data", "text.txt"], "--task takes the place of a text"),
    (["--lines"], "--lines is for texts, not for a task"),
    (["--context-length", "8"], "needs a --context-length of 12 or more"),
    (["--dropout", "0.1"], "without --dropout"),
    (["--workers", "2"], "by one of --workers"),
])  # fmt: skip
def test_what_no_task_takes_is_refused(flags, message, capsys):
    assert train("recall", "modern", *flags) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_model_that_computes_no_numbers_is_refused(capsys):
    assert train("find", "attention") == 0
    run = load_run(Path("runs/attention.safetensors"), to_train=True)
    run.model.parameters["output.bias"][0] = 1e308
    run.model.parameters["output.weight"][0] = [1e308] * 53
    run.model.parameters["hidden.bias"] = [20.0] * 96
    run.model.parameters["output.weight"][1] = [1e308] * 53
    save_run(Path("huge"), run)
    capsys.readouterr()
    assert main(["eval", "-c", "huge", "--quiet"]) == 1
    assert "too large" in capsys.readouterr().err


def test_eval_without_a_head(capsys):
    assert train("find", "attention") == 0
    capsys.readouterr()
    assert main(["eval", "--without-head", "1.1", "--quiet"]) == 0
    assert "right" in capsys.readouterr().out
    for head in ("2.1", "1.2"):
        assert main(["eval", "--without-head", head, "--quiet"]) == 1
        assert f"no attention head {head}" in capsys.readouterr().err
    assert main(["eval", "--without-head", "x"]) == 2


TOKENS = list("abcxab")  # b came behind a


def rows(pick):
    return [[float(at == pick(place)) for at in range(6)] for place in range(6)]


PREVIOUS = rows(lambda place: max(0, place - 1))
BEHIND = rows(
    lambda place: max([at + 1 for at in range(place) if TOKENS[at] == TOKENS[place]] or [0])
)
ITSELF = rows(lambda place: place)


def test_the_two_heads_that_recall_are_named():
    told = recall(choose_heads([[ITSELF, PREVIOUS], [ITSELF, BEHIND]]), TOKENS)
    assert told.startswith("Layer 2 head 2 reads what came behind the same token before (1.0")
    assert "layer 1 head 2 read there" in told


@pytest.mark.parametrize("weights, tokens", [
    ([[ITSELF, PREVIOUS], [ITSELF, ITSELF]], TOKENS),  # nobody reads there
    ([[PREVIOUS, BEHIND]], TOKENS),  # nobody below could have told
    ([[PREVIOUS], [BEHIND]], list("abcdef")),  # nothing stood there before
])  # fmt: skip
def test_no_heads_are_named_where_none_recall(weights, tokens):
    assert recall(choose_heads(weights), tokens) is None
