"""The report in a real browser: Chromium without a network, driven by its pointer and its keyboard.

Needs selenium (the `browser` extra), chromium and chromedriver. The accessibility tests need
axe-core from the npm registry, too: AXE_CORE names its axe.min.js.
"""

import pytest

from tiny_llm.cli import main
from tiny_llm.run.saved import load_run
from tiny_llm.view.report.facts import read_passage

pytest.importorskip("selenium", reason="selenium is not installed: .[browser]")

from browsing import NEEDED, NEEDS_AXE, Page, browser_of, serious, show_as
from selenium.webdriver.common.keys import Keys

pytestmark = NEEDED

SCRIPT = "<script>alert(1)</script>"
WORLD = "\U0001f600 שלום \U0001f9d1\u200d\U0001f680 مرحبا é"
TEXT = "the cat sat on the mat. the dog sat on the log.\n" * 4 + f"{SCRIPT}\n{WORLD}\n" * 4
PROMPT = "the cat sat on"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """rung -> a checkpoint of it, hardly trained; their text holds whatever a page may show."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    sizes = {"mlp": [], "attention": [], "modern": ["--n-layers", "2", "--context-length", "32"]}
    found = {}
    for rung, flags in sizes.items():
        found[rung] = folder / f"{rung}.safetensors"
        words = ["train", "--model", rung, "--data", str(text), "-o", str(found[rung])]
        assert main([*words, "--steps", "40", "-n", "0", "--quiet", *flags]) == 0
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    driver = browser_of(tmp_path_factory.mktemp("profile"), "--host-resolver-rules=MAP * ~NOTFOUND")
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()


class Opened(Page):
    """A report in the browser."""

    def __init__(self, browser, path, checkpoint):
        super().__init__(browser)
        self.path = path
        run = load_run(checkpoint)
        self.encode, self.run = run.tokenizer.encode, run

    def reading(self, prompt):
        """What the model itself makes of the prompt."""
        return read_passage(self.run.model, self.run.tokenizer, self.encode(prompt))


@pytest.fixture
def open_report(browser, checkpoints, tmp_path):
    """A function: (rung, flags) -> the report, open in a window of a usual size."""

    def opened(rung="modern", *flags, width=1100, scheme="light"):
        path = tmp_path / f"{rung}.html"
        words = ["report", str(checkpoints[rung]), "-o", str(path), "-n", "20", "--quiet", *flags]
        assert main(words) == 0
        show_as(browser, width, scheme)
        browser.get(path.as_uri())
        return Opened(browser, path, checkpoints[rung])

    return opened


@pytest.mark.parametrize("rung", ["mlp", "attention", "modern"])
def test_it_opens_from_a_file_without_a_word_on_the_console(open_report, browser, rung):
    page = open_report(rung)
    assert browser.current_url.startswith("file://")
    assert page.text("h1") == f"{rung}.safetensors"
    assert page.all("#frame svg") != [] or rung == "mlp"
    asked = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [name for name in asked if not name.startswith("data:")] == []
    assert browser.get_log("browser") == []


def test_the_policy_of_the_page_lets_nothing_in(open_report, browser):
    open_report()
    browser.execute_async_script(
        "const done = arguments[0], image = new Image();"
        "image.onerror = image.onload = () => done();"
        "image.src = 'https://example.org/a.png';"
    )
    (entry,) = browser.get_log("browser")
    assert "Content Security Policy" in entry["message"]


# ---------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("rung", ["attention", "modern"])
def test_pointing_at_a_cell_shows_the_weight_of_the_model(open_report, rung):
    page = open_report(rung, "--prompt", PROMPT)
    maps = page.reading(PROMPT).attention
    for row, column in ((0, 0), (5, 3), (9, 9), (13, 7)):
        query, first = maps.rows[row]
        weight = maps.layers[0][0][row][column - first]
        page.point_at(page.cell(row, column))
        said = page.text("#cell")
        assert said.startswith(f"{weight:.3f}: layer 1, head 1")
        label = PROMPT[query].replace(" ", "·")
        assert (
            f"{label} at {query} reads from {PROMPT[column].replace(' ', '·')} at {column}" in said
        )


def test_the_keys_of_a_row_are_ranked(open_report):
    page = open_report("modern", "--prompt", PROMPT)
    weights = page.reading(PROMPT).attention.layers[0][0][13]
    page.point_at(page.cell(13, 2))
    shown = [item.text.split()[-1] for item in page.all("#ranking li")]
    assert shown == [f"{w:.3f}" for w in sorted(weights, reverse=True)[:8]]


def test_a_click_locks_a_row_and_another_releases_it(open_report):
    page = open_report("modern", "--prompt", PROMPT)
    weights = page.reading(PROMPT).attention.layers[0][0]
    page.click(page.cell(9, 4))
    assert page.text("#lock") == "Locked on the row of a at 9."
    page.point_at(page.cell(12, 2))  # another row: the locked one stays, the column follows
    assert page.text("#cell").startswith(f"{weights[9][2]:.3f}: ")
    assert "a at 9 reads from e at 2, 7 back" in page.text("#cell")
    assert page.one("#frame [role=row][aria-selected=true]") is not None
    page.click(page.cell(9, 1))
    assert page.text("#lock") == ""
    page.point_at(page.cell(12, 2))
    assert page.text("#cell").startswith(f"{weights[12][2]:.3f}: ")
    page.click(page.cell(5, 5))
    page.click(page.cell(6, 6))  # a lock moves to the row that is clicked
    assert page.text("#lock") == "Locked on the row of t at 6."


def test_the_choice_of_a_head_switches_the_map(open_report):
    page = open_report("modern", "--prompt", PROMPT)
    layers = page.reading(PROMPT).attention.layers
    choices = page.all("#heads input")
    assert len(choices) == sum(map(len, layers)) == 8
    page.click(page.cell(13, 5))
    seen = set()
    for number, choice in enumerate(choices):
        layer, head = divmod(number, 4)
        page.click(choice)
        assert choice.is_selected()
        expected = f"{layers[layer][head][13][5]:.3f}: layer {layer + 1}, head {head + 1}"
        assert page.text("#cell").startswith(expected)
        seen.add(page.one("#frame .weights").get_attribute("d"))
        assert f"layer {layer + 1}, head {head + 1}" in page.one("#frame svg").get_attribute(
            "aria-label"
        )
    assert len(seen) == 8


def test_rung_2_has_one_head_and_no_choice(open_report):
    page = open_report("attention")
    assert not page.one("#heads").is_displayed()
    assert page.one("#frame svg").is_displayed()


# -------------------------------------------------------------------------------------- the passage


def test_pointing_at_a_token_shows_how_it_surprised_the_model(open_report):
    page = open_report("modern", "--prompt", PROMPT)
    predictions = page.reading(PROMPT).predictions
    tokens = page.all("#passage [role=option]")
    assert "".join(token.text for token in tokens) == PROMPT.replace(" ", "·") + "?"
    for place in (1, 6, 13):
        page.point_at(tokens[place])
        said = page.text("#surprise")
        prediction = predictions[place - 1]
        assert f"{prediction.nats:.3f} nats" in said
        assert f"number {prediction.rank} of its guesses" in said
        assert len(page.all("#surprise li")) == 5
        assert f"{100 * prediction.likeliest[0].probability:.1f}%" in said
    page.click(tokens[6])
    page.point_at(tokens[1])
    assert f"{predictions[5].nats:.3f} nats" in page.text("#surprise")  # kept
    assert tokens[6].get_attribute("aria-selected") == "true"


def test_the_bars_grow_with_the_surprise(open_report, browser):
    page = open_report("modern", "--prompt", PROMPT)
    predictions = page.reading(PROMPT).predictions
    heights = browser.execute_script(
        "return [...document.querySelectorAll('#passage .token')]"
        ".map((token) => parseFloat(getComputedStyle(token).borderBottomWidth))"
    )[1:-1]
    assert heights == [min(34, round(5 * p.nats)) for p in predictions]
    assert len(set(heights)) > 3


# ------------------------------------------------------------------------------------- the keyboard


def stops(page, most=60):
    """What Tab comes to, one after the other."""
    found = []
    for _ in range(most):
        page.press(Keys.TAB)
        element = page.focused
        if element.tag_name == "body" or (found and element == found[0]):
            return found
        found.append(element)
    raise AssertionError("Tab never comes back")


def kind(element):
    for name in ("role", "type"):
        if element.get_attribute(name):
            return element.get_attribute(name)
    return element.tag_name


@pytest.mark.parametrize("rung", ["mlp", "attention", "modern"])
def test_tab_comes_to_every_control_once(open_report, rung):
    page = open_report(rung, "--prompt", PROMPT)
    found = [kind(element) for element in stops(page)]
    once = {"option": 1, "summary": 2, "a": 7}
    if rung != "mlp":
        once["gridcell"] = 1
    if rung == "modern":
        once["radio"] = 1
    for name, count in once.items():
        assert found.count(name) == count, (name, found)


def test_the_map_from_the_keyboard(open_report):
    page = open_report("modern", "--prompt", PROMPT)
    layers = page.reading(PROMPT).attention.layers
    found = stops(page)
    radio = next(element for element in found if kind(element) == "radio")
    radio.send_keys(Keys.ARROW_RIGHT)
    assert "head 2" in page.text("#cell")
    weights = layers[0][1]
    cell = next(element for element in found if kind(element) == "gridcell")
    cell.send_keys(Keys.HOME)
    assert page.text("#cell").startswith(f"{weights[13][0]:.3f}: ")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert page.text("#cell").startswith(f"{weights[12][2]:.3f}: ")
    assert (
        page.focused.get_attribute("aria-label")
        == f"o at 12 reads {weights[12][2]:.3f} from e at 2"
    )
    page.press(Keys.ENTER)
    assert page.text("#lock") == "Locked on the row of o at 12."
    page.press(Keys.ARROW_UP, Keys.END)
    assert page.text("#cell").startswith(f"{weights[12][12]:.3f}: ")  # the row is locked
    page.press(Keys.ESCAPE)
    assert page.text("#lock") == ""
    page.press(Keys.ARROW_UP)
    assert page.text("#cell").startswith(f"{weights[11][11]:.3f}: ")
    page.press(*[Keys.ARROW_UP] * 20, *[Keys.ARROW_LEFT] * 20)
    assert page.text("#cell").startswith("1.000: ")  # at the first token, and not beyond it


def test_the_passage_from_the_keyboard(open_report):
    page = open_report("modern", "--prompt", PROMPT)
    predictions = page.reading(PROMPT).predictions
    option = next(element for element in stops(page) if kind(element) == "option")
    option.send_keys(Keys.HOME)
    assert "nothing stands before it" in page.text("#surprise")
    page.press(Keys.ARROW_RIGHT)
    assert f"{predictions[0].nats:.3f} nats" in page.text("#surprise")
    page.press(Keys.ENTER, Keys.ARROW_RIGHT)
    assert f"{predictions[0].nats:.3f} nats" in page.text("#surprise")  # kept
    page.press(Keys.ESCAPE, Keys.END)
    assert "What it expects after" in page.text("#surprise")
    assert page.focused.text == "?"


# -------------------------------------------------------------------------------- whatever it holds


@pytest.mark.parametrize("rung", ["mlp", "modern"])
@pytest.mark.parametrize("prompt", [SCRIPT, WORLD])
def test_any_text_is_shown_as_text(open_report, browser, rung, prompt):
    page = open_report(rung, "--prompt", prompt)
    samples = page.all(".sample")
    assert len(samples) == 3
    for sample in samples:
        assert sample.get_property("textContent").startswith(prompt)
    assert page.all("#passage script, .sample script, #surprise script") == []
    assert len(page.all("script")) == 2
    for token in page.all("#passage [role=option]"):
        page.point_at(token)
    for sign in set(prompt) - set(" \u200d"):
        assert sign in page.text("#passage")
    assert browser.get_log("browser") == []


# ----------------------------------------------------------------------------- small, dark, printed


@pytest.mark.parametrize("rung", ["mlp", "attention", "modern"])
def test_a_phone_does_not_scroll_sideways(open_report, browser, rung):
    page = open_report(rung, width=360)
    for details in page.all("details"):
        browser.execute_script("arguments[0].open = true", details)
    assert browser.execute_script("return innerWidth") == 360
    root = "return document.documentElement"
    widths = [browser.execute_script(f"{root}.{name}Width") for name in ("scroll", "client")]
    assert widths[0] == widths[1] <= 360


def test_a_long_map_scrolls_in_a_box_of_its_own(open_report, browser):
    page = open_report("modern", width=360)
    frame = page.one("#frame")
    assert frame.get_property("scrollWidth") > frame.get_property("clientWidth")
    assert frame.get_property("clientWidth") <= 360
    last = page.all("#frame .cell")[-1]
    page.point_at(last)
    assert "itself" in page.text("#cell")


def test_it_follows_the_light_and_the_dark_scheme(open_report, browser):
    colours = []
    for scheme in ("light", "dark"):
        open_report("modern", scheme=scheme)
        colours.append(
            browser.execute_script(
                "const style = getComputedStyle(document.body);"
                "return [style.backgroundColor, style.color]"
            )
        )
    (light_paper, light_text), (dark_paper, dark_text) = colours
    brightness = [
        sum(map(int, c[4:-1].split(","))) for c in (light_paper, light_text, dark_paper, dark_text)
    ]
    assert brightness[0] > brightness[1] and brightness[2] < brightness[3]


def test_it_prints_on_light_paper_without_its_navigation(open_report, browser):
    page = open_report("modern", scheme="dark")
    feature = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [feature]})
    try:
        paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"
        assert not page.one("nav").is_displayed()
        pdf = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
        assert pdf.startswith("JVBERi0")  # %PDF-
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


# ------------------------------------------------------------------------------------ accessibility


@NEEDS_AXE
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("rung", ["mlp", "attention", "modern"])
def test_axe_finds_no_serious_violation(open_report, browser, rung, scheme):
    page = open_report(rung, scheme=scheme)
    for details in page.all("details"):
        browser.execute_script("arguments[0].open = true", details)
    if rung != "mlp":
        page.click(page.cell(3, 1))
    page.click(page.all("#passage [role=option]")[3])
    assert serious(browser) == []
