"""tiny-lm report: the facts on the page are the model's, and no text breaks out of its place."""

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm import (
    AttentionConfig,
    AttentionLanguageModel,
    CharTokenizer,
    MLPConfig,
    MLPLanguageModel,
    ModernConfig,
    ModernLanguageModel,
    evaluate,
)
from tiny_llm.batches import Windows
from tiny_llm.cli import main
from tiny_llm.layers import softmax
from tiny_llm.run.metrics import read_metrics
from tiny_llm.run.saved import load_run
from tiny_llm.text.corpus import Lines, RunningText
from tiny_llm.view.pca import project
from tiny_llm.view.report import facts, pictures
from tiny_llm.view.report.facts import (
    MOST_ROWS,
    Curves,
    EmbeddingMap,
    Measured,
    PlacedToken,
    Window,
    curves_of,
    embedding_map,
    parameter_parts,
    read_passage,
    windows_of,
)
from tiny_llm.view.report.page import html, json_for_script, percent
from tiny_llm.view.report.pictures import Yardstick, loss_curves, ticks, token_map

TEXT = "the cat sat on the mat. the dog sat on the log.\n" * 6
SCRIPT = "<script>alert(1)</script>"
HOSTILE = SCRIPT + "&amp; \"'` --> ]]> </pre> $title ${x} \u2028\u2029\x07\U0001f600 \u05e9\u05dc\n"
VOID = {"meta", "link", "br", "hr", "img", "input"}
LETTERS = CharTokenizer("abcde")


# -------------------------------------------------------------------------- what a page consists of


class Page(HTMLParser):
    """Elements with their attributes and text; complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (tag, attributes)  # none twice
        element = {"tag": tag, "text": "", **dict(attributes)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and all(element.get(name.rstrip("_")) == value for name, value in attributes.items())
        ]

    def one(self, tag, **attributes):
        (element,) = self.all(tag, **attributes)
        return element

    @property
    def data(self):
        return json.loads(self.one("script", type="application/json")["text"])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def train(*flags, model="modern", data="text.txt", out="runs/m.safetensors", steps=6):
    words = ["train", "--model", model, "--data", data, "-o", out, "--steps", str(steps)]
    words += ["--context-length", "8", "--eval-every", "2", "-n", "0", "--quiet", *flags]
    assert main(words) == 0
    return Path(out)


def report(path, *flags, out="page.html"):
    """The page about a checkpoint."""
    assert main(["report", str(path), "-o", out, "--quiet", "-n", "12", *flags]) == 0
    text = Path(out).read_bytes().decode("utf-8")
    return Page(text)


# ------------------------------------------------------------------------- the passage and its loss


@given(st.lists(st.integers(0, 4), min_size=2, max_size=20))
def test_the_surprise_at_each_token_adds_up_to_the_loss(ids):
    model = ModernLanguageModel(ModernConfig(5, 4, 4, n_heads=2), seed=1)
    examples = Windows(ids, 4)
    assert read_passage(model, LETTERS, ids).mean_nats == pytest.approx(evaluate(model, examples))


def test_every_rung_is_read_as_it_is_evaluated(build_rung):
    model, rng = build_rung(seed=3), random.Random(0)
    ids = [rng.randrange(5) for _ in range(23)]
    length, every = model.config.context_length, model.predicts_every_token
    examples = RunningText(ids).examples(length, every)
    assert read_passage(model, LETTERS, ids).mean_nats == pytest.approx(evaluate(model, examples))
    lines = Lines([[1, 2], [3, 1, 2, 4, 4, 2, 1], [2]], separator=0)
    reading = read_passage(model, LETTERS, lines.ids, separator=0)
    assert reading.mean_nats == pytest.approx(evaluate(model, lines.examples(length, every)))


def test_predictions_are_those_of_the_model(build_rung):
    model, ids = build_rung(seed=2), [4, 1, 0, 2]
    reading = read_passage(model, LETTERS, ids)
    for place in range(1, 5):
        logits, _ = model.forward([ids[:place]])
        probabilities = softmax(logits[-1])
        ranked = sorted(range(5), key=lambda token: -probabilities[token])
        choices = [("abcde"[token], pytest.approx(probabilities[token])) for token in ranked]
        if place == 4:
            assert reading.following == choices
            continue
        prediction = reading.predictions[place - 1]
        assert prediction.likeliest == choices
        assert prediction.rank == 1 + ranked.index(ids[place])
        assert prediction.nats == pytest.approx(-math.log(probabilities[ids[place]]))


def test_one_token_has_no_prediction_but_something_that_follows(build_rung):
    reading = read_passage(build_rung(), LETTERS, [2])
    assert reading.labels == ["c"]
    assert reading.predictions == [] and reading.mean_nats is None
    assert len(reading.following) == 5


def test_an_empty_passage_is_refused(build_rung):
    with pytest.raises(ValueError, match="at least one token"):
        read_passage(build_rung(), LETTERS, [])


def test_the_windows_by_hand():
    ids = [0, 1, 2, 0, 3, 4, 5, 6]
    assert windows_of(ids, 3, one_target=False) == [Window(0, 3), Window(3, 6), Window(6, 8)]
    begins = [begin for begin, _ in windows_of(ids, 3, one_target=True)]
    assert begins == [0, 0, 0, 1, 2, 3, 4, 5]
    split = windows_of(ids, 3, one_target=False, separator=0)
    assert split == [Window(0, 3), Window(3, 6), Window(6, 8)]
    begins = [begin for begin, _ in windows_of(ids, 3, one_target=True, separator=0)]
    assert begins == [0, 0, 0, 3, 3, 3, 4, 5]
    assert windows_of([1, 0, 2, 3], 9, one_target=False, separator=0) == [
        Window(0, 1),
        Window(1, 4),
    ]


# ---------------------------------------------------------------------------------------- attention


def test_rung_3_shows_the_longest_window():
    model = ModernLanguageModel(ModernConfig(5, 6, 4, n_heads=2, n_layers=3), seed=1)
    ids = [0, 1, 2, 0, 3, 4, 1, 2, 0, 1]
    maps = read_passage(model, LETTERS, ids, separator=0).attention
    window = ids[3:8]
    assert [row.query for row in maps.rows] == [3, 4, 5, 6, 7]
    assert {row.first_key for row in maps.rows} == {3}
    _, cache = model.forward([window])
    (weights,) = model.attention(cache)
    assert len(maps.layers) == 3
    for layer, heads in enumerate(maps.layers):
        assert len(heads) == 2
        for head, rows in enumerate(heads):
            for place, row in enumerate(rows):
                assert row == pytest.approx(weights[layer][head][place][: place + 1])
                assert sum(row) == pytest.approx(1)


def test_rung_2_shows_a_window_for_each_token():
    model = AttentionLanguageModel(AttentionConfig(5, 4, d_model=4), seed=4)
    ids = [0, 1, 2, 3, 4, 0, 1]
    maps = read_passage(model, LETTERS, ids).attention
    assert [row.query for row in maps.rows] == list(range(7))
    assert [row.first_key for row in maps.rows] == [0, 0, 0, 0, 1, 2, 3]
    ((rows,),) = maps.layers
    for (query, first), row in zip(maps.rows, rows):
        _, cache = model.forward([ids[first : query + 1]])
        assert row == pytest.approx(model.attention(cache)[0][0][0][0])


def test_a_long_window_shows_its_first_rows_as_they_are():
    model = ModernLanguageModel(ModernConfig(5, 90, 4, n_heads=1), seed=1)
    maps = read_passage(model, LETTERS, [1, 2, 3] * 30).attention
    assert len(maps.rows) == MOST_ROWS
    ((rows,),) = maps.layers
    assert [len(row) for row in rows] == list(range(1, MOST_ROWS + 1))
    assert all(sum(row) == pytest.approx(1) for row in rows)


def test_rung_1_says_why_it_has_none(folder):
    path = train("--d-hidden", "4", model="mlp")
    page = report(path)
    assert page.data["attention"] is None
    assert "no attention" in page.one("section", id="attention")["text"]
    assert page.all("div", id="frame") == []


# ----------------------------------------------------------------------------- sizes and embeddings


def test_the_parts_hold_all_parameters_once(build):
    model = build()
    parameters, parts = model.parameters, parameter_parts(model)
    flat = sum(
        len(row) for t in parameters.values() for row in (t if isinstance(t[0], list) else [t])
    )
    assert sum(part.numbers for part in parts) == flat
    assert all(part.purpose for part in parts)
    assert len({part.name for part in parts}) == len(parts)


def test_a_part_says_who_got_it_and_for_what(build_rung):
    parts = {part.name: part.purpose for part in parameter_parts(build_rung())}
    expected = {
        "hidden": "linear for sums",
        "query": "linear for queries",
        "wte": "embedding for token_rows, matmul_bt for logits",  # one table, used at both ends
        "h.0.ln_1": "layer_norm for normed_1",
    }
    shared = expected.keys() & parts.keys()
    assert shared and all(parts[name] == expected[name] for name in shared)


def test_the_map_is_of_the_table_that_was_looked_up():
    class Reversed(MLPLanguageModel):
        """Its first parameter with a row for each token is no table of vectors."""

        @staticmethod
        def layout(config):
            return dict(reversed(MLPLanguageModel.layout(config).items()))

    model = Reversed(MLPConfig(5, 4, 3, 5))  # hidden x tokens is 5 x 5
    assert next(iter(model.parameters)) != "embedding.weight"
    assert embedding_map(model, LETTERS).name == "embedding.weight"


def test_the_blocks_are_added_up():
    model = ModernLanguageModel(ModernConfig(5, 4, 4, n_heads=2, n_layers=3))
    parts = {part.name: part for part in parameter_parts(model)}
    assert parts["h.*.mlp.c_fc"].numbers == 3 * (4 * 16 + 16)
    assert parts["h.*.mlp.c_fc"].shapes == [(4, 16), (16,)]
    assert parts["h.*.mlp.c_fc"].times == 3
    one = ModernLanguageModel(ModernConfig(5, 4, 4, n_heads=2))
    assert "h.0.mlp.c_fc" in {part.name for part in parameter_parts(one)}


def test_the_map_is_the_projection_of_the_embedding_table(build_rung):
    model = build_rung(seed=5)
    embeddings = embedding_map(model, LETTERS)
    table = next(iter(model.parameters.values()))
    points, shares = project(table)
    assert [(t.x, t.y) for t in embeddings.tokens] == points
    assert [t.label for t in embeddings.tokens] == list("abcde")
    assert embeddings.shares == shares
    assert embeddings.width == len(table[0])


def test_the_map_shows_the_tokens_of_the_text_the_frequent_first(build_rung):
    embeddings = embedding_map(build_rung(), LETTERS, {3: 1, 1: 7, 4: 1})
    assert [t.label for t in embeddings.tokens] == list("bde")
    assert embeddings.different == 5


def test_labels_do_not_cover_each_other():
    tokens = [PlacedToken("ab", i * 0.01, 0.0) for i in range(30)]
    tokens += [PlacedToken("far", 9.0, 9.0)]
    svg = token_map(EmbeddingMap("e", 2, tokens, 31, (0.6, 0.4)), "")
    page = Page(svg)
    shown = page.all("text")
    assert [text["text"] for text in shown] == ["ab", "far"]
    assert len(page.all("circle")) == 31  # all of them are there all the same
    assert len(page.all("title")) == 31


def test_the_map_keeps_its_proportions_and_its_margins():
    tokens = [PlacedToken("a", -3.0, 0.0), PlacedToken("b", 1.0, 0.0), PlacedToken("c", 0.0, 1.0)]
    page = Page(token_map(EmbeddingMap("e", 2, tokens, 3, (0.6, 0.4)), ""))
    a, b, c = ((float(dot["cx"]), float(dot["cy"])) for dot in page.all("circle"))
    _, _, width, height = map(float, page.one("svg")["viewbox"].split())
    assert (b[0] - a[0]) / 4 == pytest.approx(a[1] - c[1], abs=0.1)
    assert a[0] == pytest.approx(width - b[0]) == pytest.approx(c[1])
    assert height - a[1] == pytest.approx(c[1])


# ------------------------------------------------------------------------------------------- curves


def records(count, every=10):
    """As a run leaves them."""
    for step in range(1, count + 1):
        is_evaluated = step % every == 0
        yield {
            "step": step,
            "loss": 3 / step,
            "train_loss": 4 / step if is_evaluated else None,
            "val_loss": 5 / step if is_evaluated else None,
        }


def test_a_short_run_is_drawn_as_it_is():
    curves = curves_of(list(records(20)))
    assert curves.batches == [Measured(step, 3 / step) for step in range(1, 21)]
    assert curves.train == [Measured(10, 0.4), Measured(20, 0.2)]
    assert curves.val == [Measured(10, 0.5), Measured(20, 0.25)]


def test_a_long_run_is_drawn_as_means():
    curves = curves_of(list(records(1000)), most=100)
    assert len(curves.batches) == 100
    losses = [3 / step for step in range(1, 1001)]
    mean = sum(point.loss for point in curves.batches) / 100
    assert mean == pytest.approx(sum(losses) / 1000)
    assert len(curves.val) == 100  # evaluations are never averaged


@pytest.mark.parametrize(
    "found", [[], [{"step": 1}], [{"step": 1, "loss": "x"}], [{"step": 1, "loss": math.nan}]]
)
def test_no_losses_no_curves(found):
    assert curves_of(found) is None


def test_points_of_the_curves_are_where_they_belong():
    curves = Curves([], [], [Measured(50, 1.0), Measured(100, 2.0)])
    page = Page(loss_curves(curves, [Yardstick("guessing", 3.0)], Measured(50, 1.0), "d"))
    first, second = page.all("circle", class_="dot val")
    right = pictures.WIDTH - pictures.RIGHT
    assert float(second["cx"]) == pytest.approx(right)
    assert float(first["cx"]) == pytest.approx((pictures.LEFT + right) / 2)
    bottom = pictures.HEIGHT - pictures.BOTTOM
    guessing = float(re.search(r"M\S+ (\S+)H", page.one("path", class_="yardstick")["d"])[1])
    assert (bottom - float(first["cy"])) * 3 == pytest.approx(bottom - guessing, abs=0.3)
    assert (bottom - float(second["cy"])) * 3 == pytest.approx(2 * (bottom - guessing), abs=0.3)
    best = page.one("circle", class_="best")
    assert (best["cx"], best["cy"]) == (first["cx"], first["cy"])


@given(st.floats(1e-6, 1e9), st.integers(1, 12))
def test_ticks_are_few_round_and_inside(end, most):
    found = ticks(end, most)
    assert found[0] == 0 and found[-1] <= end * (1 + 1e-6)
    assert 1 <= len(found) <= most + 1
    if len(found) > 1:
        digits = f"{found[1]:.6e}".rstrip("0")
        assert digits[0] in "125" or found[1] == 0
        assert found == pytest.approx([i * found[1] for i in range(len(found))])


# ----------------------------------------------------------------------------------------- escaping


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_for_a_script_is_json_and_cannot_end_it(data):
    text = json_for_script(data)
    assert json.loads(text) == data
    assert text.isascii() and not set(text) & set("<>&")


@given(st.text(st.characters() | st.sampled_from("\ud800\udfff<>&\0")))
def test_html_shows_any_text_and_nothing_else(text):
    page = Page(f'<p title="{html(text)}">{html(text)}</p>')
    (element,) = page.elements
    assert element["text"] == element["title"]
    assert not re.search("[\x00-\x08\x0b-\x1f]", element["text"])
    plain = re.sub("[\x00-\x08\x0b-\x1f]", lambda found: chr(0x2400 + ord(found[0])), text)
    assert element["text"] == plain.encode("utf-8", "replace").decode("utf-8")


@pytest.mark.parametrize(
    "share, text", [(0, "0.0%"), (0.00001, "<0.1%"), (0.001, "0.1%"), (0.4567, "45.7%")]
)
def test_percentages_do_not_hide_what_is_small(share, text):
    assert percent(share) == text


@pytest.mark.parametrize("model", ["mlp", "attention", "modern"])
@pytest.mark.parametrize("tokens", [[], ["--tokenizer", "bpe", "--vocab-size", "290"]])
def test_a_hostile_text_stays_text(folder, model, tokens):
    data = '<b>"&.txt'
    Path(data).write_text(HOSTILE * 8, encoding="utf-8")
    path = train(*tokens, model=model, data=data, out='runs/<i>"&.safetensors')
    clean = report(train(*tokens, model=model, out="runs/clean"))
    for flags in (["--prompt", HOSTILE], ["--data", data], []):
        page = report(path, *flags)
        assert {e["tag"] for e in page.elements} - {"br"} <= {e["tag"] for e in clean.elements}
        assert len(page.all("script")) == 2
        assert not any(name.startswith("on") for e in page.elements for name in e)
        assert page.one("h1")["text"] == '<i>"&.safetensors'
    page = report(path, "--prompt", HOSTILE, "--data", data)
    shown = HOSTILE.replace("\x07", "\u2407")
    assert [span["text"] for span in page.all("span", class_="prompt")] == [shown] * 3
    assert data in page.one("section", id="trained")["text"]


def test_a_line_has_an_end_in_the_passage(folder):
    page = report(train(), "--prompt", "cat\nsat")
    passage = page.one("div", id="passage")
    assert passage["text"] == "cat↵sat?"
    assert len(page.all("br")) == 1


# ----------------------------------------------------------------------------------------- the page


def test_the_page_asks_for_nothing_from_elsewhere(folder):
    page = report(train())
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'")
    for element in page.elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            assert element.get(name, "#").startswith(("#", "data:,")), element
    text = Path("page.html").read_text("utf-8")
    assert "url(" not in text and "@import" not in text
    assert set(re.findall(r"https?://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}  # a name


def test_links_lead_to_sections_and_ids_are_single(folder):
    page = report(train())
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))
    links = page.all("a")
    assert len(links) == len(page.all("section")) == 7
    for link in links:
        assert link["href"][1:] in ids
    for element in page.elements:
        assert element.get("aria-labelledby", ids[0]) in ids


HOSTILE = "</script><script>alert(1)</script>"


def stages(folder):
    """A model that answers, and the one that it came from."""
    base = train("--tokenizer", "bpe", "--vocab-size", "270", "--context-length", "64", out="base")
    said = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the cat."}]
    (folder / "talk.jsonl").write_text((json.dumps({"messages": said}) + "\n") * 10, "utf-8")
    flags = ["--data", "talk.jsonl", "--steps", "40", "--lr", "0.02", "--workers", "1", "--quiet"]
    assert main(["sft", "-c", str(base), *flags, "-o", "answers"]) == 0
    return "answers", "--before", str(base)


@pytest.mark.slow
def test_the_stages_stand_side_by_side(folder, capsys):
    page = report(*stages(folder), "--ask", "who?", HOSTILE)
    text = Path("page.html").read_text("utf-8")
    section = text[text.index('<section id="stages"') :]
    section = section[: section.index("</section>")]
    assert "train: base" in section and "sft: answers" in section
    row = re.search("<tr><td>who\\?</td><td>(.*?)</td><td>(.*?)</td>", section)
    assert row[1].endswith(" …") and row[2] == "the cat."
    assert section.count('class="picture"') == 2 and HOSTILE not in text
    links = [link["href"] for link in page.all("a")]
    assert len(links) == len(page.all("section")) == 8 and "#stages" in links


@pytest.mark.slow
def test_a_model_that_was_taught_to_talk_is_asked_and_stops(folder):
    page = report(*stages(folder), "-n", "40")
    for figure in page.all("pre", class_="sample"):
        assert figure["text"].startswith("<|user|>What is a token?<|end|><|assistant|>")
        assert figure["text"].count("<|end|>") == 1
    text = Path("page.html").read_text("utf-8")
    assert "conversations" in text and "on a text" not in text


@pytest.mark.slow
def test_the_lines_that_a_stage_learned_from_are_no_text(folder, capsys):
    name, *_ = stages(folder)
    assert main(["report", name, "--data", "talk.jsonl", "-o", "page.html"]) == 1
    assert "learned from conversations" in capsys.readouterr().err
    assert main(["eval", name, "--data", "talk.jsonl"]) == 0
    assert "validation part" not in capsys.readouterr().out


@pytest.mark.slow
def test_before_needs_the_model_itself(folder, capsys):
    name, *_ = stages(folder)
    train()  # the newest in runs/
    assert main(["report", "--before", "base", name, "-o", "page.html"]) == 2
    assert "name the model itself with -c" in capsys.readouterr().err


@pytest.mark.slow
def test_without_questions_those_about_the_built_in_text_are_asked(folder):
    report(*stages(folder))
    table = Path("page.html").read_text("utf-8").split('<section id="stages"')[1]
    assert table.split("</table>")[0].count("<tr>") == 1 + 6


def test_a_model_that_cannot_be_asked_is_refused(folder, capsys):
    base, mlp = train(), train(model="mlp", out="mlp")
    assert main(["report", str(base), "--before", str(mlp), "-o", "page.html"]) == 1
    assert "predicts one token at a time" in capsys.readouterr().err
    assert not Path("page.html").exists()


def test_every_picture_has_words(folder):
    page = report(train("--n-layers", "2"))
    pictures_ = page.all("svg", class_="picture")
    assert len(pictures_) == 2
    for picture in pictures_:
        assert picture["role"] == "img" and len(picture["aria-label"]) > 40
    for svg in page.all("svg"):
        assert svg.get("role") == "img" or svg.get("aria-hidden") == "true"


def test_what_the_page_knows_is_what_the_model_computes(folder):
    path = train("--n-layers", "2")
    page, run = report(path, "--prompt", "the cat"), load_run(path)
    reading = read_passage(run.model, run.tokenizer, run.tokenizer.encode("the cat"))
    data = page.data
    assert data["labels"] == list("the·cat")
    assert [p[0] for p in data["predictions"]] == [round(p.nats, 3) for p in reading.predictions]
    assert data["predictions"][2][1] == round(reading.predictions[2].probability, 5)
    expected = reading.attention.layers[1][2][4]
    shown = data["attention"]["layers"][1][2][4]
    assert [w / 1000 for w in shown] == pytest.approx(expected, abs=0.0005)
    assert data["attention"]["rows"] == [[q, 0] for q in range(7)]
    assert f"{reading.mean_nats:.3f} nats" in page.one("section", id="surprise-section")["text"]


def test_the_facts_are_those_of_the_run(folder):
    path = train("--grad-clip", "0.5", "--warmup-steps", "3", "--lr", "0.02")
    run = load_run(path)
    page = report(path, "--data", "text.txt")
    terms = [e["text"] for e in page.all("dt")]
    values = dict(zip(terms, (e["text"] for e in page.all("dd"))))
    count = sum(part.numbers for part in parameter_parts(run.model))
    assert values["numbers learned"] == f"{count:,}"
    assert values["model"] == "modern, ModernLanguageModel"
    made_of = "embedding, add_rows, layer_norm, linear, multi_head_attention, gelu, matmul_bt"
    assert values["made of"] == made_of  # what ran, each once
    assert values["steps"] == "6 of 6, each of 4 contexts"
    assert "adamw, learning rate 0.02, cosine down to 0.002, 3 steps" in values["optimizer"]
    assert "clipped at 0.5" in values["optimizer"]
    assert run.options.text_sha256[:16] in values["fingerprint of the text"]
    assert f"{run.best.val_loss:.3f}" in values["best loss"]
    vocab_size = run.tokenizer.vocab_size
    expected = f"ln {vocab_size} = {math.log(vocab_size):.3f} nats per character"
    assert values["guessing costs"] == expected
    assert values["text"] == "text.txt: 259 characters to learn from, 29 held out"
    assert re.fullmatch(r"\d\.\d{3} nats per character", values["counting pairs costs"])
    alone = report(path)
    assert "--data" in alone.one("section", id="trained")["text"]


def test_the_held_out_text_is_the_passage_where_it_is_at_hand(folder):
    path = train()
    page = report(path, "--data", "text.txt")
    held_out = TEXT[-29:].replace(" ", "·").replace("\n", "↵")
    assert page.one("div", id="passage")["text"] == held_out + "?"
    assert "not trained on" in page.one("section", id="surprise-section")["text"]


def test_without_any_text_the_model_reads_its_own(folder):
    page = report(train(), "-n", "9")
    passage = page.one("div", id="passage")["text"][:-1]
    own = page.all("pre")[1]["text"].replace(" ", "·").replace("\n", "↵")
    assert passage.lstrip("↵") == own and len(own) > 8


def test_samples_are_what_generate_writes(folder, capsys):
    path = train()
    page = report(path, "--prompt", "the ", "--seed", "5")
    capsys.readouterr()
    for pre, temperature in zip(page.all("pre"), ("0", "0.7", "1.2")):
        words = ["generate", "-c", str(path), "-p", "the ", "-n", "12", "--seed", "5", "--quiet"]
        assert main([*words, "--temperature", temperature]) == 0
        assert capsys.readouterr().out == pre["text"] + "\n"
    captions = [figure["text"] for figure in page.all("figcaption")]
    assert [c for c in captions if c.startswith("temperature 1.2")]


def test_a_model_of_lines(folder):
    names = "".join(f"{a}{b}a\n" for a in "abcdef" for b in "nmlr")
    Path("names.txt").write_text(names, encoding="utf-8")
    path = train("--lines", data="names.txt")
    page = report(path, "--data", "names.txt")
    passage = page.one("div", id="passage")["text"]
    assert passage.startswith("↵") and passage.count("↵") >= 3
    assert "every line is a document of its own" in page.one("section", id="trained")["text"]
    rows = page.data["attention"]["rows"]
    assert len(rows) == 4  # one line: a newline and three letters


def test_equal_runs_give_equal_pages(folder):
    path = train()
    report(path, "--seed", "3", out="a.html")
    report(path, "--seed", "3", out="b.html")
    report(path, "--seed", "4", out="c.html")
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    assert Path("a.html").read_bytes() != Path("c.html").read_bytes()


# ---------------------------------------------------------------------------------- the loss curves


def test_the_curves_come_from_the_metrics_beside(folder):
    path = train(steps=8)
    page = report(path)
    section = page.one("section", id="loss")
    assert "From m.metrics.jsonl." in section["text"]
    losses = [r["val_loss"] for r in read_metrics(Path("runs/m.metrics.jsonl")) if r["val_loss"]]
    for loss in losses:
        assert f"{loss:.3f}" in section["text"]
    assert len(page.all("circle", class_="dot val")) == len(losses) + 1  # and the legend's


def test_the_best_checkpoint_has_the_curves_of_its_run(folder):
    train("--lr", "1.5", "--schedule", "constant", steps=12)
    page = report("runs/m.best.safetensors")
    text = page.one("section", id="loss")["text"]
    assert "From m.metrics.jsonl." in text
    step = load_run(Path("runs/m.best.safetensors")).step
    assert f"this model is that of step {step}" in text or step == 12


def test_without_metrics_the_page_says_so(folder):
    path = train()
    Path("runs/m.metrics.jsonl").unlink()
    page = report(path)
    assert "there is no m.metrics.jsonl" in page.one("section", id="loss")["text"]
    assert page.all("svg", class_="picture")[0]["aria-label"].startswith("Map")


def test_metrics_of_another_run_are_not_shown(folder, capsys):
    path = train()
    train("--seed", "1", out="runs/other")
    Path("runs/other.metrics.jsonl").replace("runs/m.metrics.jsonl")
    page = report(path)
    assert "is of another run" in page.one("section", id="loss")["text"]
    words = ["report", str(path), "--metrics", "runs/m.metrics.jsonl"]
    assert main(words) == 1
    assert "is of another run than runs/m.safetensors" in capsys.readouterr().err
    assert main(["report", str(path), "--metrics", "text.txt"]) == 1
    assert "holds no metrics of a run" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- the command


def test_the_page_lies_beside_the_checkpoint_and_an_older_one_is_kept(folder, capsys):
    train(model="attention")
    assert main(["report", "-n", "1"]) == 0
    err = capsys.readouterr().err
    assert "runs/m.safetensors: attention, step 6" in err or "m.best" in err
    (page,) = Path("runs").glob("*.report.html")
    assert f"saved {page}" in err
    old = page.read_bytes()
    assert main(["report", "-n", "2", "-c", str(page).replace("report.html", "safetensors")]) == 0
    assert f"kept: the older {page} is now {page}.bak" in capsys.readouterr().err
    assert Path(f"{page}.bak").read_bytes() == old != page.read_bytes()


def test_quiet_says_nothing(folder, capsys):
    path = train()
    capsys.readouterr()
    report(path)
    assert capsys.readouterr() == ("", "")


def test_what_is_no_report_is_not_overwritten(folder, capsys):
    path = train()
    assert main(["report", str(path), "-o", "text.txt"]) == 1
    assert "text.txt exists and is no report" in capsys.readouterr().err
    assert Path("text.txt").read_text("utf-8") == TEXT
    assert main(["report", str(path), "-o", str(path)]) == 1
    assert main(["report", str(path), "-o", "runs"]) == 1
    assert "cannot write runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, code, problem",
    [
        (["runs/m.safetensors", "-c", "runs/n"], 2, "two checkpoints are named"),
        (["runs/none"], 1, "there is no checkpoint runs/none"),
        (["runs/m.safetensors", "--data", "other.txt"], 1, "was trained on another text than"),
        (["runs/m.safetensors", "--prompt", "Q"], 1, "the model does not know 'Q'"),
        (["runs/m.safetensors", "--prompt", ""], 2, "is empty"),
        (["runs/m.safetensors", "-n", "-1"], 2, "must be at least 0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(folder, capsys, words, code, problem):
    train()
    Path("other.txt").write_text(TEXT[1:], encoding="utf-8")
    assert main(["report", "-o", "page.html", *words]) == code
    err = capsys.readouterr().err
    assert problem in err and "Traceback" not in err
    assert not Path("page.html").exists()


@pytest.mark.slow
def test_a_model_of_some_size_gives_a_page_of_moderate_size(folder):
    sizes = ["--n-layers", "4", "--n-heads", "4", "--d-model", "128"]
    path = train(*sizes, "--context-length", "64", "--batch-size", "1", steps=1)
    Path("page.html").unlink(missing_ok=True)
    words = ["report", str(path), "-o", "page.html", "--data", "text.txt", "-n", "20"]
    assert main(words) == 0
    assert Path("page.html").stat().st_size < 1_500_000
    page = Page(Path("page.html").read_text("utf-8"))
    assert [len(heads) for heads in page.data["attention"]["layers"]] == [4] * 4


def test_labels_of_tokens_that_are_no_text():
    class Bytes:
        def token_bytes(self, token):
            return [b"\xf0", b" a", b"\n", "\u05d0".encode()][token]

    labels = [facts.token_label(Bytes(), token) for token in range(4)]
    assert labels == ["\\xf0", "·a", "↵", "\u200e\u05d0\u200e"]
