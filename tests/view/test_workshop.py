"""What the page does with a run, as the page asks for it: JSON in and JSON out."""

import json

import pytest

from tiny_llm.cli import main
from tiny_llm.run.metrics import read_metrics
from tiny_llm.run.saved import load_run
from tiny_llm.view.book import workshop

OWN = "<script>alert(1)</script> \U0001f600 שלום\r\n" * 40


@pytest.fixture
def ask(monkeypatch):
    made = workshop.Workshop()
    monkeypatch.setattr(
        workshop, "ACTIONS", {name: getattr(made, name) for name in workshop.ACTIONS}
    )

    def asked(action, **given):
        return json.loads(workshop.call(action, json.dumps(given)))

    return asked


def begun(ask, rung="mlp", text=None, task="", **options):
    return ask("begin", rung=rung, text=text, task=task, options=options)["result"]


def led(ask, seconds=0.05):
    """To its end: what was said each time."""
    told = []
    while not told or told[-1]["step"] < told[-1]["steps"]:
        told.append(ask("lead_on", seconds=seconds)["result"])
    return told


def test_a_run_is_that_of_the_command_line(ask, tmp_path, capsys):
    begun(ask, steps=30)
    told = led(ask)
    out = tmp_path / "m.safetensors"
    assert main(["train", "--steps", "30", "-o", str(out), "--quiet"]) == 0
    records = read_metrics(tmp_path / "m.metrics.jsonl")
    assert [loss for one in told for loss in one["losses"]] == [r["loss"] for r in records]
    assert told[-1]["measured"]["val"] == records[-1]["val_loss"]
    sample = ask("write", prompt="language models ", temperature=0.7, seed=0)["result"]
    assert sample + "\n" == capsys.readouterr().out
    assert "<svg" in told[-1]["curve"]


def test_it_stops_whenever_it_is_not_led_on(ask):
    begun(ask, steps=4)
    assert ask("lead_on", seconds=0)["result"]["step"] == 1
    assert ask("lead_on", seconds=0)["result"]["step"] == 2
    assert led(ask)[-1]["step"] == 4
    assert ask("lead_on", seconds=0)["result"]["losses"] == []


def test_a_pasted_text(ask):
    told = begun(ask, text=OWN, steps=2)
    assert "the pasted text" in dict(told["facts"])["text"]
    led(ask)
    assert ask("write", prompt="<script>", temperature=0, seed=0)["result"].startswith("<script>")


def test_a_task(ask):
    told = begun(ask, "attention", task="place", steps=2)
    assert told["task"] == "place" and told["attention"]
    assert 0 <= led(ask)[-1]["right"] <= 1


def test_attention_is_looked_at(ask):
    begun(ask, "attention", steps=1)
    found = ask("look", prompt="language")["result"]
    assert found["labels"] == list("language")
    assert len(found["attention"]["rows"]) == 8


def test_a_model_is_kept_and_opened_again(ask, tmp_path):
    path = str(tmp_path / "m.safetensors")
    begun(ask, steps=3)
    ask("lead_on", seconds=0)
    assert ask("save", path=path)["result"] == path
    assert load_run(path).step == 1
    losses = [one["losses"] for one in led(ask)]
    told = ask("open", path=path)["result"]
    assert (told["step"], told["steps"]) == (1, 3)
    assert [one["losses"] for one in led(ask)] == losses


def test_a_model_of_another_text_is_read_and_not_trained(ask, tmp_path):
    path = str(tmp_path / "m.safetensors")
    begun(ask, text=OWN, steps=2)
    ask("lead_on", seconds=0)
    ask("save", path=path)
    told = ask("open", path=path)["result"]
    assert "text" not in dict(told["facts"])
    assert ask("write", prompt="<", temperature=1, seed=0)["result"].startswith("<")


@pytest.mark.parametrize(
    "action, given, says",
    [
        ("write", {"prompt": "a", "temperature": 1, "seed": 0}, "no model yet"),
        ("begin", {"rung": "mlp", "text": "ab", "task": "", "options": {}}, "longer text"),
        ("begin", {"rung": "mlp", "text": None, "task": "", "options": {"steps": 0}}, "--steps"),
        ("begin", {"rung": "no", "text": None, "task": "", "options": {}}, "no rung 'no'"),
        ("open", {"path": "nowhere"}, "no checkpoint"),
    ],
)
def test_what_is_wrong_is_one_line(ask, action, given, says):
    error = ask(action, **given)["error"]
    assert says in error and "\n" not in error


def test_a_chapter_that_the_reader_broke_says_where(ask, monkeypatch):
    begun(ask, steps=3)
    monkeypatch.setattr("tiny_llm.layers.tanh", lambda x: x[0][10**6])
    error = ask("lead_on", seconds=0)["error"]
    assert "IndexError" in error and "mlp_lm.py line" in error
