"""Losses as curves: the numbers on the axes, where each point lands, and files of all kinds."""

import json
import math
import os
import re
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm.cli import main
from tiny_llm.cli.plot import names_of
from tiny_llm.view import plot_picture
from tiny_llm.view.curves import (
    Curves,
    Scale,
    curves_of,
    loss_scale,
    multiple,
    round_distance,
    smoothed,
    step_scale,
    tick_labels,
)
from tiny_llm.view.plot import Canvas, plot
from tiny_llm.view.plot_picture import HEIGHT, LEFT, RIGHT, TOP, WIDTH, plot_svg
from tiny_llm.view.terminal import Style, display_width, plain

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
ASCII = Style(unicode=False)

losses = st.floats(0, 1e100) | st.floats(0.4, 4)
names = st.text(max_size=60)


@st.composite
def runs(draw, most=4):
    """Some runs, each with the losses of some steps and now and then a validation."""
    drawn = []
    for _ in range(draw(st.integers(1, most))):
        train = draw(st.lists(losses, min_size=1, max_size=80))
        start = draw(st.integers(1, 10**6))
        records = [
            {"step": start + i, "loss": loss, "val_loss": loss / 2 if i % 3 == 0 else None}
            for i, loss in enumerate(train)
        ]
        drawn.append(curves_of(draw(names), records))
    return drawn


def run_of(*points, name="run"):
    """A run with these validation losses alone."""
    return Curves(name, [], 1, [(float(step), loss) for step, loss in points])


def records_of(count, first=4.0):
    return [
        {"step": i, "loss": first / i, "val_loss": first / i + 0.1 if i % 5 == 0 else None}
        for i in range(1, count + 1)
    ]


def write(path, records):
    Path(path).write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


# ---------------------------------------------------------------- curves.py


@pytest.mark.parametrize(
    "least, distance",
    [(1, 1), (1.01, 2), (3, 5), (5, 5), (5.1, 10), (0.3, 0.5), (0.07, 0.1),
     (1000, 1000), (730, 1000)],
)  # fmt: skip
def test_round_distances(least, distance):
    assert round_distance(least) == pytest.approx(distance, rel=1e-12)


def test_labels_have_as_many_decimals_as_they_need():
    assert tick_labels([multiple(i, 0.1) for i in range(4)]) == ["0.0", "0.1", "0.2", "0.3"]
    assert tick_labels([0.0, 0.25]) == ["0.00", "0.25"]
    assert tick_labels([0.0, 2000.0]) == ["0", "2,000"]


@given(st.lists(losses, min_size=1), st.integers(2, 12))
def test_the_ends_of_the_losses_are_ticks_and_hold_all_of_them(values, most):
    scale = loss_scale([run_of(*enumerate(values, 1))], most)
    assert scale.low <= min(values) * (1 + 1e-6) and scale.high >= max(values) * (1 - 1e-6)
    assert (scale.low, scale.high) == (scale.ticks[0], scale.ticks[-1])
    assert 2 <= len(scale.ticks) <= most + 1
    gaps = [b - a for a, b in zip(scale.ticks, scale.ticks[1:])]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))


def test_scales_of_losses_and_steps():
    run = run_of((1, 3.7), (100, 0.6))
    assert loss_scale([run], 6).ticks == [0, 1, 2, 3, 4]
    assert step_scale([run], 6) == Scale(0, 100, [0, 20, 40, 60, 80, 100])
    assert step_scale([run], 7, log=True) == Scale(1, 100, [1, 2, 5, 10, 20, 50, 100], True)
    assert step_scale([run], 6, log=True) == Scale(1, 100, [1, 10, 100], True)
    assert step_scale([run_of((60, 1), (99, 1))], 5).ticks == [60, 70, 80, 90]
    assert step_scale([run_of((7, 1))], 5) == Scale(7, 7, [7])
    assert step_scale([run_of((31, 1), (39, 1))], 5, log=True).ticks == [32, 34, 36, 38]


def test_where_values_lie():
    scale = Scale(2, 4, [2, 4])
    assert [scale.place(v) for v in (2, 3, 4)] == [0, 0.5, 1]
    scale = Scale(1, 100, [1, 100], log=True)
    assert [scale.place(v) for v in (1, 10, 100)] == pytest.approx([0, 0.5, 1])
    assert Scale(5, 5, [5]).place(5) == 0.5


def test_the_smoothed_is_the_mean_of_the_last():
    points = [(step, loss) for step, loss in enumerate([4.0, 2.0, 3.0, 1.0], 1)]
    assert smoothed(points, 1) == points
    assert smoothed(points, 3) == [(1, 4.0), (2, 3.0), (3, 3.0), (4, 2.0)]


def test_curves_of_records():
    curves = curves_of("x", records_of(200))
    assert curves.window == 4
    assert curves.train[-1][1] == pytest.approx(sum(4 / i for i in range(197, 201)) / 4)
    assert curves.val == [(i, 4 / i + 0.1) for i in range(5, 201, 5)]


def test_what_is_not_finite_is_left_out():
    records = [
        {"step": 1, "loss": math.nan, "val_loss": math.inf},
        {"step": 2, "loss": 2.0, "val_loss": 0.0},
        {"step": 3, "loss": math.inf},
    ]
    assert curves_of("x", records) == Curves("x", [(2, 2.0)], 1, [(2, 0.0)])


@pytest.mark.parametrize(
    "record",
    [{"step": 1}, {"step": 1, "loss": "2"}, {"step": 1, "loss": True}, {"step": 0, "loss": 1.0},
     {"step": 1, "loss": 10**400}, {"loss": 1.0}],
)  # fmt: skip
def test_records_of_another_kind_are_refused(record):
    with pytest.raises(ValueError, match="other than the losses of a run"):
        curves_of("x", [{"step": 1, "loss": 1.0}, record])


# ---------------------------------------------------------------- plot.py


def test_a_small_plot():
    run = Curves("a run", [(1, 4.0), (2, 2.0), (4, 1.0)], 1, [(4, 2.0)])
    assert "\n".join(plot([run], Style(width=40), 14)) == (
        "loss, nats per token\n"
        "5 ┤\n"
        "  │a⠒⠒⠤⢄⣀\n"
        "  │      ⠉⠉⠒⠢⠤⢄a⣀⣀⡀                    A\n"
        "  │               ⠈⠉⠉⠉⠉⠉⠑⠒⠒⠒⠒⠒⠢⠤⠤⠤⠤⠤⢄⣀⣀a\n"
        "0 ┤\n"
        "  └┬───────────┬───────────┬───────────┬\n"
        "   1           2           3           4\n"
        "                    step\n"
        "\n"
        "   last loss  training  validation\n"
        "aA a·run        1.000       2.000\n"
        "Small letters: training loss, every\n"
        "step. Capitals: validation loss."
    )


def test_a_plot_in_ascii():
    run = Curves("a run", [(1, 4.0), (2, 2.0), (4, 1.0)], 1, [(4, 2.0)])
    assert "\n".join(plot([run], Style(unicode=False, width=40), 14)) == (
        "loss, nats per token\n"
        "5 +\n"
        "  |aaaaaaa\n"
        "  |       aaaaaaaaaaaaaaaaaa           A\n"
        "  |                         aaaaaaaaaaaa\n"
        "0 +\n"
        "  ++-----------+-----------+-----------+\n"
        "   1           2           3           4\n"
        "                    step\n"
        "\n"
        "   last loss  training  validation\n"
        "aA a_run        1.000       2.000\n"
        "Small letters: training loss, every\n"
        "step. Capitals: validation loss."
    )


class Picture:
    """The lines of a plot, taken apart as a reader does."""

    def __init__(self, lines):
        end = next(i for i, line in enumerate(lines) if re.match(r" *(└|\+[+-])", line))
        self.margin = re.match(r" *[└+]", lines[end]).end()
        self.rows = [line[self.margin :] for line in lines[1:end]]
        sides = [line[: self.margin - 1].strip() for line in lines[1:end]]
        self.losses = {row: float(text.replace(",", "")) for row, text in enumerate(sides) if text}
        self.ticks = [i for i, c in enumerate(lines[end][self.margin :]) if c in "┬+"]
        self.columns = len(lines[end]) - self.margin
        self.steps = {
            match.start() + len(match[0]) // 2 - self.margin: float(match[0].replace(",", ""))
            for match in re.finditer(r"[\d,.]+", lines[end + 1])
        }
        self.legend = lines[end + 4 :]

    def loss_at(self, row):
        """The loss in the middle of a row, by the numbers at both ends of the axis."""
        high, low = self.losses[0], self.losses[len(self.rows) - 1]
        return high - (row + 0.5) / len(self.rows) * (high - low)

    def cells(self, letter):
        return [
            (c, r) for r, line in enumerate(self.rows) for c, at in enumerate(line) if at == letter
        ]


points_of_a_run = st.lists(
    st.tuples(st.integers(1, 5000), st.floats(0.25, 9)), min_size=2, max_size=12
).filter(lambda points: len({step for step, _ in points}) > 1)


@given(
    points_of_a_run, st.booleans(), st.booleans(), st.integers(40, 150), st.integers(12, 60)
)  # fmt: skip
def test_every_point_lands_where_it_should_and_every_number_is_right(
    points, unicode, log, width, height
):
    picture = Picture(
        list(plot([run_of(*points)], Style(unicode=unicode, width=width), height, log))
    )
    first, last = min(points)[0], max(points)[0]
    first = 0 if first <= last / 10 and not log else first

    def column_of(step):
        share = math.log(step / first, last / first) if log else (step - first) / (last - first)
        return share * picture.columns - 0.5

    loss_of_a_row = picture.loss_at(0) - picture.loss_at(1)
    cells = picture.cells("A")
    for step, loss in points:
        assert any(
            abs(column - column_of(step)) <= 1 and abs(picture.loss_at(row) - loss) <= loss_of_a_row
            for column, row in cells
        )
    assert len(cells) <= len(points)
    for row, loss in picture.losses.items():
        assert abs(picture.loss_at(row) - loss) <= loss_of_a_row
    assert picture.steps
    for middle, step in picture.steps.items():
        tick = min(picture.ticks, key=lambda tick: abs(tick - middle))
        assert abs(tick - middle) <= len(f"{step:,.0f}") // 2 + 1
        assert abs(tick - column_of(step)) <= 1


def test_several_runs_have_letters_of_their_own():
    two = [run_of((1, 4.0), (9, 1.0), name="x"), run_of((1, 2.0), (9, 1.0), name="y")]
    picture = Picture(list(plot(two, Style())))
    assert len(picture.cells("A")) == len(picture.cells("B")) == len(picture.cells("*")) == 1
    assert [line.split()[:2] for line in picture.legend[1:3]] == [["A", "x"], ["B", "y"]]
    assert "*: of several runs" in picture.legend[-1]


def test_runs_differ_in_colour_too():
    two = [run_of((1, 4.0), (9, 1.0)), run_of((1, 2.0), (9, 2.0))]
    text = "\n".join(plot(two, Style(color=True)))
    assert "\x1b[1;34mA\x1b[0m" in text and "\x1b[1;31mB\x1b[0m" in text
    assert plain(text) == "\n".join(plot(two, Style()))


@pytest.mark.parametrize("losses", [[2.0], [2.0] * 7, [0.0], [1e90], [2.0, 2.0 + 1e-12]])
@pytest.mark.parametrize("style", [Style(), ASCII])
@pytest.mark.parametrize("log", [False, True])
def test_one_point_and_a_constant_loss_lie_in_the_middle(losses, style, log):
    picture = Picture(list(plot([run_of(*enumerate(losses, 5))], style, log=log)))
    middle = (len(picture.rows) - 1) / 2
    assert {abs(row - middle) <= 0.5 for _, row in picture.cells("A")} == {True}


@given(
    runs(), st.booleans(), st.booleans(), st.integers(40, 200), st.booleans(), st.integers(5, 60)
)
def test_any_plot_keeps_to_its_columns(drawn, color, unicode, width, log, height):
    style = Style(color, unicode, width)
    for line in plot(drawn, style, height, log):
        assert display_width(line) <= width
        assert unicode or line.isascii()
        assert color or "\x1b" not in line
        assert all(c.isprintable() or c == "\u200e" for c in plain(line))


def test_a_plot_is_as_high_as_asked_for():
    drawn = [curves_of(name, records_of(100)) for name in "abc"]
    for height in (18, 24, 50):
        assert len(list(plot(drawn, Style(), height))) == height


def test_nothing_to_draw_and_too_much():
    for draw in (plot, plot_svg):
        with pytest.raises(ValueError, match="no loss"):
            list(draw([Curves("x", [], 1, [])], *([Style()] if draw is plot else [])))
    with pytest.raises(ValueError, match="26 runs, not for 27"):
        list(plot([run_of((1, 1.0))] * 27, Style()))


def test_the_canvas_has_its_dots_where_unicode_has_them():
    for bit in range(8):
        canvas = Canvas(1, 1, True)
        below = (0, 1, 2, 0, 1, 2, 3, 3)[bit]  # of dots 1 to 8
        canvas.dot((0, 0, 0, 1, 1, 1, 0, 1)[bit], below, 0)
        name = unicodedata.name(canvas.text(0, Style()))
        assert name == f"BRAILLE PATTERN DOTS-{bit + 1}"


# ---------------------------------------------------------------- plot_picture.py


@given(runs(), st.booleans())
def test_any_picture_is_xml_with_every_name_as_text(drawn, log):
    root = ET.fromstring(plot_svg(drawn, log))
    known = ("svg", "title", "desc", "style", "rect", "path", "text", "tspan", "polyline")
    assert {element.tag for element in root.iter()} <= {SVG + tag for tag in known}
    assert len(root.findall(f".//{SVG}tspan[@class='name']")) == len(drawn)
    assert root.find(SVG + "title").text and root.find(SVG + "desc").text


def test_a_name_cannot_break_out_of_a_picture():
    name = "<script>alert(1)</script>&\"'"
    picture = plot_svg([run_of((1, 1.0), name=name)])
    assert "<script" not in picture
    root = ET.fromstring(picture)
    assert root.find(f".//{SVG}tspan[@class='name']").text == name
    assert name in root.find(SVG + "desc").text


def test_the_picture_holds_the_points():
    points = [(10, 3.0), (20, 2.0), (40, 1.0)]
    root = ET.fromstring(plot_svg([run_of(*points)]))
    (line,) = root.findall(SVG + "polyline")
    drawn = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    for (step, loss), (x, y) in zip(points, drawn):
        assert x == pytest.approx(LEFT + (step - 10) / 30 * (WIDTH - LEFT - RIGHT), abs=0.06)
        assert y == pytest.approx(TOP + (3 - loss) / 2 * HEIGHT, abs=0.06)
    labels = {
        text.text: float(text.get("y")) for text in root.findall(f"{SVG}text[@class='muted end']")
    }
    assert labels["1.0"] - 4 == TOP + HEIGHT and labels["3.0"] - 4 == TOP
    marks = root.findall(f"{SVG}path[@transform]")
    assert len(marks) == len(points) + 1  # and one in the legend
    assert "run: validation 1.000, lowest 1.000 at step 40." in root.find(SVG + "desc").text


def test_a_long_run_makes_a_small_picture():
    long = [{"step": i, "loss": 2.0 + math.sin(i), "val_loss": 2.0} for i in range(1, 50_001)]
    assert len(plot_svg([curves_of("x", long)])) < 30_000


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(c * share for c, share in zip(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize(
    "colors, paper", [(plot_picture.LIGHT, "#ffffff"), (plot_picture.DARK, "#0d1117")]
)
def test_lines_stand_out_from_the_page(colors, paper):
    """A contrast of 3 or more, as the web's guidelines ask of drawings (WCAG 2.1, 1.4.11)."""
    assert paper in plot_svg([run_of((1, 1.0))])
    for color in colors:
        light, dark = sorted([luminance(color), luminance(paper)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3
    assert len(set(colors)) == len(set(plot_picture.DASHES)) == len(set(plot_picture.MARKS)) == 6


# ---------------------------------------------------------------- the command


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tiny-lm: error: ")
    return line


def test_the_command_plots_what_training_wrote(capsys):
    Path("text.txt").write_text("the cat sat on the mat. " * 9, encoding="utf-8")
    train = ["train", "--data", "text.txt", "--steps", "9", "-n", "0", "--quiet"]
    assert main([*train, "--d-hidden", "4"]) == 0
    assert main([*train, "--d-hidden", "5", "-o", "runs/other.safetensors"]) == 0
    capsys.readouterr()
    assert main(["plot"]) == 0  # the newest
    out, err = capsys.readouterr()
    assert err == str(Path("runs", "other.metrics.jsonl")) + "\n"
    assert "aA other " in out and len(out.splitlines()) == 24
    files = ["runs/mlp.metrics.jsonl", "runs/other.metrics.jsonl"]
    assert main(["plot", *files, "--svg", "both.svg"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "aA mlp " in out and "bB other " in out
    assert out.isascii() is False and max(map(display_width, out.splitlines())) <= 80
    root = ET.parse("both.svg").getroot()
    assert [name.text for name in root.findall(f".//{SVG}tspan[@class='name']")] == ["mlp", "other"]


def test_only_one_kind_of_loss(capsys):
    write("a.jsonl", records_of(20))
    assert main(["plot", "a.jsonl", "--val", "--log"]) == 0
    out = capsys.readouterr().out
    assert "Capitals: validation loss." in out and "training" not in out and "logarithmic" in out
    assert main(["plot", "a.jsonl", "--train"]) == 0
    out = capsys.readouterr().out
    assert "Small letters: training loss" in out and "validation" not in out
    assert main(["plot", "a.jsonl", "--train", "--val"]) == 2
    write("b.jsonl", records_of(4))
    capsys.readouterr()
    assert main(["plot", "b.jsonl", "--val"]) == 1
    assert "b.jsonl holds no validation loss" in error_of(capsys)


def test_a_torn_last_line_is_fine_and_a_damaged_one_is_told(capsys):
    write("a.jsonl", records_of(20))
    whole = Path("a.jsonl").read_text("utf-8")
    Path("torn.jsonl").write_text(whole[:-30], encoding="utf-8")
    assert main(["plot", "torn.jsonl"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "3.900" not in out
    lines = whole.splitlines()
    Path("hole.jsonl").write_text("\n".join([*lines[:6], "{", *lines[7:]]), encoding="utf-8")
    assert main(["plot", "hole.jsonl"]) == 0
    assert "line 7 is damaged and left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, problem",
    [
        (None, "there is no file x.jsonl"),
        (b"", "x.jsonl is empty"),
        (b"step,loss\n1,2\n", "x.jsonl is no file of metrics"),
        (b"\x89PNG\r\n\x1a\n\0\0", "x.jsonl is no file of metrics"),
        (b'{"step": 1, "value": 2}\n', "x.jsonl is no file of metrics"),
        (b'{"step": 1, "loss": NaN}\n', "x.jsonl holds no training loss that is a finite number"),
        (b"[1]\n", "x.jsonl is no file of metrics"),
    ],
)
def test_other_files_are_refused(content, problem, capsys):
    if content is not None:
        Path("x.jsonl").write_bytes(content)
    assert main(["plot", "x.jsonl"]) == 1
    assert problem in error_of(capsys)


def test_other_mistakes(capsys):
    assert main(["plot"]) == 1
    assert "there are no metrics in runs" in error_of(capsys)
    write("a.metrics.jsonl", records_of(3))
    Path("a.safetensors").write_bytes(b"\0\0")
    assert main(["plot", "a.safetensors"]) == 1
    assert "those of that run are in a.metrics.jsonl" in error_of(capsys)
    assert main(["plot", *["a.metrics.jsonl"] * 27]) == 2
    assert "at most 26 runs" in error_of(capsys)
    assert main(["plot", "a.metrics.jsonl", "--svg", "a.metrics.jsonl"]) == 1
    assert "a.metrics.jsonl exists and is no SVG picture" in error_of(capsys)
    assert main(["plot", "a.metrics.jsonl", "--svg", "."]) == 1
    assert "cannot write ." in error_of(capsys)
    for _ in range(2):  # a picture may replace a picture
        assert main(["plot", "a.metrics.jsonl", "--svg", "new/a.svg"]) == 0


def test_names():
    paths = [Path("runs/mlp.metrics.jsonl"), Path("x/mlp.metrics.jsonl"), Path("y.jsonl")]
    assert names_of(paths) == [str(paths[0]), str(paths[1]), "y"]


@pytest.mark.parametrize("coding", ["ascii", "utf-8"])
def test_piped_it_is_utf_8_in_80_columns(coding):
    write("é.jsonl", records_of(20))
    done = subprocess.run(
        [sys.executable, "-m", "tiny_llm", "plot", "é.jsonl"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": coding, "COLUMNS": "200"},
        capture_output=True,
        timeout=60,
    )
    lines = done.stdout.decode("utf-8").splitlines()
    assert done.returncode == 0 and done.stderr == b""
    assert not "\n".join(lines).isascii()
    assert max(map(display_width, lines)) <= 80 and len(lines) == 24
