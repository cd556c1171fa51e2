"""What a person sees: exact small displays, and what holds for every display of any text."""

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_llm.view.attention_map import (
    BLACK,
    CAVEAT,
    FIRST_LIGHT,
    RAMP,
    WHITE,
    attention_matrix,
    attention_report,
    entropy,
    ranked_keys,
    score_matrix,
)
from tiny_llm.view.terminal import (
    Style,
    bar,
    clip,
    display_width,
    fraction_text,
    number_text,
    pad,
    paint,
    plain,
    style_for,
    visible,
)

PLAIN, ASCII, COLOR = Style(), Style(unicode=False), Style(color=True)
WEIGHTS = [[1.0, 0.0, 0.0], [0.33, 0.67, 0.0], [0.1, 0.2, 0.7]]

# One or more of each kind that can break a column: wide, without width, invisible, right-to-left,
# a command to the terminal, of no meaning yet, and half of a pair.
ODD = (
    "a~\\ \n\t\r\0\x1b\x7f\x85\xa0\xad\u0301\u0903\u200d\u200e\u200f\u2028\u202e\u2066\u3000"
    "\u05d0\u05b0\u0627\u0661\u1100\u1160\u3042\u3099\u302a\u4e2d\uac00\u2764\ufe0f\uff21\ufeff"
    "\ufffd\ue000\U0001f600\U0001f3fd\U0001f1e9\U000e0101\U0010ffff\ud800\u0378\u2800"
)
characters = st.sampled_from(ODD) | st.characters()
styles = st.builds(Style, st.booleans(), st.booleans(), st.integers(40, 200))


@st.composite
def contexts(draw, longest=60):
    """Tokens, and weights of the last few of them over all (or of all), each row adding up to 1."""
    tokens = draw(st.lists(characters, min_size=1, max_size=longest))
    queries = draw(st.sampled_from([1, len(tokens), (len(tokens) + 1) // 2]))
    rng = draw(st.randoms(use_true_random=False))
    weights = []
    for seen in range(len(tokens) - queries + 1, len(tokens) + 1):
        parts = [rng.random() ** 4 + 1e-300 for _ in range(seen)]
        row = [part / sum(parts) for part in parts]
        weights.append(row + [0.0] * (len(tokens) - seen))
    return tokens, weights


def check_display(text, style):
    """What every display promises."""
    for line in text.split("\n"):
        assert display_width(line) <= style.width
        assert "\x1b" not in plain(line)
        assert all(c.isprintable() or c == "\u200e" for c in plain(line))  # nothing invisible
    assert style.color or "\x1b" not in text
    assert style.unicode or text.isascii()
    text.encode("utf-8")


class Screen(io.StringIO):
    """A stream that may be a terminal."""

    def __init__(self, terminal, encoding="utf-8"):
        super().__init__()
        self.terminal, self.coding = terminal, encoding

    @property
    def encoding(self):
        return self.coding

    def isatty(self):
        return self.terminal


# ---------------------------------------------------------------- terminal.py


@pytest.mark.parametrize(
    "terminal, color, environ, expected",
    [
        (True, "auto", {}, True),
        (True, "auto", {"NO_COLOR": ""}, True),
        (True, "auto", {"NO_COLOR": "1"}, False),
        (True, "auto", {"TERM": "dumb"}, False),
        (False, "auto", {}, False),
        (False, "always", {"NO_COLOR": "1", "TERM": "dumb"}, True),
        (True, "never", {}, False),
    ],
)
def test_when_there_is_colour(terminal, color, environ, expected):
    assert style_for(Screen(terminal), color, environ).color is expected


def test_an_unknown_colour_choice_is_named():
    with pytest.raises(ValueError, match="'sometimes'"):
        style_for(Screen(True), "sometimes", {})


@pytest.mark.parametrize(
    "encoding, expected",
    [("utf-8", True), ("UTF-16", True), (None, True), ("ascii", False), ("latin-1", False),
     ("cp437", False), ("cp1252", False), ("no such", False)],
)  # fmt: skip
def test_when_there_is_more_than_ascii(encoding, expected):
    assert style_for(Screen(False, encoding), environ={}).unicode is expected


@pytest.mark.parametrize(
    "terminal, environ, expected",
    [
        (True, {"COLUMNS": "123"}, 123),
        (True, {"COLUMNS": "20"}, 40),  # narrower than the displays can be
        (True, {"COLUMNS": "wide"}, 80),
        (True, {}, 80),  # a terminal that does not tell
        (False, {"COLUMNS": "123"}, 80),
    ],
)
def test_width(terminal, environ, expected):
    assert style_for(Screen(terminal), environ=environ).width == expected


@pytest.mark.parametrize(
    "text, in_unicode, in_ascii",
    [
        ("a b\n\t", "a·b↵⇥", "a_b\\n\\t"),
        ("é", "é", "\\xe9"),
        ("\0\r\x1b\x7f", "␀␍␛␡", "\\x00\\x0d\\x1b\\x7f"),
        ("\xa0\x85", "\\xa0\\x85", "\\xa0\\x85"),
        ("\u200d\ufe0f", "\\u200d\\ufe0f", "\\u200d\\ufe0f"),
        ("e\u0301", "e◌\u0301", "e\\u0301"),
        ("א", "\u200eא\u200e", "\\u05d0"),
        ("中😀", "中😀", "\\u4e2d\\U1f600"),
        ("\ud800", "\\ud800", "\\ud800"),
    ],
)
def test_visible(text, in_unicode, in_ascii):
    assert visible(text, PLAIN) == in_unicode
    assert visible(text, ASCII) == in_ascii


def test_display_width():
    assert [display_width(c) for c in ("", "a", "中", "😀", "e\u0301", "\u200eא", "⇥")] == [
        0, 1, 2, 2, 1, 1, 1,
    ]  # fmt: skip
    assert display_width(paint("ab", "1", COLOR)) == 2


def test_pad_and_clip():
    assert pad("中", 4) == "中  "
    assert pad("中", 4, right=True) == "  中"
    assert clip("abc", 3, PLAIN) == "abc"
    assert clip("abcd", 3, PLAIN) == "ab…"
    assert clip("abcd", 3, ASCII) == "ab~"
    assert clip("中中", 3, PLAIN) == "中…"


def test_bar():
    assert bar(0.0, 4, PLAIN) == ""
    assert bar(1.0, 4, PLAIN) == "████"
    assert bar(0.5625, 4, PLAIN) == "██▎"
    assert bar(0.5625, 4, ASCII) == "##"
    assert bar(7.0, 2, ASCII) == "##"
    assert bar(math.nan, 2, ASCII) == bar(-1.0, 2, ASCII) == ""


def test_numbers():
    assert [fraction_text(f) for f in (0, 0.07, 0.994, 0.996, 1)] == [
        ".00", ".07", ".99", "1.0", "1.0",
    ]  # fmt: skip
    assert fraction_text(0.0625, 3) == ".062"
    assert fraction_text(1.0, 3) == "1.00"
    assert [number_text(n) for n in (0.0, -0.001, -1.5, 123.4, -12345.6)] == [
        "0.00", "0.00", "-1.50", "123.40", "-1.2e+04",
    ]  # fmt: skip


# ---------------------------------------------------------------- attention_map.py


def test_matrix():
    assert attention_matrix(WEIGHTS, ["a", " ", "a"], PLAIN) == (
        "        a    ·    a  entropy\n"
        "        0    1    2  bits/max\n"
        "a 0  █1.0            0.00/0.00\n"
        "· 1  ▃.33 ▅.67       0.91/1.00\n"
        "a 2  ▁.10 ▂.20 ▆.70  1.16/1.58"
    )


def test_matrix_in_ascii():
    assert attention_matrix(WEIGHTS, ["a", "\n", "é"], ASCII) == (
        "           a   \\n \\xe9  entropy\n"
        "           0    1    2  bits/max\n"
        "a    0  @1.0            0.00/0.00\n"
        "\\n   1  :.33 #.67       0.91/1.00\n"
        "\\xe9 2   .10 :.20 #.70  1.16/1.58"
    )


def test_matrix_in_colour():
    white, black = "\x1b[38;5;231;48;5;", "\x1b[38;5;16;48;5;"
    off = "\x1b[0m"
    assert attention_matrix(WEIGHTS, ["a", " ", "a"], COLOR) == (
        "       a   ·   a  entropy\n"
        "       0   1   2  bits/max\n"
        f"a 0 {black}189m 1.0{off}          0.00/0.00\n"
        f"· 1 {white}20m .33{off}{white}63m .67{off}      0.91/1.00\n"
        f"a 2 {white}18m .10{off}{white}19m .20{off}{black}105m .70{off}  1.16/1.58"
    )


def test_a_long_context_shows_its_end_and_where_the_rest_went():
    tokens = list("abcdefghijklmnopqrst")
    weights = [[1 / (i + 1)] * (i + 1) + [0.0] * (19 - i) for i in range(20)]
    assert attention_matrix(weights, tokens, Style(width=40)) == (
        "        …   p   q   r   s   t  entropy\n"
        "      <15  15  16  17  18  19  bits/max\n"
        "p 15 █.94 .06                  4.00/4.00\n"
        "q 16 ▇.88 .06 .06              4.09/4.09\n"
        "r 17 ▇.83 .06 .06 .06          4.17/4.17\n"
        "s 18 ▆.79 .05 .05 .05 .05      4.25/4.25\n"
        "t 19 ▆.75 .05 .05 .05 .05 .05  4.32/4.32\n"
        "last 5 of 20 positions shown; column <15\n"
        "adds up the weight on all before them"
    )


def test_one_query_over_sixteen_keys_fits_80_columns():
    row = [1 / 16] * 16
    for style in (PLAIN, ASCII, COLOR):
        lines = attention_matrix([row], list("language models "), style).split("\n")
        assert len(lines) == 3
        assert plain(lines[2]).count(".06") == 16


def test_scores_are_blank_where_they_are_masked():
    scores = [[0.5, 9.9, 9.9], [-12.25, -0.04, 9.9], [1.0, 2.0, 3.0]]
    assert score_matrix(scores, ["a", "b", "c"], PLAIN) == (
        "         a     b     c\n"
        "         0     1     2\n"
        "a 0    0.5\n"
        "b 1  -12.2   0.0\n"
        "c 2    1.0   2.0   3.0"
    )


def test_ranked_keys():
    assert ranked_keys([0.125, 0.25, 0.625], ["a", " ", "中"], Style(width=40)) == (
        "weight  key  position  back\n"
        "  .625  中          2     0  ██████▉\n"
        "  .250  ·           1     1  ██▊\n"
        "  .125  a           0     2  █▍"
    )
    assert ranked_keys([0.125, 0.25, 0.625], ["a", " ", "b"], Style(False, False, 45), 1) == (
        "weight  key  position  back\n"
        "  .625  b           2     0  ##########\n"
        "  .375  on the other 2 together"
    )


def test_the_report_of_one_query_shows_every_character():
    text = "the model"
    report = attention_report([[[[1 / 9] * 9]]], list(text), PLAIN)
    for place, character in enumerate(text):
        assert f"  .111  {visible(character, PLAIN)}    {place:8}  {8 - place:4}" in report


def test_a_report_has_each_head_by_itself_and_a_caveat():
    report = attention_report([[WEIGHTS, WEIGHTS], [WEIGHTS, WEIGHTS]], ["a", " ", "b"], PLAIN)
    titles = re.findall("layer . of 2, head . of 2", report)
    assert titles == [f"layer {la} of 2, head {h} of 2" for la in (1, 2) for h in (1, 2)]
    assert report.count(attention_matrix(WEIGHTS, ["a", " ", "b"], PLAIN)) == 4
    assert report.count("b at 2 reads from:\nweight") == 4
    assert report.endswith("\n\n" + CAVEAT.replace("the prediction", "the\nprediction"))


def test_entropy():
    assert entropy([1.0, 0.0, 0.0]) == 0
    assert entropy([0.25] * 4) == 2
    assert entropy([0.5, 0.25, 0.25]) == 1.5


def test_every_number_can_be_read_on_its_colour():
    """A contrast of 4.5 or more, as the web's guidelines ask of text (WCAG 2.1, 1.4.3)."""
    steps = [0, 95, 135, 175, 215, 255]  # of the 6 x 6 x 6 cube of colours

    def luminance(color):
        channels = [steps[(color - 16) // size % 6] / 255 for size in (36, 6, 1)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(c * share for c, share in zip(linear, (0.2126, 0.7152, 0.0722)))

    lights = [luminance(color) for color in RAMP]
    assert lights == sorted(lights)
    for step, light in enumerate(lights):
        ink = luminance(BLACK if step >= FIRST_LIGHT else WHITE)
        assert (max(light, ink) + 0.05) / (min(light, ink) + 0.05) >= 4.5


@given(contexts(), styles)
@settings(max_examples=60, deadline=None)
def test_any_text_keeps_to_its_columns(context, style):
    tokens, weights = context
    check_display(attention_report([[weights]], tokens, style), style)
    check_display(ranked_keys(weights[-1], tokens, style), style)
    check_display(score_matrix([[w * 40 - 20 for w in r] for r in weights], tokens, style), style)


@given(contexts(longest=30), styles)
@settings(max_examples=60, deadline=None)
def test_numbers_match_the_weights_and_the_masked_are_blank(context, style):
    tokens, weights = context
    lines = plain(attention_matrix(weights, tokens, style)).split("\n")
    places = re.findall(r"<?\d+", lines[1])
    first = len(tokens) - len([place for place in places if place[0] != "<"])
    sums = [sum(row[:first]) for row in weights] if first else None
    ends = {}  # of the headings' columns
    for match in re.finditer(r"<?\d+", lines[1]):
        ends[match[0]] = match.end()
    rows = [i for i in range(len(weights)) if len(tokens) - len(weights) + i >= first]
    for line, i in zip(lines[2:], rows):
        cells = {place: cell_before(line, end) for place, end in ends.items()}
        if first:
            assert cells.pop(f"<{first}") == fraction_text(sums[i])
        for place, cell in cells.items():
            is_masked = int(place) > len(tokens) - len(weights) + i
            expected = "   " if is_masked else fraction_text(weights[i][int(place)])
            assert cell == expected
        bits, most = re.search(r"  (\d+\.\d\d)/(\d+\.\d\d)$", line).groups()
        seen = len(tokens) - len(weights) + i + 1
        assert float(bits) == pytest.approx(entropy(weights[i]), abs=0.0051)
        assert float(most) == pytest.approx(math.log2(seen), abs=0.0051)


def cell_before(line, end):
    """The three characters before column `end`, which counts wide characters twice."""
    columns = "".join(c + " " * (display_width(c) - 1) for c in line if display_width(c))
    return columns[end - 3 : end]
