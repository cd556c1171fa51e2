"""How fast Python in a browser is: every way to multiply, and the default runs, beside CPython.

    python3 benchmarks/browser.py PYODIDE         measure, and write the figures into the pages
    python3 benchmarks/browser.py --render        the pages from what was measured

PYODIDE is the folder of the npm package `pyodide`. The same runs go by turns in this Python, in
Pyodide under node, and in the page of the book in Chromium (it needs Selenium). Timed is a run of
STEPS steps by itself, with its validations, without the start of Python.
"""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "view")]

from benchmarks.pages import write  # noqa: E402
from benchmarks.performance import python_name  # noqa: E402
from tiny_llm.fast.bench import time_products  # noqa: E402
from tiny_llm.run.begin import begin, steps_of  # noqa: E402
from tiny_llm.run.sources import read_source  # noqa: E402

RESULTS = ROOT / "benchmarks" / "browser.json"
STEPS = 300
SHAPES = [(4, 64, 64), (16, 256, 96), (64, 64, 64), (256, 64, 256)]
RUNGS = {"mlp": "rung 1", "modern": "rung 3"}
ON_THE_WAY = r"(\d+) of (\d+) steps"
Figures = dict[str, Any]


def seconds_of(rung: str) -> float:
    """The first steps of a rung as it is trained by default, without samples and files."""
    run, material = begin(read_source(None), rung, options={"steps": STEPS})
    began = time.perf_counter()
    for _ in steps_of(run, material):
        pass
    return time.perf_counter() - began


def ways() -> Figures:
    """Nanoseconds of a multiply-add, by shape and way."""
    found = time_products(SHAPES, 0.3, 5.0)
    return {
        name_of(times.shape): {way: round(times.nanoseconds(way), 1) for way in times.seconds}
        for times in found
    }


def name_of(shape: tuple[int, int, int]) -> str:
    """16 x 256 x 96"""
    return " x ".join(map(str, shape))


def here(what: str) -> Any:
    """A measurement in this Python."""
    return ways() if what == "ways" else seconds_of(what)


def in_node(pyodide: Path, what: str) -> Any:
    """The same in Pyodide under node."""
    words = ["node", "benchmarks/pyodide.mjs", str(pyodide), "benchmarks/browser.py", "--one", what]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_chromium(pyodide: Path) -> Figures:
    """The same runs in the page, in seconds, and how long it takes from the click to a step."""
    from test_book_browser import Book, Site, browser_of

    from tiny_llm.view.book.page import render

    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "book.html").write_text(render({}, "pyodide/"), "utf-8")
        (Path(folder) / "pyodide").symlink_to(pyodide.resolve())
        handler = functools.partial(Site, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = browser_of(str(Path(folder) / "profile"))
            try:
                for rung in ("mlp", *RUNGS):  # the first fills the browser's cache
                    book = Book(browser, f"http://127.0.0.1:{server.server_port}/book.html")
                    began = time.perf_counter()
                    book.train(STEPS if figures else 2, rung)
                    book.wait(ON_THE_WAY)
                    ready = time.perf_counter()
                    step = last = None
                    while step is None or step != last:
                        time.sleep(0.2)
                        step, last = book.wait(ON_THE_WAY).groups()
                    figures[rung] = time.perf_counter() - ready
                    figures["ready"] = ready - began
            finally:
                browser.quit()
                server.shutdown()
    return figures


def measured(pyodide: Path) -> Figures:
    """Everything, by turns."""
    results: Figures = {"python": python_name(), "ways": {"here": ways()}}
    results["ways"]["node"] = in_node(pyodide, "ways")
    runs = {name: dict.fromkeys(RUNGS, 0.0) for name in ("here", "node")}
    for rung in RUNGS:
        before = here(rung)
        runs["node"][rung] = in_node(pyodide, rung)
        runs["here"][rung] = (before + here(rung)) / 2
    page = in_chromium(pyodide)
    results["ready"] = round(page.pop("ready"), 1)
    runs["chromium"] = page
    runs["here again"] = {rung: here(rung) for rung in RUNGS}
    results["runs"] = {n: {r: round(s, 1) for r, s in own.items()} for n, own in runs.items()}
    return results


def sections(results: Figures) -> dict[str, str]:
    """The tables of the pages, by name."""
    here_, node = results["ways"]["here"], results["ways"]["node"]
    lines = [
        "| nanoseconds of a multiply-add | " + " | ".join(node) + " |",
        "|---" * (len(node) + 1) + "|",
    ]
    for way in next(iter(node.values())):
        cells = (
            f"{node[shape][way]:.0f} ({here_[shape][way]:.0f})"
            if way in here_[shape]
            else f"{node[shape][way]:.0f}"
            for shape in node
        )
        lines.append(f"| `{way}` | {' | '.join(cells)} |")
    lines.append(f"\nPyodide under node, and in brackets {results['python']} beside it.")
    runs = results["runs"]
    table = [
        f"| {STEPS} steps, seconds | {results['python']} | Pyodide, node | Pyodide, Chromium |",
        "|---|---|---|---|",
    ]
    for rung, name in RUNGS.items():
        beside = {"node": runs["here"][rung], "chromium": runs["here again"][rung]}
        cells = (f"{runs[n][rung]:.0f} ({runs[n][rung] / beside[n]:.1f} ×)" for n in beside)
        both = f"{beside['node']:.0f} and {beside['chromium']:.0f}"
        table.append(f"| {name} | {both} | {' | '.join(cells)} |")
    table.append(
        f"\nFrom the click to the first step, with Pyodide in the browser's cache: "
        f"{results['ready']} seconds."
    )
    return {"browser ways": "\n".join(lines), "browser runs": "\n".join(table)}


def main() -> None:
    """Measure unless told not to, and renew the pages."""
    first, *rest = sys.argv[1:]
    if first == "--one":
        print(json.dumps(here(rest[0])))
        return
    if first != "--render":
        RESULTS.write_text(json.dumps(measured(Path(first)), indent=1) + "\n", encoding="utf-8")
    write(sections(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
