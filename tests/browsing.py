"""Pages in a real browser: Chromium, driven by its pointer and its keyboard."""

import os
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
AXE = os.environ.get("AXE_CORE")
NEEDED = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver here"),
]
NEEDS_AXE = pytest.mark.skipif(
    not AXE, reason="AXE_CORE does not name axe.min.js of the npm package axe-core"
)


def browser_of(profile, *flags):
    """A browser with a profile of its own; `quit` ends it."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    own = ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
    for flag in (*own, *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def show_as(browser, width, scheme):
    """How wide its window is, and whether it is light or dark; what was logged is forgotten."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("browser")


def serious(browser):
    """The violations of accessibility that axe-core finds and calls serious, with their places."""
    browser.execute_script(Path(AXE).read_text("utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    assert len(found["passes"]) > 15
    return [
        (violation["id"], [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


class Page:
    """What is open in the browser."""

    def __init__(self, browser):
        self.browser = browser

    def one(self, selector):
        (element,) = self.all(selector)
        return element

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.one(selector).text

    def cell(self, row, column):
        return self.one(f'#frame .cell[data-row="{row}"][data-column="{column}"]')

    def point_at(self, element):
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.browser).move_to_element(element).perform()

    def click(self, element):
        self.point_at(element)
        ActionChains(self.browser).click().perform()

    def press(self, *keys):
        ActionChains(self.browser).send_keys(*keys).perform()

    @property
    def focused(self):
        return self.browser.switch_to.active_element
