"""One step of fine-tuning, told: its numbers are those of the step, its lines keep to the width."""

import copy
import json
import math

import pytest
from answering import TOKENIZER, base
from pytest import approx

from tiny_llm.beyond.conversations import Lines
from tiny_llm.beyond.lesson_step import lesson_step
from tiny_llm.beyond.sft import Lessons
from tiny_llm.beyond.sft_run import begin_run
from tiny_llm.cli import main
from tiny_llm.layers import cross_entropy
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.saved import save_run
from tiny_llm.view.lesson_step import as_lines
from tiny_llm.view.terminal import Style, display_width


@pytest.fixture
def started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the cat."}]
    (tmp_path / "f.jsonl").write_text((json.dumps({"messages": said}) + "\n") * 4, "utf-8")
    options = {"learning_rate": 0.01, "grad_clip": 0.0, "val_fraction": 0.5, "workers": 1}
    run, taught = begin_run(base(), Lines("f.jsonl"), options)
    return run, taught.train[0]


def loss_of(model, lesson):
    lessons = Lessons()
    lessons.append(lesson)
    contexts, targets = lessons.examples(24, True).take([0])
    return cross_entropy(OnlyAsked(model).forward(contexts)[0], targets)


def test_it_tells_what_the_loss_and_its_slopes_are_and_made_the_step(started):
    run, lesson = started
    before = copy.deepcopy(run.model)
    told = lesson_step(run, lesson)
    loss, dlogits = loss_of(before, lesson)
    targets = [lesson.ids[place] for place in lesson.asked]
    assert told.loss == loss == approx(-sum(told.before) / len(targets))
    assert told.slopes == [row[token] for row, token in zip(dlogits, targets)]
    assert told.slopes == approx([math.expm1(log) / len(targets) for log in told.before])
    everything = lesson._replace(asked=list(range(1, len(lesson.ids))))
    assert told.loss_of_all == loss_of(before, everything)[0] != loss
    assert told.loss_after == loss_of(run.model, lesson)[0] < loss
    assert told.moved.slope * (told.moved.after - told.moved.before) < 0
    assert before.parameters != run.model.parameters


@pytest.mark.parametrize("width", [40, 80])
def test_its_lines_keep_to_the_width(started, width):
    lines = list(as_lines(lesson_step(*started), TOKENIZER, Style(width=width)))
    assert max(map(display_width, lines)) <= width
    assert [line[:2] for line in lines if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]


def test_the_command_shows_it_and_writes_nothing(started, tmp_path, capsys):
    save_run(tmp_path / "base", base())
    flags = ["-c", "base", "--data", "f.jsonl", "--val-fraction", "0.5", "--workers", "1"]
    assert main(["sft", *flags, "--show-step"]) == 0
    out = capsys.readouterr().out
    assert "nats per token" in out and "<|assistant|>" in out and "\x1b" not in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "f.jsonl"]
