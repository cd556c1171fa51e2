"""The book in a real browser: read without a network, run with Pyodide from the loopback.

Running needs PYODIDE, the folder of the npm package `pyodide`, with the wheels that page.py names.
"""

import functools
import http.server
import os
import re
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tiny_llm.cli import main
from tiny_llm.run.metrics import read_metrics
from tiny_llm.run.saved import load_run
from tiny_llm.view.book.page import render
from tiny_llm.view.book.recorded import what_ran

pytest.importorskip("selenium", reason="selenium is not installed: .[browser]")

from browsing import NEEDED, NEEDS_AXE, Page, browser_of, serious, show_as
from selenium.webdriver.common.keys import Keys

pytestmark = NEEDED

PYODIDE = os.environ.get("PYODIDE")
NEEDS_PYODIDE = pytest.mark.skipif(
    not PYODIDE, reason="PYODIDE does not name the folder of the npm package pyodide"
)
OWN = (
    "<script>document.title = 'x'</script> \U0001f600 \U0001f9d1\u200d\U0001f680 שלום مرحبا\n" * 60
)
PATIENCE = 120  # seconds; whatever is waited for takes a few


def until(holds):
    """Wait until it does."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never does"
        time.sleep(0.05)


ASKED = []  # the paths that the site was asked for


class Site(http.server.SimpleHTTPRequestHandler):
    """Files as a static site has them."""

    def guess_type(self, path):
        own = {".mjs": "text/javascript", ".wasm": "application/wasm"}
        return own.get(Path(path).suffix) or super().guess_type(path)

    def log_message(self, *_):
        ASKED.append(self.path)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a site with the page, and Pyodide beside it if there is one."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "book.html").write_text(render(what_ran(), "pyodide/"), "utf-8")
    if PYODIDE:
        (folder / "pyodide").symlink_to(Path(PYODIDE).resolve())
    handler = functools.partial(Site, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/book.html"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(tmp_path_factory, downloads):
    driver = browser_of(tmp_path_factory.mktemp("profile"))
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
    )
    yield driver
    driver.quit()


class Book(Page):
    """The page, opened anew."""

    def __init__(self, browser, address, width=1200, scheme="light"):
        super().__init__(browser)
        show_as(browser, width, scheme)
        browser.get("about:blank")
        browser.get(address)

    def wait(self, says, selector="#state"):
        """Until the text of an element matches; the match."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = re.search(says, self.text(selector))
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{selector} says {self.text(selector)!r}, and never {says!r}")

    def choose(self, selector, value):
        self.browser.execute_script(
            "arguments[0].value = arguments[1];"
            "arguments[0].dispatchEvent(new Event('change', {bubbles: true}))",
            self.one(selector),
            value,
        )

    def train(self, steps, rung="mlp", text="", own=None):
        self.choose("#rung", rung)
        self.choose("#text", text)
        if own is not None:
            self.choose("#own", own)
        self.choose("#steps", steps)
        self.click(self.one("#train"))

    def command(self, line):
        self.choose("#command", line)
        self.click(self.one("#command-form [type=submit]"))

    def edit(self, chapter, old, new):
        """Open a chapter, and change a part of it."""
        for button in self.all(f'[data-chapter="{chapter}"] .edit'):
            self.click(button)
        area = self.one(f'[data-chapter="{chapter}"] textarea')
        changed = self.browser.execute_script(
            "const [area, old, now] = arguments, text = area.value.replaceAll(old, now);"
            "const changed = text !== area.value; area.value = text;"
            "area.dispatchEvent(new Event('input')); return changed",
            area,
            old,
            new,
        )
        assert changed

    def press_button(self, chapter, words):
        (button,) = [b for b in self.all(f'[data-chapter="{chapter}"] button') if b.text == words]
        self.click(button)

    def check(self, chapter, says):
        """What the checks of a chapter come to."""
        self.press_button(chapter, "Check it")
        return self.wait(says, f'[data-chapter="{chapter}"] [role=status]')

    def source(self, chapter):
        return self.one(f'[data-chapter="{chapter}"] textarea').get_attribute("value")


# ------------------------------------------------------------------------------------------ reading


def test_reading_asks_for_nothing(browser, site):
    ASKED.clear()
    book = Book(browser, site)
    for target in ("#layers", "#modern_block-126", "#beyond.llama"):
        browser.get(site + target)
        assert book.one(target.replace(".", r"\.")).is_displayed()
    entries = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert entries == 0 and set(ASKED) == {"/book.html"}
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@NEEDS_AXE
def test_it_is_accessible(browser, site, width, scheme):
    book = Book(browser, site, width, scheme)
    book.click(book.all(".edit")[0])
    assert serious(browser) == []


def test_it_fits_a_phone(browser, site):
    Book(browser, site, 360)
    width = "return document.documentElement.scrollWidth"
    assert browser.execute_script(width) <= 360
    browser.execute_script("document.querySelectorAll('.edit').forEach((b) => b.click())")
    assert browser.execute_script(width) <= 360


def test_the_source_is_that_of_the_files(browser, site):
    book = Book(browser, site)
    for chapter in ("layers", "modern_block"):
        book.click(book.one(f'[data-chapter="{chapter}"] .edit'))
        path = Path(__file__).parents[2] / "tiny_llm" / f"{chapter}.py"
        assert book.source(chapter) == path.read_text("utf-8")


def test_the_keyboard_suffices(browser, site):
    book = Book(browser, site)
    seen = []
    for _ in range(60):
        book.press(Keys.TAB)
        seen.append(book.focused.get_attribute("id"))
    for needed in ("rung", "text", "steps", "train", "open", "command"):
        assert needed in seen


@pytest.mark.parametrize("hash", ["#change=%E0%A4%A", "#change=", "#change=--- a/x%0A+++ b/x%0A"])
def test_a_broken_link_says_so(browser, site, hash):
    book = Book(browser, site + hash)
    assert "cannot be used" in book.text("#state")
    assert not book.one("#change-note").is_displayed()


def test_a_change_is_a_diff_that_patch_understands(browser, site):
    Book(browser, site)
    made = browser.execute_script(
        "const before = 'a\\nb\\nc\\nd\\ne\\nf\\ng\\nh\\ni\\nj\\nk\\n';"
        "const after = 'a\\nB\\nB2\\nc\\nd\\ne\\nf\\ng\\nh\\ni\\nk\\nl\\n';"
        "const diff = diffOf('x.py', before, after);"
        "return [diff, applied(before, parsedDiff(diff).get('x.py')) === after,"
        "        diffOf('x.py', before, before), diffOf('x', 'a\\n', 'b\\n')]"
    )
    assert made[1:] == [True, "", "--- a/x\n+++ b/x\n@@ -1,1 +1,1 @@\n-a\n+b\n"]
    assert "@@ -1,5 +1,6 @@\n a\n-b\n+B\n+B2\n c\n" in made[0]
    assert "@@ -7,5 +8,5 @@\n g\n h\n i\n-j\n k\n+l\n" in made[0]


def test_without_webassembly_it_says_so(tmp_path, site):
    driver = browser_of(tmp_path)
    try:
        driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": "delete globalThis.WebAssembly"}
        )
        book = Book(driver, site)
        book.click(book.one("#train"))
        book.wait("no WebAssembly")
        assert book.one("#layers").is_displayed()
    finally:
        driver.quit()


def test_without_pyodide_it_says_where_it_looked(browser, tmp_path):
    page = tmp_path / "book.html"
    page.write_text(render({}, "nowhere/"), "utf-8")
    book = Book(browser, page.as_uri())
    book.click(book.one("#train"))
    book.wait("could not be loaded from .*nowhere/")


# ------------------------------------------------------------------------------------------ running


@NEEDS_PYODIDE
def test_it_trains_as_the_command_line_does(browser, site, tmp_path, capsys):
    book = Book(browser, site)
    book.train(200)
    book.wait("200 of 200 steps")
    said = book.wait(r"step 200: loss (\S+), validation loss (\S+);").groups()
    out = tmp_path / "m.safetensors"
    assert main(["train", "--steps", "200", "-o", str(out), "--quiet"]) == 0
    last = read_metrics(tmp_path / "m.metrics.jsonl")[-1]
    assert said == (f"{last['train_loss']:.3f}", f"{last['val_loss']:.3f}")
    book.wait("language models .", "#sample")
    assert book.one("#sample").get_attribute("textContent") + "\n" == capsys.readouterr().out
    assert book.all("#curve svg .curve.val")
    assert browser.get_log("browser") == []


@NEEDS_PYODIDE
def test_it_stops_and_goes_on(browser, site):
    book = Book(browser, site)
    book.train(150)
    at_once = book.wait("step 150: loss .*validation loss [^;]*")[0]
    book.train(150)
    book.wait(r"\b\d\d of 150 steps")
    book.click(book.one("#stop"))
    until(lambda: book.one("#go-on").is_enabled())
    assert "150 of 150" not in book.text("#state")
    book.click(book.one("#go-on"))
    assert book.wait("step 150: loss .*validation loss [^;]*")[0] == at_once


@NEEDS_PYODIDE
def test_a_model_goes_to_the_command_line_and_comes_back(
    browser, site, downloads, tmp_path, capsys
):
    book = Book(browser, site)
    book.train(20, "attention")
    book.wait("20 of 20 steps")
    book.wait(".", "#sample")
    book.click(book.one("#save"))
    kept = downloads / "book.safetensors"
    until(kept.exists)
    assert load_run(kept).step == 20
    assert main(["generate", "-c", str(kept), "--quiet", "--temperature", "0.7"]) == 0
    written = capsys.readouterr().out
    assert book.one("#sample").get_attribute("textContent") + "\n" == written
    book = Book(browser, site)
    book.one("#open").send_keys(str(kept))
    book.wait("is open, at step 20 of 20")
    book.click(book.one("#write"))
    book.wait(".", "#sample")
    assert book.one("#sample").get_attribute("textContent") + "\n" == written
    (tmp_path / "no.safetensors").write_bytes(b"\xff" * 100)
    book.one("#open").send_keys(str(tmp_path / "no.safetensors"))
    book.wait("is damaged")
    kept.unlink()


@NEEDS_PYODIDE
def test_attention_is_drawn(browser, site):
    book = Book(browser, site)
    book.train(3, "attention")
    book.wait("3 of 3 steps")
    book.wait(".", "#sample")
    book.click(book.one("#look"))
    until(lambda: book.all("#frame .cell"))
    assert book.one("#ranking").is_displayed()


@NEEDS_PYODIDE
def test_a_task_says_what_is_right(browser, site):
    book = Book(browser, site)
    book.train(5, "attention", "task:place")
    book.wait("of the held-out cases right")


@NEEDS_PYODIDE
def test_a_pasted_text_is_only_text(browser, site):
    book = Book(browser, site)
    book.train(4, text="own", own=OWN)
    book.wait("4 of 4 steps")
    book.choose("#prompt", OWN[:30])
    book.click(book.one("#write"))
    book.wait("title = 'x'</", "#sample")
    assert browser.title == "tiny_llm: the book"
    assert book.one("#sample").get_attribute("textContent").startswith(OWN[:30])
    book.train(4, text="own", own="")
    book.wait("too|empty|longer")


@NEEDS_PYODIDE
def test_any_command_runs(browser, site):
    book = Book(browser, site)
    book.command("gradcheck --model mlp")
    book.wait("gradcheck --model mlp: done")
    assert "all 343 slopes agree" in book.text("#printed")
    book.command("train --steps nine 'unfinished")
    book.wait("exit code 2")


@NEEDS_PYODIDE
def test_a_reload_begins_anew(browser, site):
    book = Book(browser, site)
    book.train(100_000)
    book.wait("batch loss")
    browser.refresh()
    assert book.text("#state") == ""
    book.train(3)
    book.wait("3 of 3 steps")


RELU = """
def relu(x):
    return [[max(0.0, value) for value in row] for row in x]


def relu_backward(dy, y):
    return [[d if value > 0 else 0.0 for d, value in zip(*rows)] for rows in zip(dy, y)]


class MLPCache("""


@NEEDS_PYODIDE
def test_a_chapter_is_changed_checked_and_reset(browser, site):
    book = Book(browser, site)
    book.edit("mlp_lm", "layers.tanh", "relu")
    book.edit("mlp_lm", "\nclass MLPCache(", RELU)
    book.check("mlp_lm", "gradcheck: every slope agrees;")
    book.edit("mlp_lm", "d if value > 0 else 0.0", "d")
    book.check("mlp_lm", "wrong slopes of embedding.weight, hidden.weight, hidden.bias;")
    assert "WRONG" in book.text('[data-chapter="mlp_lm"] .printed')
    book.edit("mlp_lm", "return inputs", "return inputs +")
    book.check("mlp_lm", r"mlp_lm\.py, line \d+: SyntaxError")
    book.press_button("mlp_lm", "Reset")
    book.wait("original again", '[data-chapter="mlp_lm"] [role=status]')
    assert "relu" not in book.source("mlp_lm")
    book.check("mlp_lm", "every slope agrees; the tests of the chapter pass")


@NEEDS_PYODIDE
def test_the_tests_of_a_chapter_notice_what_slopes_do_not(browser, site):
    book = Book(browser, site)
    book.edit("sampling", "(self.temperature or 1)", "1")
    book.check("sampling", "every slope agrees; tests of the chapter fail")


@NEEDS_PYODIDE
def test_a_link_carries_a_change_that_runs_only_when_it_is_taken(browser, site):
    book = Book(browser, site)
    book.edit("layers", "* (1 - value * value)", "* (1 + value * value)")
    link = book.one('[data-chapter="layers"] a').get_attribute("href")
    book = Book(browser, link)
    assert "-    return [[d * (1 - value * value)" in book.text("#change-text")
    assert "layers.py" in book.text("#change-about")
    assert not book.all("textarea.editor")
    book.click(book.one("#change-leave"))
    assert not book.one("#change-note").is_displayed() and not book.all("textarea.editor")
    book = Book(browser, link)
    book.click(book.one("#change-take"))
    book.wait("The change is in its place")
    assert "1 + value * value" in book.source("layers")
    book.check("layers", "wrong slopes of embedding.weight, hidden.weight, hidden.bias")


@NEEDS_PYODIDE
def test_a_link_to_another_version_says_so(browser, site):
    diff = "--- a/tiny_llm/layers.py\n+++ b/tiny_llm/layers.py\n@@ -1,1 +1,1 @@\n-gone\n+here\n"
    book = Book(browser, f"{site}#change={quote(diff)}")
    assert "another version" in book.text("#state")


@NEEDS_PYODIDE
def test_what_never_ends_is_ended(browser, site):
    book = Book(browser, site)
    book.edit("layers", "    highest = max(scores)\n", "    while True: pass\n")
    book.press_button("layers", "Check it")
    book.wait("is ready")
    book.press_button("layers", "End what runs")
    book.wait("Python was ended", '[data-chapter="layers"] [role=status]')
    book.press_button("layers", "Reset")
    book.check("layers", "every slope agrees; the tests of the chapter pass")


@NEEDS_PYODIDE
def test_training_takes_the_chapters_as_they_stand(browser, site):
    book = Book(browser, site)
    book.train(10)
    before = book.wait("step 10: loss (.*?);")[1]
    book.edit("layers", "d * (1 - value * value)", "0.5 * d")
    book.train(10)
    book.wait("Beginning")
    assert book.wait("step 10: loss (.*?);")[1] != before
    book.edit("layers", "0.5 * d", "0.5 * * d")
    book.train(10)
    book.wait(r"layers\.py, line \d+: SyntaxError")
    assert not book.one("#run").is_displayed()
    book.press_button("layers", "Reset")
    book.press_button("layers", "Train with it")
    assert book.wait("step 10: loss (.*?);")[1] == before


@NEEDS_PYODIDE
def test_what_runs_is_ended_beside_the_run(browser, site):
    book = Book(browser, site)
    book.command("train --steps 1000000")
    book.wait("running")
    book.wait("first loss", "#printed")
    book.click(book.one("#end"))
    book.wait("Python was ended")
    book.train(2)
    book.wait("2 of 2 steps")


@NEEDS_PYODIDE
def test_a_run_that_diverged_does_not_go_on(browser, site):
    book = Book(browser, site)
    book.choose("#rate", "1e300")
    book.train(5)
    book.wait("loss of|gradient of")
    assert not book.one("#go-on").is_enabled()


def test_what_was_changed_outlives_a_reload(browser, site):
    book = Book(browser, site)
    book.edit("training", "step + 1", "step + 2")
    browser.refresh()
    assert "loaded again carries a change to training.py" in book.text("#change-about")
    book.click(book.one("#change-take"))
    assert "step + 2" in book.source("training")
    book.press_button("training", "Reset")
    browser.refresh()
    assert not book.one("#change-note").is_displayed()


def test_what_turns_a_text_around_is_seen(browser, site):
    diff = (
        "--- a/tiny_llm/matmul.py\n+++ b/tiny_llm/matmul.py\n@@ -1,1 +1,1 @@\n"
        " class PlainLoops:\n+    # \u202e<b>evil</b>\n"
    )
    book = Book(browser, f"{site}#change={quote(diff)}")
    assert "\\u202e<b>evil</b>" in book.text("#change-text")
    assert not book.all("#change-text b")
    book.click(book.one("#change-leave"))
    assert "#" not in browser.current_url


PATCHES = Path(__file__).parents[1] / "patches"


@NEEDS_PYODIDE
@pytest.mark.parametrize(
    "name, chapter",
    [("relu", "mlp_lm"), ("distance_bias", "attention_lm"), ("rms_norm", "modern_block")],
)
def test_the_change_of_a_rung_comes_by_a_link(browser, site, name, chapter):
    patch = (PATCHES / f"{name}.patch").read_text("utf-8")
    book = Book(browser, f"{site}#change={quote(patch)}")
    book.click(book.one("#change-take"))
    book.wait("in its place")
    book.check(chapter, "gradcheck: every slope agrees;")


TRIED = [  # chapter, what stands there, what to try
    ("tokenizer", "sorted(set(text))", "sorted(set(text), reverse=True)"),
    ("batches", "return text[:boundary], text[boundary:]",
     "return text[-boundary:], text[:-boundary]"),
    ("model", "rng.gauss(mean, std)", "std"),
    ("training", "        optimizer.update(model.parameters, gradients)\n",
     "        optimizer.update(model.parameters, gradients)\n" * 2),
    ("matmul", "in zip(a, b)", "in zip(reversed(a), reversed(b))"),
    ("gradcheck", "STEP = 1e-5", "STEP = 1.0"),
]  # fmt: skip


@NEEDS_PYODIDE
def test_what_the_other_chapters_say_to_try_can_be_tried(browser, site):
    book = Book(browser, site)

    def trained():
        book.train(20)
        book.wait("Beginning")
        return book.wait("step 20: loss .*, validation loss (.*?);")[1]

    told, original = {}, trained()
    for chapter, old, new in TRIED:
        book.edit(chapter, old, new)
        if chapter == "gradcheck":
            told[chapter] = book.check(chapter, "wrong slopes of embedding.weight")
        elif chapter == "matmul":
            book.command("train --matmul loops --steps 2 -n 0")
            book.wait("done")
            assert "step 2/2" in book.text("#printed")
        else:
            told[chapter] = trained()
        book.press_button(chapter, "Reset")
    assert all(told[chapter] != original for chapter, *_ in TRIED if chapter in told)
    book.choose("#rate", "30")
    assert float(trained()) > 3.7
    book.choose("#rate", "")
    assert trained() == original
