"""tiny-lm attention, and what it says of each head."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm.cli import main
from tiny_llm.cli.sample import attention_of
from tiny_llm.run.saved import load_run
from tiny_llm.view.attention_map import attention_matrix, one_query, ranked_keys
from tiny_llm.view.heads import Head, HeadSummary, choose_heads, summarize, summary_table
from tiny_llm.view.terminal import Style, display_width, plain

TEXT = "the cat sat on the mat. the dog sat on the log. " * 4
SVG = "{http://www.w3.org/2000/svg}"
T = 6


def causal(weight_of):
    """T x T weights: row i has weight_of(i, j) at each j up to i, and nothing behind."""
    return [[float(weight_of(i, j)) if j <= i else 0.0 for j in range(T)] for i in range(T)]


IDENTITY = causal(lambda i, j: i == j)
PREVIOUS = causal(lambda i, j: j == max(0, i - 1))
FIRST = causal(lambda i, j: j == 0)
UNIFORM = causal(lambda i, j: 1 / (i + 1))
SECOND = causal(lambda i, j: j == min(i, 1))  # itself, itself, previous, then others


# ---------------------------------------------------------------- heads.py


@pytest.mark.parametrize(
    "weights, reads, shares, bits",
    [
        (IDENTITY, "itself", (1, 0, 0, 0), 0),
        (PREVIOUS, "previous", (0, 1, 0, 0), 0),
        (FIRST, "first", (0, 0, 1, 0), 0),
        (SECOND, "others", (0, 0.25, 0, 0.75), 0),
        (UNIFORM, None, (0.2375, 0.2375, 0.2375, 0.2875), math.log2(3 * 4 * 5 * 6) / 4),
        ([row[:3] for row in UNIFORM[:3]], None, (1 / 3, 1 / 3, 1 / 3, 0), math.log2(3)),
        (IDENTITY[-1:], "itself", (1, 0, 0, 0), 0),
    ],
    ids=["identity", "previous", "first", "second", "uniform", "three", "one query"],
)
def test_what_a_head_reads_from(weights, reads, shares, bits):
    summary = summarize(weights)
    assert summary.reads == reads
    assert summary[:4] == pytest.approx(shares, abs=1e-4)
    assert summary.entropy == pytest.approx(bits, abs=1e-4)


def test_the_most_is_what_an_even_head_has():
    assert summarize(UNIFORM).entropy == pytest.approx(summarize(IDENTITY).most)


@pytest.mark.parametrize(
    "shares, entropy, reads",
    [
        ((0.4, 0.3, 0.1, 0.2), 1.5, "itself"),
        ((0.4, 0.3, 0.1, 0.2), 1.51, None),
        ((0.3, 0.31, 0.1, 0.29), 1, "previous"),
        ((0.2, 0.2, 0.5, 0.1), 0, "first"),
        ((0, 0, 0.2, 0.8), 1, "others"),
        ((0.5, 0.5, 0, 0), 1, "itself"),  # the first of equals
    ],
)
def test_the_largest_share_decides_unless_the_entropy_is_high(shares, entropy, reads):
    assert HeadSummary(*shares, entropy=entropy, most=2.0).reads == reads


def test_with_fewer_than_three_positions_there_is_no_choice():
    assert summarize([[1.0]]) is None
    assert summarize([[1.0, 0.0], [0.5, 0.5]]) is None
    assert list(summary_table([Head(1, 1, [[1.0, 0.0], [0.5, 0.5]])], Style())) == []
    assert list(summary_table([Head(1, 1, UNIFORM[-1:])], Style())) == []  # its row says it all


@given(st.integers(3, 20), st.data())
def test_the_shares_of_any_head_add_up(size, data):
    rng = data.draw(st.randoms(use_true_random=False))
    queries = data.draw(st.integers(1, size))
    weights = []
    for seen in range(size - queries + 1, size + 1):
        parts = [rng.random() ** 8 + 1e-9 for _ in range(seen)]
        weights.append([part / sum(parts) for part in parts] + [0.0] * (size - seen))
    summary = summarize(weights)
    assert sum(summary[:4]) == pytest.approx(1)
    assert 0 <= summary.entropy <= summary.most + 1e-9


HEADS = [Head(1, 1, PREVIOUS), Head(1, 2, UNIFORM), Head(12, 16, SECOND)]


def test_the_table_of_summaries():
    assert list(summary_table(HEADS, Style()))[-4:] == [
        "layer head  itself  previous  first  others  entropy    reads most from",
        "    1    1     .00       1.0    .00     .00  0.00/2.12  the previous token",
        "    1    2     .24       .24    .24     .29  2.12/2.12  spread out",
        "   12   16     .00       .25    .00     .75  0.00/2.12  other tokens",
    ]
    assert list(summary_table(HEADS, Style(width=40)))[-4:] == [
        "layer head  entropy    reads most from",
        "    1    1  0.00/2.12  previous 1.0",
        "    1    2  2.12/2.12  spread out",
        "   12   16  0.00/2.12  others .75",
    ]


@pytest.mark.parametrize("width", [40, 60, 75, 76, 80, 200])
@pytest.mark.parametrize("color", [False, True])
def test_the_table_keeps_to_its_columns(width, color):
    for line in summary_table(HEADS, Style(color, False, width)):
        assert display_width(line) <= width and plain(line).isascii()


def test_heads_are_chosen_by_number_from_1():
    weights = [[IDENTITY, PREVIOUS], [FIRST, UNIFORM]]
    assert [h[:2] for h in choose_heads(weights)] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert choose_heads(weights, layer=2, head=1) == [Head(2, 1, FIRST)]
    assert choose_heads(weights, head=2) == [Head(1, 2, PREVIOUS), Head(2, 2, UNIFORM)]
    for wrong, message in (
        ({"layer": 3}, "no layer 3; the model has layers 1 to 2"),
        ({"head": 0}, "no head 0; the model has heads 1 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_heads(weights, **wrong)
    with pytest.raises(ValueError, match="has one layer, number 1"):
        choose_heads([[IDENTITY]], layer=2)


def test_one_query_is_the_row_of_its_position():
    tokens = list("abcdef")
    assert one_query(UNIFORM, tokens, 2) == ([[1 / 3] * 3], ["a", "b", "c"])
    assert one_query(UNIFORM[-1:], tokens, 5) == (UNIFORM[-1:], tokens)
    with pytest.raises(ValueError, match="no query at position 6; here, positions 0 to 5 ask"):
        one_query(UNIFORM, tokens, 6)
    with pytest.raises(ValueError, match="no query at position 2; here, only 5 asks"):
        one_query(UNIFORM[-1:], tokens, 2)


# ---------------------------------------------------------------- the command


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(model, *flags):
    """A tiny run, silently."""
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    words = ["train", "--model", model, "--data", "text.txt", "--steps", "2", "-n", "0", "--quiet"]
    assert main([*words, "--context-length", "6", *flags]) == 0


@pytest.fixture
def modern(folder, capsys):
    train("modern", "--d-model", "4", "--n-heads", "2", "--n-layers", "2")
    capsys.readouterr()
    return "runs/modern.safetensors"


def weights_of(path, prompt):
    run = load_run(Path(path))
    return attention_of(run, run.tokenizer.encode(prompt))


def error_of(capsys):
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("tiny-lm: error: ")
    return line


def test_it_is_short_unless_all_is_asked_for(modern, capsys):
    assert main(["attention", "-p", "the mat", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert re.findall("layer . of 2, head . of 2", out) == ["layer 1 of 2, head 1 of 2"]
    assert len(out.splitlines()) <= 48
    assert "all with --full; heads not shown here: 3" in " ".join(out.split())
    weights, _ = weights_of(modern, "the mat")
    for line in summary_table(choose_heads(weights), Style()):
        assert line + "\n" in out


def test_all_layers_and_heads(modern, capsys):
    assert main(["attention", "-p", "the mat", "--full"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"{Path(modern)}: modern, step 2",
        "the prompt has 7 tokens; the model sees the last 6, its whole context",
    ]
    weights, tokens = weights_of(modern, "the mat")
    assert "".join(tokens) == "he mat"
    assert re.findall("layer . of 2, head . of 2", out) == [
        f"layer {la} of 2, head {h} of 2" for la in (1, 2) for h in (1, 2)
    ]
    for layer in weights:
        for head in layer:
            assert attention_matrix(head, tokens, Style()) in out
    for line in summary_table(choose_heads(weights), Style()):
        assert line + "\n" in out


def test_one_layer_head_and_query(modern, capsys):
    flags = ["--layer", "2", "--head", "1", "--query", "3"]
    assert main(["attention", modern, "-p", "the ma", *flags]) == 0
    out = capsys.readouterr().out
    weights, tokens = weights_of(modern, "the ma")
    row = weights[1][0][3][:4]
    assert re.findall("layer .*", out)[1:] == ["layer 2 of 2, head 1 of 2"]  # 0: the table's title
    assert attention_matrix([row], tokens[:4], Style()) in out
    assert "· at 3 reads from:\n" + ranked_keys(row, tokens[:4], Style()) in out


@pytest.mark.parametrize(
    "flags, code, problem",
    [
        (["--layer", "3"], 1, "there is no layer 3; the model has layers 1 to 2"),
        (["--head", "9"], 1, "there is no head 9; the model has heads 1 to 2"),
        (["--query", "6"], 1, "there is no query at position 6; here, positions 0 to 5 ask"),
        (["--layer", "0"], 2, "--layer: must be at least 1, not 0"),
        (["--query", "-1"], 2, "--query: must be at least 0"),
        (["--prompt", "Q"], 1, "'Q'"),
        (["--prompt", ""], 2, "is empty"),
        (["-c", "other.safetensors"], 2, "two checkpoints are named"),
        (["--svg", "text.txt"], 1, "text.txt exists and is no SVG picture"),
    ],
)
def test_mistakes(modern, capsys, flags, code, problem):
    assert main(["attention", modern, "--prompt", "the mat", *flags]) == code
    assert problem in error_of(capsys)


def test_models_without_attention_and_without_choice(folder, capsys):
    assert main(["attention"]) == 1
    assert "there is no checkpoint in runs" in error_of(capsys)
    train("mlp", "--d-hidden", "4")
    assert main(["attention"]) == 1
    assert "the model is mlp, which has no attention to show" in error_of(capsys)
    train("attention", "--d-model", "4")
    capsys.readouterr()
    assert main(["attention", "-c", "runs/attention.safetensors", "-p", "the mat"]) == 0
    out = capsys.readouterr().out
    assert "spread out" not in out and "t at 5 reads from:" in out
    assert main(["attention", "-p", "the mat", "--query", "2"]) == 1
    assert "only 5 asks" in error_of(capsys)


def test_the_picture_has_the_chosen_heads(modern, capsys):
    assert main(["attention", modern, "-p", "the mat", "--svg", "all.svg", "--quiet"]) == 0
    flags = ["--head", "2", "--query", "1", "--svg", "two.svg"]
    assert main(["attention", "-p", "the mat", *flags]) == 0
    weights, _ = weights_of(modern, "the mat")
    for name, titles, rows, last in (
        ("all.svg", [f"layer {la}, head {h}" for la in (1, 2) for h in (1, 2)], 6, 5),
        ("two.svg", ["layer 1, head 2", "layer 2, head 2"], 1, 1),
    ):
        root = ET.parse(name).getroot()
        assert [text.text for text in root.findall(f".//{SVG}text[@class='b']")] == titles
        panels = root.findall(SVG + "g")
        assert {len(panel.findall(f".//{SVG}rect[@class='s']")) for panel in panels} == {rows}
        weight = panels[-1].findall(f".//{SVG}rect/{SVG}title")[-1].text
        assert weight.endswith(f": {weights[1][1][last][last]:.3f}")


@pytest.mark.parametrize("flags", [["--color", "always"], ["--color", "never"], []])
def test_colour_is_as_asked_for(modern, capsys, flags):
    assert main(["attention", "-p", "the", *flags]) == 0
    assert ("\x1b[" in capsys.readouterr().out) is ("always" in flags)


def test_the_other_commands_sum_up_the_heads_too(modern, capsys):
    expected = list(summary_table(choose_heads(weights_of(modern, "the mat")[0]), Style()))
    assert main(["generate", "-p", "the mat", "-n", "0", "--show-attention"]) == 0
    assert "\n".join(expected) in capsys.readouterr().out
