"""The book as a page: every line once, names that lead to where they are defined, real numbers."""

import base64
import io
import re
import zipfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.view.book.page import BOOK, ROOMS, Place, _chapter, archive, render
from tiny_llm.view.book.recorded import Ran, in_brief, what_ran
from tiny_llm.view.book.source import Source, paragraphs

ROOT = Path(__file__).parents[2]
FILES = [*BOOK, *ROOMS]


class Read(HTMLParser):
    """id -> the text of the element, links with their text, what is fetched."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.links, self.ids, self.fetched, self.open = {}, [], [], [], []
        self.in_link = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if given.get("id"):
            self.ids.append(given["id"])
            self.texts[given["id"]] = ""
        if tag == "a":
            self.links.append([given["href"], "", [e for e in self.open if e]])
            self.in_link = True
        self.fetched += [given[name] for name in ("src", "data", "poster") if name in given]
        if tag == "link":
            self.fetched.append(given["href"])
        if tag not in ("meta", "link", "input", "br", "path", "rect"):
            self.open.append(given.get("id"))

    def handle_endtag(self, tag):
        if tag not in ("path", "rect"):
            self.open.pop()
        self.in_link = self.in_link and tag != "a"

    def handle_data(self, text):
        for one in filter(None, self.open):
            self.texts[one] += text
        if self.in_link:
            self.links[-1][1] += text


def chapter_of(text, name="tried", ran=None):
    source = Source(name, text)
    place = Place({name: source})
    return _chapter(source, place, {name: set(source.definitions)}, ran or {})


@pytest.fixture(scope="module")
def page():
    return render({})


@pytest.fixture(scope="module")
def read(page):
    return Read(page)


@pytest.fixture(scope="module")
def ran():
    return what_ran(tuple(ROOMS))


@pytest.mark.parametrize("name", FILES)
def test_every_line_is_there_once_and_unchanged(read, name):
    text = (ROOT / "tiny_llm" / (name.replace(".", "/") + ".py")).read_text("utf-8")
    lines = text.split("\n")[:-1]
    own = [one for one in read.ids if re.fullmatch(rf"{re.escape(name)}-\d+", one)]
    assert Counter(own) == Counter(f"{name}-{i}" for i in range(1, len(lines) + 1))
    assert [read.texts[f"{name}-{i}"] for i in range(1, len(lines) + 1)] == lines


def test_a_line_that_is_not_shown_is_noticed(page):
    line = next(line for line in page.split("\n") if 'id="sampling-61"' in line)
    cut = re.sub(r'<span id="sampling-61">.*?</span>', "", page, count=1)
    assert line and "sampling-61" not in Read(cut).texts


def test_the_chapters_come_in_the_order_of_the_book(read):
    places = [read.ids.index(name) for name in FILES]
    assert places == sorted(places)


def test_every_link_leads_somewhere(read):
    assert {href for href, *_ in read.links if href[0] == "#"} <= {f"#{one}" for one in read.ids}


@pytest.mark.parametrize(
    "line, name, definition",
    [
        ("hidden = layers.tanh(sums)", "tanh", "def tanh("),
        ("inputs = side_by_side(contexts, w[", "side_by_side", "def side_by_side("),
        ("loss, dlogits = cross_entropy(logits, targets)", "cross_entropy", "def cross_entropy("),
        ("blocks.append(self.block(f", "block", "def block("),
        ("class MLPConfig(Config):", "Config", "class Config"),
        ("read the parts of", "", ""),
    ],
)
def test_a_name_leads_to_its_definition(read, line, name, definition):
    (place,) = [
        one for one, text in read.texts.items() if line in text and re.search(r"-\d+$", one)
    ][:1]
    targets = [href for href, text, inside in read.links if place in inside and text == name]
    if not name:
        assert not targets
        return
    (target,) = set(targets)
    assert definition in read.texts[target[1:]]


def test_a_name_that_means_something_else_here_leads_nowhere():
    text = "def dot(a):\n    return a\n\n\ndef other(dot):\n    return dot(dot=dot)\n"
    assert "<a " not in chapter_of(text)
    assert chapter_of(text + "\n\nx = dot(1)\n").count('<a href="#tried-1">dot</a>') == 1


def test_strings_that_hold_names_are_no_names():
    text = 'def f(a):\n    return a\n\n\nx = f"{f} f"\ny = f(1)  # f\n'
    assert chapter_of(text).count('href="#tried-1"') == 1


def test_what_the_source_says_is_no_html():
    text = '"""</pre><script>alert(1)</script>"""\n\nx = "<b>&amp;</b>"  # <i>\n# <u> `<s>`\n'
    read = Read(f"<main>{chapter_of(text)}</main>")
    assert [read.texts[f"tried-{i}"] for i in range(1, 5)] == text.split("\n")[:-1]
    assert not re.search(r"<(script|u|s|i)>", chapter_of(text))


def test_prose_stands_on_the_left_and_code_on_the_right():
    text = '"""A."""\n\nimport x\n\n# -------- R\n\n\n# B,\n# C.\ndef f():\n'
    text += '    """D.\n\n        E\n    """\n'
    text += "    g()\n    # F.\n    h()  # I\n"
    rows = [([p.text.strip() for p in r.prose], [c.text.strip() for c in r.code if c.text])
            for r in Source("x", text).rows()]  # fmt: skip
    assert rows == [
        (['"""A."""'], ["import x"]),
        (["# -------- R"], []),
        (["# B,", "# C.", '"""D.', "", "E", '"""'], ["def f():", "g()"]),
        (["# F."], ["h()  # I"]),
    ]


def test_what_is_drawn_keeps_its_form():
    text = '"""A\n\n    b --> c\n       ^\n\nD\ne.\n"""\n'
    (row,) = Source("x", text).rows()
    found = [(form, [line.number for line in lines]) for form, lines in paragraphs(row.prose)]
    assert found == [(False, [1, 2]), (True, [3, 4, 5]), (False, [6, 7, 8])]


def test_reading_needs_no_network(read, page):
    assert set(read.fetched) <= {"data:,"}
    assert re.findall(r"url\(|@import", page.partition("</style>")[0]) == []
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "where, policy", [("https://a.example/p/", "https://a.example;"), ("here/", "'self';")]
)
def test_the_page_may_ask_only_where_python_is(where, policy):
    page = render({}, where)
    assert policy.rstrip(";") in re.search(r"connect-src ([^\"]*)", page)[1]
    assert ("jsdelivr" in page.partition("<body")[0]) is False


# ------------------------------------------------------------------------------------- the numbers


def call_of(ran, function):
    """Of a function of the book, by its name in its file."""
    module, _, name = function.rpartition(":")
    source = Source(module, (ROOT / "tiny_llm" / f"{module}.py").read_text("utf-8"))
    return ran[module, source.definitions[name]]


@pytest.mark.slow
def test_the_numbers_are_those_of_the_first_step(ran, tmp_path, capsys):
    linear = call_of(ran, "layers:linear")
    assert linear.occasion == "In the first step of rung 1" and linear.caller[0] == "mlp_lm"
    assert [v.shape for v in linear.given] == ["16 × 256", "256 × 96", "96"]
    assert [v.shape for v in linear.gave] == ["16 × 96"]
    loss, dlogits = call_of(ran, "layers:cross_entropy").gave
    out = tmp_path / "m"
    words = ["train", "--steps", "1", "-n", "0", "-o", str(out), "--matmul", "loops"]
    assert main(words) == 0
    told = re.search(r"first loss (\d\.\d+)", capsys.readouterr().err)[1]
    assert float(loss.first) == pytest.approx(float(told), abs=0.006)
    assert dlogits.shape == "16 × 40" and len(dlogits.drawing) == 8


@pytest.mark.slow
def test_every_function_that_a_step_runs_is_told(ran):
    backwards = [name for name in Source("layers", (ROOT / "tiny_llm/layers.py").read_text(
        "utf-8")).definitions if name.endswith("_backward")]  # fmt: skip
    assert len(backwards) > 7
    for name in backwards:
        assert call_of(ran, f"layers:{name}").gave
    assert (
        call_of(ran, "attention_lm:AttentionLanguageModel.backward").occasion
        == "In the first step of rung 2"
    )
    assert (
        call_of(ran, "modern_block:ModernLanguageModel.block").occasion
        == "In the first step of rung 3"
    )
    assert "grad_clip" in call_of(ran, "optimizers:clip_by_global_norm").occasion
    assert call_of(ran, "gradcheck:compare").occasion.startswith("When the slopes")
    for name in ("text.bpe", "fast.lanes", "fast.kv_cache", "beyond.llama", "beyond.dpo"):
        assert any(module == name for module, _ in ran)


@pytest.mark.parametrize(
    "value, shape, first",
    [
        (3.14159, "", "3.14"),
        ([1.0, 2.5], "2", "1 2.5"),
        ([[1.0] * 5] * 3, "3 × 5", "1 1 1 1 …"),
        ([[1, 2], [3]], "2 × 1 to 2", "1 2"),
        (10**13, "", "(a number of 14 digits)"),
        ({"a": 1, "b": 2, "c": 3}, "3 by name", "a, b, …"),
        ("x" * 99, "99 characters", repr("x" * 34)),
    ],
)
def test_values_in_brief(value, shape, first):
    assert in_brief("x", value)[:3] == ("x", shape, first)


def test_what_says_nothing_is_left_out():
    assert in_brief("f", len) is None and in_brief("f", None) is None


def test_the_numbers_stand_beside_their_function():
    call = Ran("In a <step>", ("tried", 5), [in_brief("<x>", [[0.5, -0.25]])], [in_brief("", 1.5)])
    found = chapter_of("def f(x):\n    return x\n\n\ny = f(1)\n", ran={("tried", 1): call})
    assert '<a href="#tried-5">tried.py line 5</a>' in found
    assert "&lt;x&gt;" in found and "1 × 2: <code>0.5 -0.25" in found


# ----------------------------------------------------------------------------------- the whole page


def parts_of(page):
    """What is not the archive, and the files in the archive."""
    before, _, rest = page.partition('id="archive">')
    packed, _, after = rest.partition("</script>")
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(packed))) as file:
        return before + after, {name: file.read(name) for name in file.namelist()}


@pytest.mark.slow
def test_the_page_in_docs_is_current(ran):
    kept = (ROOT / "docs" / "book.html").read_text("utf-8")
    assert parts_of(kept) == parts_of(render(ran)), "tiny-lm book -o docs/book.html renews it"


def test_the_archive_holds_what_runs(page):
    _, files = parts_of(page)
    assert files["tiny_llm/corpus.txt"] == (ROOT / "corpus.txt").read_bytes()
    assert files["tiny_llm/layers.py"] == (ROOT / "tiny_llm" / "layers.py").read_bytes()
    assert "tests/test_layers.py" in files and "tiny_llm/view/book/worker.js" in files
    assert not any("__pycache__" in name for name in files)
    assert archive() == archive()


def test_the_command_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tiny_llm.cli.book.what_ran", lambda rooms: {})
    out = tmp_path / "b.html"
    assert main(["book", "-o", str(out), "--pyodide", "here"]) == 0
    assert '"pyodide":"here/"' in out.read_text("utf-8")
    assert main(["book", "-o", str(out), "--quiet"]) == 0  # its own page is replaced
    capsys.readouterr()
    (tmp_path / "text").write_text("mine", "utf-8")
    assert main(["book", "-o", str(tmp_path / "text")]) != 0
    assert (tmp_path / "text").read_text("utf-8") == "mine"
    capsys.readouterr()
    for where in ('x" y', "javascript:alert(1)", "", "a b", "//x;y"):
        assert main(["book", "-o", str(out), "--pyodide", where]) == 2
    assert capsys.readouterr().err.count("\n") == 5
