"""The live line while a model trains, and the curve in it."""

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm.run.steps import Step
from tiny_llm.view import progress as module
from tiny_llm.view.progress import CLEAR_LINE, Progress
from tiny_llm.view.sparkline import MOST_MEANS, Sketch, sparkline
from tiny_llm.view.terminal import Style, display_width, plain

PLAIN, ASCII = Style(), Style(unicode=False)
MARKS = "▁▂▃▄▅▆▇█"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def step(number, loss, val_loss=None, tokens=96):
    return Step(number, loss, 0.1, tokens, 1.0, val_loss and loss, val_loss, 0.01)


def lines_of(style, steps, total, terminal=True, start=0):
    """What a run of these steps writes, ten seconds long: each line with what stands before it."""
    stream = Terminal() if terminal else io.StringIO()
    progress = Progress(stream, style, total, start, quiet=False)
    for one in steps:
        progress.refreshed = -1.0  # so that every step is shown
        progress.step(one)
    return re.split(re.escape(CLEAR_LINE) + "|\n", stream.getvalue())


# ---------------------------------------------------------------- sparkline.py


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8, PLAIN) == MARKS[::-1]
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8, ASCII) == "@#*+~-._"
    assert sparkline([3.0, 1.0, 2.0], 9, PLAIN) == "█▁▅"
    assert sparkline([4, 2, 1, 1], 2, PLAIN) == "█▁"


def test_equal_numbers_lie_in_the_middle():
    assert sparkline([2.0], 5, PLAIN) == "▄" and sparkline([2.0] * 9, 3, ASCII) == "~~~"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 30), st.booleans())
def test_any_sparkline_has_a_mark_for_each_place(numbers, columns, unicode):
    style = Style(unicode=unicode)
    line = sparkline(numbers, columns, style)
    assert display_width(line) == min(len(numbers), columns)
    assert unicode or line.isascii()


@given(st.lists(st.floats(0, 9), min_size=1, max_size=1000))
def test_a_sketch_keeps_the_means(numbers):
    sketch = Sketch()
    for number in numbers:
        sketch.add(number)
    assert len(sketch.means) <= MOST_MEANS
    groups = [numbers[i : i + sketch.each] for i in range(0, len(numbers), sketch.each)]
    assert sketch.means == pytest.approx([sum(g) / len(g) for g in groups])


# ---------------------------------------------------------------- progress.py


@pytest.mark.parametrize(
    "width, shown",
    [
        (80, "step  99/999  loss 2.000  ██▇▇▆▆▅▅▄▄▃▃▂▂▂▁  960 tokens/s  1:30 left"),
        (60, "step  99/999  loss 2.000  █▇▆▅▄▃▂▁  960 tokens/s  1:30 left"),
        (57, "step  99/999  loss 2.000  ██▇▇▆▆▅▅▄▄▃▃▂▂▂▁  1:30 left"),
        (44, "step  99/999  loss 2.000  █▇▅▄▂▁  1:30 left"),
        (43, "step  99/999  loss 2.000  1:30 left"),
        (40, "step  99/999  loss 2.000  1:30 left"),
        (35, "step  99/999  loss 2.000"),
        (24, "step  99  loss 2.000"),
        (15, "step  99  loss"),
    ],
)
def test_what_matters_least_goes_first(width, shown, monkeypatch):
    """99 steps of 96 tokens in 9.9 seconds, and 900 to go."""
    now = iter([0.0] + [9.9] * 99)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    steps = [step(i, 2 + (99 - i) / 50) for i in range(1, 100)]
    lines = lines_of(Style(color=True, width=width), steps, 999)
    assert plain(lines[-1]) == shown
    assert ("\x1b[36m" in lines[-1]) is ("▁" in shown)


MEASURED = {
    "chosen_reward": -0.77, "rejected_reward": -6.22, "margin": 5.45, "accuracy": 0.95, "kl": 8.18,
    "chosen_loss": 0.6,
}  # fmt: skip


@pytest.mark.parametrize(
    "width, shown",
    [
        (120, "step  3/10  loss 2.000  rewards -0.77 -6.22  accuracy 95%  KL 8.18  "),
        (70, "step  3/10  loss 2.000  rewards -0.77 -6.22  accuracy 95%  KL 8.18"),
        (50, "step  3  loss 2.000  rewards -0.77 -6.22  accura"),
    ],
)
def test_the_live_line_of_preferences_has_what_was_last_measured(width, shown):
    steps = [step(1, 3.5), replace(step(2, 3.0, 2.5), measured=MEASURED), step(3, 2.0)]
    before, *_, after = lines_of(Style(width=width), steps, 10)[1:]
    assert "rewards" not in before and after.startswith(shown)
    assert len(after) < width


def test_what_was_measured_stays_in_a_line_of_its_own():
    steps = [replace(step(2, 3.0, 2.5), measured=MEASURED), step(3, 2.0)]
    first, second, *_ = lines_of(Style(width=90), steps, 10, terminal=False)
    assert "rewards" not in first and "val loss 2.500" in first
    assert second == (
        "rewards:   chosen -0.77, rejected -6.22, margin 5.45; accuracy 95%, KL 8.18 nats an answer"
    )


def test_pairs_have_a_speed_of_their_own():
    stream = io.StringIO()
    Progress(stream, PLAIN, 10, 0, quiet=False, unit="pairs").step(step(2, 3.0, 2.5, tokens=8))
    assert re.search(r"  [\d,]+\.\d pairs/s  ", stream.getvalue())


def test_piped_lines_are_as_ever():
    steps = [step(1, 3.5), step(2, 3.0, 2.5), step(3, 2.0)]
    text = "\n".join(lines_of(PLAIN, steps, 10, terminal=False))
    assert re.fullmatch(
        r"step  2/10  loss 3\.000  val loss 2\.500  [\d,]+ tokens/s  [\d:]+ left\n", text
    )


@given(
    st.lists(st.floats(0, 1e5), min_size=1, max_size=40), st.integers(1, 10**7),
    st.integers(20, 200), st.booleans(), st.booleans(),
)  # fmt: skip
def test_no_line_is_wider_than_the_terminal(losses, total, width, unicode, color):
    steps = [step(i, loss, loss if i % 3 == 0 else None) for i, loss in enumerate(losses, 1)]
    for line in lines_of(Style(color, unicode, width), steps, total + len(losses)):
        assert display_width(line) < width
        assert unicode or line.isascii()
        assert color or "\x1b" not in line


def test_a_terminal_made_narrower_is_noticed(monkeypatch):
    steps = [step(i, 4 - i / 10) for i in range(1, 31)]
    monkeypatch.setenv("COLUMNS", "50")
    assert max(map(display_width, lines_of(Style(width=80), steps, 100))) < 50
