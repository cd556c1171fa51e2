"""One step of DPO, told: its numbers are those of the step, and its lines keep to the width."""

import copy
import math

import pytest
from answering import TOKENIZER, base, preference_lines
from pytest import approx

from tiny_llm.beyond.dpo import dpo, pair_logs
from tiny_llm.beyond.pair_step import pair_step
from tiny_llm.beyond.pairs import OfPairs, laid_out
from tiny_llm.beyond.preference_run import begin_run, reference_of
from tiny_llm.cli import main
from tiny_llm.model import rows_of
from tiny_llm.run.saved import save_run
from tiny_llm.run.texts import Text
from tiny_llm.view.pair_step import as_lines
from tiny_llm.view.terminal import Style, display_width

PREFERENCES = Text("\n".join(preference_lines()), "pairs.jsonl")


@pytest.fixture(params=[0.0, 0.5])
def started(request):
    """A run that is no longer its reference, and a pair of it."""
    options = {"learning_rate": 0.01, "beta": 0.7, "nll_weight": request.param, "grad_clip": 0.0}
    run, pairs = begin_run(base(), PREFERENCES, {**options, "val_fraction": 0.2})
    for number, row in enumerate(rows_of(run.model.parameters["wte.weight"])):
        row[:] = [value + 0.05 * ((number + i) % 3) for i, value in enumerate(row)]
    return run, pairs.train.pairs[0]


def test_it_tells_what_the_loss_and_its_slopes_are(started):
    run, pair = started
    model, reference = OfPairs(copy.deepcopy(run.model)), OfPairs(reference_of(run))
    _, targets, lengths = laid_out([pair])
    references = pair_logs(reference.forward([pair])[0], targets, lengths)
    logits, _ = model.forward([pair])
    settings = run.options.beta, run.options.nll_weight
    loss, dlogits, (rewards,) = dpo(logits, targets, lengths, references, *settings)
    told = pair_step(run, pair)
    assert (told.before.loss, told.before.rewards) == (approx(loss), approx(rewards))
    assert told.before.rewards.margin != 0
    own = [row[token] for row, token in zip(dlogits, targets)]
    assert told.before.chosen.slopes + told.before.rejected.slopes == own
    ((ours, _),) = pair_logs(logits, targets, lengths)
    assert told.before.chosen.logs == (approx(ours), approx(references[0].chosen))


def test_the_step_was_made(started):
    run, pair = started
    before = copy.deepcopy(run.model.parameters)
    told = pair_step(run, pair)
    name, *places = told.moved.name.replace("]", "").split("[")
    was, now = before[name], run.model.parameters[name]
    for place in map(int, places):
        was, now = was[place], now[place]
    assert (told.moved.before, told.moved.after) == (was, now) and was != now
    assert told.moved.slope * (now - was) < 0
    assert told.after.rewards.margin > told.before.rewards.margin
    assert told.after.loss < told.before.loss


@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("unicode", [True, False])
def test_every_line_keeps_to_the_width(started, width, unicode):
    run, pair = started
    lines = list(as_lines(pair_step(run, pair), TOKENIZER, Style(width=width, unicode=unicode)))
    assert max(map(display_width, lines)) <= width
    assert unicode or all(line.isascii() for line in lines)
    assert [line[0] for line in lines if line[:1].isdigit()] == list("123456")


def test_what_is_written_as_a_calculation_can_be_done_again(started):
    run, pair = started
    told = pair_step(run, pair)
    text = "\n".join(as_lines(told, TOKENIZER, Style(width=200)))
    for name in ("chosen", "rejected"):
        line = next(line for line in text.splitlines() if line.startswith(f"  {name}: 0.7 x ("))
        ours, theirs = line.split("(")[1].split(")")[0].split(" - ")
        assert 0.7 * (float(ours) - float(theirs)) == approx(float(line.split("= ")[1]), abs=2e-3)
    margin = told.before.rewards.margin
    push = 0.7 / (1 + math.exp(margin))
    assert f"= {push:.3f} times" in text
    for slope, log in zip(told.before.rejected.slopes, told.before.rejected.ours):
        assert slope == approx(-push * math.expm1(log))
    more = run.options.nll_weight / len(pair.chosen)
    for slope, log in zip(told.before.chosen.slopes, told.before.chosen.ours):
        assert slope == approx((push + more) * math.expm1(log))
    assert ("times more" in text) == bool(run.options.nll_weight)


def test_the_command_tells_it_and_changes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "sft", base())
    (tmp_path / "pairs.jsonl").write_text(PREFERENCES.content, encoding="utf-8")
    flags = ["-c", "sft", "--data", "pairs.jsonl", "--val-fraction", "0.2", "--show-step"]
    assert main(["dpo", *flags, "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "margin = 0.000 - 0.000 = 0.000" in out and "6. the same pair again" in out
    assert {path.name for path in tmp_path.iterdir()} == {"sft", "pairs.jsonl"}
