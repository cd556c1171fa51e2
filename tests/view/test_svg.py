"""Pictures as text: a terminal's output cell by cell, and attention as drawn squares."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.terminal_picture import (
    BASIC,
    CELL,
    INK,
    LINE,
    MARGIN,
    palette_color,
    terminal_svg,
)
from tiny_llm.view import attention_picture
from tiny_llm.view.attention_map import attention_matrix, attention_report
from tiny_llm.view.attention_picture import FAINT, WRITTEN, attention_svg
from tiny_llm.view.heads import Head
from tiny_llm.view.svg import escaped
from tiny_llm.view.terminal import Style, display_width, fraction_text, plain

DOCS = Path(__file__).parents[2] / "docs"
SVG = "{http://www.w3.org/2000/svg}"
WEIGHTS = [[1.0, 0.0, 0.0], [0.33, 0.67, 0.0], [0.1, 0.2, 0.7]]


def drawn(text, title="title"):
    """The texts of a terminal's picture as (column, columns, text, style), and its rectangles."""
    root = ET.fromstring(terminal_svg(text, title))
    texts = [
        (
            round((float(element.get("x")) - MARGIN) / CELL),
            round(float(element.get("textLength")) / CELL),
            element.text,
            element.get("style"),
        )
        for element in root.findall(SVG + "text")
        if element.get("textLength")
    ]
    return texts, root.findall(SVG + "rect")[1:]  # the first is the paper


# ---------------------------------------------------------------- svg.py


def test_words_stand_in_their_columns():
    texts, rectangles = drawn("a bc   d\n  e")
    assert texts == [(0, 4, "a bc", None), (7, 1, "d", None), (2, 1, "e", None)]
    assert rectangles == []


def test_wide_characters_and_marks_take_their_columns():
    texts, _ = drawn("a中😀e\u0301b\u200e⠿x")
    assert [(column, columns, text) for column, columns, text, _ in texts] == [
        (0, 1, "a"), (1, 2, "中"), (3, 2, "😀"), (5, 1, "e\u0301"), (6, 1, "b\u200e"), (7, 1, "⠿"),
        (8, 1, "x"),
    ]  # fmt: skip
    assert drawn("a\tb\n\t\tc")[0] == [(0, 1, "a", None), (8, 1, "b", None), (16, 1, "c", None)]


def test_colours_become_fills_and_rectangles():
    text = "\x1b[38;5;231;48;5;17m .5\x1b[0mx\x1b[1;31my\x1b[39mz\x1b[22;94mv\x1b[m w"
    texts, (rectangle,) = drawn(text)
    assert texts == [
        (1, 2, ".5", "fill:#ffffff"), (3, 1, "x", None), (4, 1, "y", f"fill:{BASIC[1]}"),
        (5, 1, "z", None), (6, 1, "v", f"fill:{BASIC[12]}"), (8, 1, "w", None),
    ]  # fmt: skip
    assert rectangle.get("fill") == "#00005f"
    assert float(rectangle.get("width")) == pytest.approx(3 * CELL, abs=0.06)
    assert 'class="b"' in terminal_svg(text, "") and 'class="d"' in terminal_svg("\x1b[2mx", "")


def test_a_colour_lasts_over_lines_and_other_commands_are_left_out():
    texts, _ = drawn("\x1b[32ma\nb\x1b[0m\x1b[2Kc\x1b[?25l\x1b[48;5mq")
    assert texts == [
        (0, 1, "a", f"fill:{BASIC[2]}"), (0, 1, "b", f"fill:{BASIC[2]}"), (1, 2, "cq", None),
    ]  # fmt: skip


def test_the_palette():
    assert [palette_color(n) for n in (16, 17, 231, 232, 255, 999)] == [
        "#000000", "#00005f", "#ffffff", "#080808", "#eeeeee", "#eeeeee",
    ]  # fmt: skip
    assert palette_color(7) == BASIC[7]


def test_bars_are_rectangles():
    texts, rectangles = drawn("██▌ ▂\x1b[31m█")
    assert texts == []
    sizes = [
        (float(r.get("x")) - MARGIN, float(r.get("width")), float(r.get("height")), r.get("fill"))
        for r in rectangles
    ]
    assert sizes == [
        (0, 2 * CELL, LINE, INK), (2 * CELL, CELL / 2, LINE, INK),
        (pytest.approx(4 * CELL), CELL, LINE / 4, INK),
        (pytest.approx(5 * CELL), CELL, LINE, BASIC[1]),
    ]  # fmt: skip


def test_what_xml_cannot_hold():
    assert escaped('<a href="\'&">\0\x1b\ud800\ufffe\U0001f600') == (
        "&lt;a href=&quot;&#x27;&amp;&quot;&gt;\ufffd\ufffd\ufffd\ufffd\U0001f600"
    )


@given(st.text(max_size=80), st.text(max_size=20))
def test_any_text_and_title_become_xml(text, title):
    root = ET.fromstring(terminal_svg(text, title))
    assert root.tag == SVG + "svg"
    assert {element.tag for element in root.iter()} <= {
        SVG + tag for tag in ("svg", "title", "style", "rect", "circle", "text")
    }


def test_a_real_display_is_drawn_whole():
    """Every character but spaces and bars is there, in the column that the terminal gives it."""
    report = attention_report([[WEIGHTS]], ["<", "中", "e"], Style(color=True))
    texts, rectangles = drawn(report)
    lines = plain(report).split("\n")
    everything = "".join(text for _, _, text, _ in texts)
    visible = re.sub("[ ▏▎▍▌▋▊▉█▁▂▃▄▅▆▇]", "", "".join(lines))
    assert sorted(everything.replace(" ", "")) == sorted(visible)
    for column, columns, text, _ in texts:
        assert display_width(text) == columns
        assert any(text in line and at(line, column, columns) == text for line in lines)
    colored = [r for r in rectangles if r.get("fill") not in (INK,)]
    assert len(colored) >= 6 + 5  # the weights in sight, and the legend


def at(line, column, columns):
    """The text in these columns of a line."""
    places, where = "", 0
    for character in line:
        if column <= where < column + columns:
            places += character
        where += display_width(character)
    return places


# ---------------------------------------------------------------- attention_picture.py


def cells(picture):
    """The drawn weights: (row, column) -> opacity and what the pointer sees."""
    root = ET.fromstring(picture)
    found = []
    for panel in root.findall(SVG + "g"):
        (group,) = [g for g in panel.findall(SVG + "g") if g.get("class") == "w"]
        rects = group.findall(SVG + "rect")
        rows = panel.findall(f".//{SVG}rect[@class='s']")
        left, top = float(rows[0].get("x")), float(rows[0].get("y"))
        found.append({
            ((float(r.get("y")) - top) / float(r.get("height")),
             (float(r.get("x")) - left) / float(r.get("width"))):
            (r.get("fill-opacity"), r.find(SVG + "title").text)
            for r in rects
        })  # fmt: skip
    return found


def test_every_weight_is_a_cell():
    heads = [Head(1, 1, WEIGHTS), Head(1, 2, [[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1.0]])]
    first, second = cells(attention_svg(heads, ["a", " ", "<"], "title"))
    assert first == {
        (0, 0): ("1.0", "a reads a: 1.000"),
        (1, 0): (".33", "· reads a: 0.330"), (1, 1): (".67", "· reads ·: 0.670"),
        (2, 0): (".10", "< reads a: 0.100"), (2, 1): (".20", "< reads ·: 0.200"),
        (2, 2): (".70", "< reads <: 0.700"),
    }  # fmt: skip
    assert second.keys() == {(0, 0), (1, 0), (1, 1), (2, 2)}  # what is nearly 0 is left out


def test_numbers_stand_in_the_cells_and_the_description_sums_up():
    picture = attention_svg([Head(2, 3, WEIGHTS)], ["a", "b", "c"], "title")
    root = ET.fromstring(picture)
    (numbers,) = [g for g in root.iter(SVG + "g") if g.get("class") == "n"]
    shown = [fraction_text(w) for row in WEIGHTS for w in row if w >= WRITTEN]
    assert [text.text for text in numbers] == shown
    assert root.find(SVG + "desc").text == (
        "On abc. Layer 2, head 3: itself .70; entropy 1.16 of 1.58 bits"
    )
    assert root.find(SVG + "title").text == "title"
    assert FAINT < WRITTEN


@given(st.lists(st.text(max_size=12), min_size=1, max_size=70), st.integers(1, 5), st.booleans())
def test_any_tokens_become_xml(tokens, count, one):
    rows = [[1 / (i + 1)] * (i + 1) + [0.0] * (len(tokens) - 1 - i) for i in range(len(tokens))]
    heads = [Head(1, number, rows[-1:] if one else rows) for number in range(1, count + 1)]
    root = ET.fromstring(attention_svg(heads, tokens, "".join(tokens)))
    assert "script" not in {element.tag.replace(SVG, "") for element in root.iter()}
    assert float(root.get("width")) <= attention_picture.WIDTH


def test_a_name_cannot_break_out_of_a_picture():
    word = "</text><script>alert(1)</script>"
    for picture in (
        attention_svg([Head(1, 1, [[1.0]])], [word], word),
        terminal_svg(word, word),
        terminal_svg(attention_matrix([[1.0]], [word], Style()), word),
    ):
        assert "<script" not in picture
        ET.fromstring(picture)


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(c * share for c, share in zip(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def blend(paper, color, share):
    mixed = [
        round(int(a, 16) * (1 - share) + int(b, 16) * share)
        for a, b in ((paper[i : i + 2], color[i : i + 2]) for i in (1, 3, 5))
    ]
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


@pytest.mark.parametrize("page", [attention_picture.LIGHT, attention_picture.DARK])
def test_every_number_can_be_read_on_its_cell(page):
    """A contrast of 4.5 or more, as the web's guidelines ask of text (WCAG 2.1, 1.4.3)."""
    for percent in range(round(WRITTEN * 100), 101):
        weight = percent / 100
        root = ET.fromstring(attention_svg([Head(1, 1, [[weight]])], ["a"], ""))
        schemes = root.find(SVG + "style").text.split("@media(prefers-color-scheme:dark)")
        rules = schemes[page is attention_picture.DARK]
        (number,) = next(group for group in root.iter(SVG + "g") if group.get("class") == "n")
        selector = f".n .{number.get('class')}" if number.get("class") else ".n text"
        (ink,) = re.findall(re.escape(selector) + r"\{fill:#(\w)\1\1\}", rules)
        cell = blend(page["paper"], page["weight"], weight)
        assert contrast("#" + ink * 6, cell) >= 4.5, weight
    for ink in ("ink", "muted"):
        assert contrast(page[ink], page["paper"]) >= 4.5


@pytest.mark.parametrize("color", [*BASIC[:7], INK])
def test_terminal_colours_can_be_read_on_paper(color):
    assert contrast(color, "#ffffff") >= 4.5


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.svg")), ids=lambda path: path.name)
def test_the_pictures_of_the_project_are_small_and_whole(path):
    assert path.stat().st_size < 100_000
    root = ET.parse(path).getroot()
    assert root.find(SVG + "title").text
    assert "http" not in path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
