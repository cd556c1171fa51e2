"""The page of a served model in a real browser: to talk, to stop, to branch, to look inside."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from answering import TOKENIZER, WHO, base, taught
from conftest import mlp

from tiny_llm.run.saved import Run, save_run
from tiny_llm.tokenizer import CharTokenizer
from tiny_llm.view.report.facts import read_passage

pytest.importorskip("selenium", reason="selenium is not installed: .[browser]")

from browsing import NEEDED, NEEDS_AXE, Page, browser_of, serious, show_as
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = NEEDED
ROOT = Path(__file__).parents[2]
TOKENS = "#passage [role=option]"
SCRIPT = "<script>document.title = 'broken'</script>"


@pytest.fixture(scope="module")
def run():
    return taught("the cat.", context_length=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("served")
    save_run(folder / "talks", run)
    first = base(mlp())
    letters = CharTokenizer("abcdefghij"[: first.model.config.vocab_size])
    save_run(folder / "mlp", Run(first.rung, first.model, letters, first.optimizer, first.options))
    return folder


class Served:
    """A server that runs by itself."""

    def __init__(self, folder, *flags):
        words = [sys.executable, "-m", "tiny_llm", "serve", "--port", "0", *flags]
        self.process = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        found = None
        while not found:
            line = self.process.stderr.readline()
            assert line, "it ended"
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
        self.address = found[0]

    def close(self):
        self.process.kill()
        self.process.stderr.close()
        self.process.wait()


@pytest.fixture(scope="module")
def server(folder):
    server = Served(folder, "-c", "talks")
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = browser_of(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


class Talk(Page):
    """The page of a server."""

    def wait_for(self, condition):
        return WebDriverWait(self.browser, 30).until(lambda _: condition())

    def ends(self, *how):
        """Wait until the status says one of these."""
        self.wait_for(lambda: self.text("#status").startswith(how))

    def send(self, text):
        self.one("#text").send_keys(text, Keys.ENTER)

    def set(self, **fields):
        self.browser.execute_script("arguments[0].open = true", self.one("#settings"))
        for name, value in fields.items():
            field = self.one(f"#{name}")
            field.clear()
            field.send_keys(str(value))

    @property
    def tokens(self):
        return [token.text for token in self.all(TOKENS)]


@pytest.fixture
def open_page(browser, server):
    def opened(served=server, width=1100, scheme="light"):
        show_as(browser, width, scheme)
        browser.get(served.address)
        return Talk(browser)

    return opened


def test_a_question_is_answered_token_by_token(open_page, browser, server):
    page = open_page()
    page.set(temperature=0)
    page.send(WHO[0])
    page.ends("It has ended")
    assert [turn.text for turn in page.all(".said")] == [f"you\n{WHO[0]}", "model\nthe cat."]
    ids = [int(i) for i in re.findall(r"\d+", page.one("#prompt-ids").get_attribute("textContent"))]
    assert ids[1 : 1 + len(TOKENIZER.encode(WHO[0]))] == TOKENIZER.encode(WHO[0])
    written = page.tokens[len(ids) :]
    assert "".join(written) == "the·cat.<|end|>"
    assert "taken" in page.text("#surprise")  # of the last token, and the likeliest was
    page.send(WHO[1])  # the conversation goes on
    page.wait_for(lambda: len(page.all(".said")) == 4)
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [name for name in asked if not name.startswith((server.address, "data:"))] == []
    assert browser.get_log("browser") == []


def test_a_script_in_a_message_is_text(open_page, browser):
    page = open_page()
    page.send(SCRIPT)
    page.wait_for(lambda: len(page.all(".said")) == 2)
    assert page.all(".said")[0].text == f"you\n{SCRIPT}"
    assert "broken" not in browser.title and page.all("#log script, #passage script") == []


def test_another_token_is_taken_by_the_keyboard_alone(open_page):
    page = open_page()
    page.set(temperature=0)
    page.one("#text").click()
    page.press(WHO[0], Keys.ENTER)
    page.ends("It has ended")
    before = page.tokens
    given = len(page.all(".token.given"))
    for _ in range(30):  # forward to the one token that Tab can reach
        page.press(Keys.TAB)
        if page.focused.get_attribute("role") == "option":
            break
    page.press(Keys.HOME, *[Keys.ARROW_RIGHT] * given)
    assert page.focused.text == before[given]
    page.press(Keys.TAB)
    name = page.focused.get_attribute("aria-label")
    other = re.fullmatch("Take (.+) instead", name)[1]
    page.press(Keys.ENTER)
    page.wait_for(lambda: page.tokens[: given + 1] == [*before[:given], other])
    page.ends("It has ended", "It stops", "The prompt")
    page.wait_for(page.one("#back").is_enabled)
    page.click(page.one("#back"))
    assert page.tokens == before


def test_what_is_written_can_be_stopped_and_go_on(open_page, folder):
    server = Served(folder, "-c", "mlp")  # which never ends by itself
    try:
        page = open_page(server)
        page.set(max_tokens=10**6)
        page.send("abc")
        page.wait_for(lambda: len(page.all(TOKENS)) > 20)
        page.press(Keys.ESCAPE)
        page.ends("Stopped")
        count = len(page.all(TOKENS))
        page.set(max_tokens=3)
        page.click(page.one("#more"))
        page.ends("It stops")
        assert len(page.all(TOKENS)) == count + 3
    finally:
        server.close()


def test_the_maps_are_those_of_the_model(open_page, run):
    page = open_page()
    page.one("[value=text]").click()
    page.set(max_tokens=2, temperature=0)
    page.send("the cat sleeps?")
    page.ends("It stops", "It has ended")
    page.click(page.one("#look"))
    page.wait_for(lambda: page.all("#frame svg"))
    ids = run.tokenizer.encode("the cat sleeps?")
    heads = read_passage(run.model, run.tokenizer, ids).attention.layers[0]
    for head in (0, 1):
        page.browser.execute_script("arguments[0].click()", page.one(f'#heads [value="0.{head}"]'))
        page.point_at(page.cell(2, 1))
        assert page.text("#cell").startswith(f"{heads[head][2][1]:.3f}: layer 1, head {head + 1}")


def test_a_server_that_is_killed_is_told_in_one_line(open_page, folder):
    server = Served(folder, "-c", "mlp")
    try:
        page = open_page(server)
        page.set(max_tokens=10**6)
        page.send("abc")
        page.wait_for(lambda: len(page.all(TOKENS)) > 5)
        server.process.send_signal(signal.SIGKILL)
        page.ends("The connection was lost")
        assert len(page.all(TOKENS)) > 5
        page.send("d")
        page.ends("The server cannot be reached")
    finally:
        server.close()


def test_a_model_without_attention_says_so_and_a_foreign_character_is_named(open_page, folder):
    server = Served(folder, "-c", "mlp", "--api-key", "secret")
    try:
        page = open_page(server)
        assert "no attention" in page.text("#attention") and not page.all("#look")
        assert not page.one("#modes").is_displayed()
        page.send("ab")
        page.ends("the API key is missing")
        page.one("#key").send_keys("secret")
        page.send("z")
        page.wait_for(lambda: "z" in page.text("#status"))
        page.one("#text").clear()
        page.send("ab")
        page.ends("It stops")
        assert len(page.all(TOKENS)) == 62
    finally:
        server.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(open_page, browser, scheme):
    page = open_page(width=360, scheme=scheme)
    page.send(WHO[0])
    page.wait_for(lambda: len(page.all(".said")) == 2 and page.one("#look").is_enabled())
    page.click(page.one("#look"))
    page.wait_for(lambda: page.all("#frame svg"))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360


@NEEDS_AXE
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(open_page, browser, scheme):
    page = open_page(scheme=scheme)
    page.set(temperature=0)
    page.send(WHO[0])
    page.ends("It has ended")
    page.click(page.one("#look"))
    page.wait_for(lambda: page.all("#frame svg"))
    for details in page.all("details"):
        browser.execute_script("arguments[0].open = true", details)
    page.click(page.all(TOKENS)[-1])
    assert serious(browser) == []


def test_enter_twice_writes_one_text(open_page):
    page = open_page()
    page.one("[value=text]").click()
    page.set(max_tokens=12, temperature=0)
    page.one("#text").send_keys("the cat", Keys.ENTER, Keys.ENTER, Keys.ENTER)
    page.ends("It stops", "It has ended")
    once = page.tokens
    page.one("#text").send_keys(Keys.ENTER)
    page.wait_for(lambda: not page.one("#stop").is_enabled())
    page.ends("It stops", "It has ended")
    assert page.tokens == once and len(once) <= 20


def test_while_it_writes_the_mode_stays(open_page, browser):
    page = open_page()
    page.one("[value=text]").click()
    states = browser.execute_async_script("""
        const done = arguments[0], states = [];
        document.getElementById("text").value = "the cat";
        const modes = document.getElementById("modes");
        const told = new MutationObserver(() => states.push(modes.disabled));
        told.observe(document.getElementById("passage"), { childList: true });
        send().then(() => done([states, modes.disabled]));
    """)
    assert states[0] and all(states[0]) and states[1] is False


def test_what_is_refused_can_be_put_right(open_page):
    page = open_page()
    page.set(temperature=-1)
    page.send(WHO[0])
    page.ends("temperature must be")
    assert page.one("#text").get_attribute("value") == WHO[0] and page.all(".said") == []
    page.set(temperature=0)
    page.click(page.one("#send"))
    page.ends("It has ended")
    assert len(page.all(".said")) == 2


def test_a_conversation_that_fills_the_window_is_not_cut_in_silence(open_page):
    page = open_page()
    page.set(temperature=0)
    page.send("who? " * 40)
    page.ends("It has ")
    assert "64 at most" in page.text("#status")
    page.one("#text").clear()
    page.send(WHO[0])
    page.ends("It has ended")
    for _ in range(10):
        page.send(WHO[0])
        page.wait_for(lambda: not page.one("#stop").is_enabled())
        if "at most" in page.text("#status") or "fills" in page.text("#status"):
            break
    assert "Begin anew" in page.text("#status")
    page.click(page.one("#clear"))
    page.one("#text").clear()
    page.send(WHO[0])
    page.ends("It has ended")
    assert len(page.all(".said")) == 2


def test_a_token_that_ends_a_text_ends_it(open_page, browser, run):
    page = open_page()
    page.set(temperature=0)
    page.send(WHO[0])
    page.ends("It has ended")
    given, (end,) = len(page.all(".token.given")), run.chat.ends
    browser.execute_script(
        f"branch({given}, {{ id: {end}, text: 'END', bytes: [], probability: 0.5 }})"
    )
    page.wait_for(lambda: page.tokens[-1] == "END")
    page.ends("It has ended")
    assert len(page.tokens) == given + 1 and page.all(".said")[-1].text.strip() == "model"
