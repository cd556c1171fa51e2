"""The page: the chapters in reading order, and some rooms, each line of their source once.

    sources  --rows, words-->     prose on the left, code on the right  \\
    what ran --for each function--> shapes, first numbers, a drawing     > one page of HTML
    the package as an archive, the scripts that run it in a browser     /

Every line of a file is one element with the id `file-number`, whose text is that line, unchanged.
"""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from tiny_llm.matmul import Matrix
from tiny_llm.view.book.recorded import Key, Ran, Value
from tiny_llm.view.book.source import BOOK, PACKAGE, Line, Row, Source, Word, paragraphs
from tiny_llm.view.report.page import (
    ATTENTION_FRAME,
    LEGEND,
    POLICY,
    head,
    html,
    json_for_script,
    part_of_pages,
)

GENERATOR = "tiny-lm book"  # by which the page is known again
PYODIDE = "https://cdn.jsdelivr.net/pyodide/v314.0.7/full/"
WHEELS = (  # what the tests of a chapter need, as the distribution of Pyodide names them
    "pytest-9.0.2-py3-none-any.whl",
    "iniconfig-2.3.0-py3-none-any.whl",
    "pluggy-1.6.0-py3-none-any.whl",
    "packaging-26.1-py3-none-any.whl",
    "pygments-2.20.0-py3-none-any.whl",
    "sortedcontainers-2.4.0-py2.py3-none-any.whl",
)
HYPOTHESIS = "hypothesis-6.148.13-py3-none-any.whl"  # not in that distribution
PUBLISHED = (
    "https://files.pythonhosted.org/packages/08/c6/"
    "0db1433a008f9a4bb946c7e90be70fe7b761f42439c4a4c7c853002791d2/"
)
ROOMS = {  # the appendix: file -> what it is about
    "text.bpe": "longer tokens: byte-pair encoding",
    "fast.lanes": "many products at once, in one big integer",
    "fast.kv_cache": "the KV cache: no token is computed twice",
    "beyond.llama": "what most open models changed: Llama's parts",
    "beyond.sft": "tuning: a model learns to answer",
    "beyond.dpo": "tuning: a model learns which answer is better",
}
LINES_A_MINUTE = 10  # that a reader understands
WIDE = 78  # characters of a drawing that has no room beside code
CELL = 7  # of a drawing, in pixels
IN_ARCHIVE = {".py", ".txt", ".jsonl", ".css", ".html", ".js"}
TESTS = ("conftest.py", *(f"test_{name}.py" for name in BOOK), "references/adamw.json")
PROSE_NAMES = re.compile(r"`[^`]+`|\b[a-z_]+\.py\b|\b[Cc]hapter (\d|1[0-2])\b")


class Place(NamedTuple):
    """Where the names of all files in sight lead: file -> its source."""

    sources: dict[str, Source]

    def target(self, full: str) -> str:
        """The id of the line that defines "layers.linear", or of a whole file; "" if none does."""
        for name in self.sources:
            if full == name:
                return name
            own = full[len(name) + 1 :]
            if full.startswith(name + ".") and own in self.sources[name].definitions:
                return f"{name}-{self.sources[name].definitions[own]}"
        return ""


def render(ran: Mapping[Key, Ran], pyodide: str = PYODIDE) -> str:
    """The whole page. Equal sources give an equal page."""
    names = [*BOOK, *ROOMS]
    sources = {name: Source(name, _file(name).read_text("utf-8")) for name in names}
    place = Place(sources)
    known = {name: set(source.definitions) for name, source in sources.items()}
    chapters = [_chapter(sources[name], place, known, ran) for name in BOOK]
    rooms = [_chapter(sources[name], place, known, ran) for name in ROOMS]
    css = part_of_pages("page.css") + _part("book.css")
    return Template(_part("book.html")).substitute(
        head=head("tiny_llm: the book", css, _policy(pyodide), GENERATOR),
        contents=_contents(sources),
        chapters="\n".join(chapters),
        rooms="\n".join(rooms),
        attention=ATTENTION_FRAME,
        legend=LEGEND,
        data=json_for_script(
            {
                "pyodide": pyodide,
                "chapters": list(BOOK),
                "wheels": WHEELS,
                "hypothesis": (PUBLISHED if pyodide == PYODIDE else pyodide) + HYPOTHESIS,
            }
        ),
        archive=base64.b64encode(archive()).decode("ascii"),
        worker=_part("worker.js"),
        js=part_of_pages("parts.js") + _part("patch.js") + _part("book.js"),
    )


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _file(name: str) -> Path:
    return PACKAGE / (name.replace(".", "/") + ".py")


def _policy(pyodide: str) -> str:
    """What the page may ask for: nothing but Python itself, and only if the reader wants it."""
    origin = re.match(r"https?://[^/;,\s]+", pyodide)
    where = origin[0] if origin else "'self'"
    return (
        f"{POLICY} 'wasm-unsafe-eval' blob: {where}; worker-src blob:; "
        f"connect-src {where} https://files.pythonhosted.org"
    )


def archive() -> bytes:
    """The package with its text, and the tests of the chapters where they are at hand, as a zip."""
    files = {
        f"tiny_llm/{path.relative_to(PACKAGE).as_posix()}": path
        for path in sorted(PACKAGE.rglob("*"))
        if path.suffix in IN_ARCHIVE
    }
    if "tiny_llm/corpus.txt" not in files:  # a clone, with both beside the package
        files["tiny_llm/corpus.txt"] = PACKAGE.parent / "corpus.txt"
        files.update({f"tests/{name}": PACKAGE.parent / "tests" / name for name in TESTS})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, path in files.items():
            file.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return packed.getvalue()


# ---------------------------------------------------------------------------------------- contents


def _contents(sources: Mapping[str, Source]) -> str:
    """What there is, how long it is, and how long it takes."""
    lines = []
    for name, source in sources.items():
        count = sum(bool(line.text.strip()) for line in source.lines)
        minutes = max(1, round(count / LINES_A_MINUTE))
        about = ROOMS.get(name) or re.sub(r"^CHAPTER \d+\. (RUNG \d: )?", "", source.title)
        about = about[0].upper() + about[1:]
        number = str(BOOK.index(name) + 1) if name in BOOK else ""
        lines.append(
            f'<tr><td>{number}</td><th scope="row"><a href="#{name}"><code>{_path(name)}</code></a>'
            f"</th><td>{html(about)}</td><td>{count}</td><td>{minutes}</td></tr>"
        )
    return "\n".join(lines)


def _path(name: str) -> str:
    return name.replace(".", "/") + ".py"


# ---------------------------------------------------------------------------------------- a chapter


def _chapter(
    source: Source, place: Place, known: dict[str, set[str]], ran: Mapping[Key, Ran]
) -> str:
    """A file as a section."""
    name, words = source.name, source.words(known)
    rows = "\n".join(_row(row, source, place, words, ran) for row in source.rows())
    level = f"Chapter {BOOK.index(name) + 1}: " if name in BOOK else ""
    tools = _TOOLS.format(name=name) if name in BOOK else ""
    return (
        f'<section class="chapter" id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{level}<code>{_path(name)}</code></h2>\n{rows}\n{tools}</section>'
    )


_TOOLS = """<div class="tools" data-chapter="{name}">
<p><button type="button" class="edit">Change this chapter</button></p></div>
"""


def _row(
    row: Row,
    source: Source,
    place: Place,
    words: Mapping[int, list[Word]],
    ran: Mapping[Key, Ran],
) -> str:
    """Prose and code side by side, and what the function that begins here was given."""
    full = [line.number for line in row.code if line.text.strip()]
    told = (_told(ran[source.name, n], place) for n in full if (source.name, n) in ran)
    parts = list(paragraphs(row.prose))
    prose = "".join(_paragraph(*part, source.name, place) for part in parts)
    kind = "row" if full else "row alone"
    if any(len(line.text) > WIDE for is_form, lines in parts if is_form for line in lines):
        kind += " stacked"
    documented = {line.number for line in row.prose}
    code = []
    for line in row.code:
        is_between = full and full[0] < line.number < full[-1]
        is_seen = line.text.strip() or (is_between and line.number - 1 not in documented)
        one = _code(line, source.name, place, words.get(line.number, []))
        code.append(one if is_seen else one.replace("<span ", '<span class="q" ', 1))
    return (
        f'<div class="{kind}"><div class="prose">{prose}{"".join(told)}</div>\n'
        f'<pre class="code">{"".join(code)}</pre></div>'
    )


RULE = re.compile(r"#\s?-{8,}\s?")  # begins a heading
SIGNS = re.compile(r'\s*(?:#\s?(?:-{8,}\s?)?|[rf]?""")?')  # before the prose of a line


def _paragraph(is_form: bool, lines: Sequence[Line], file: str, place: Place) -> str:
    """Lines of prose: as they run on, or one under the other where their form says something."""
    texts = [line.text for line in lines]
    indent = min((len(t) - len(t.lstrip(" #")) for t in texts if t.strip(" #")), default=0)
    parts = []
    for number, text in lines:
        found = SIGNS.match(text)
        begin = min(indent, len(text)) if is_form or not found else found.end()
        end = len(text) - 3 * text[begin:].endswith('"""')
        prose = _quiet(text[:begin]) + _linked(text[begin:end], place) + _quiet(text[end:])
        parts.append(f'<span id="{file}-{number}">{prose}</span>')
    if is_form:
        return (
            f'<pre class="form" tabindex="0" role="group" aria-label="Drawing or formula">'
            f"{''.join(parts)}</pre>"
        )
    tag = "h3" if RULE.match(texts[0]) else "p"
    kind = ' class="try"' * texts[0].startswith("# Try it")
    return f"<{tag}{kind}>" + "\n".join(parts) + f"</{tag}>"


def _quiet(text: str) -> str:
    """What stands in the file and need not be seen: quotes, indentation, signs of a comment."""
    return f'<i class="q">{html(text)}</i>' if text else ""


def _linked(text: str, place: Place) -> str:
    """Prose with its names: code in backticks, files and chapters as links."""
    parts, last = [], 0
    for found in PROSE_NAMES.finditer(text):
        parts.append(html(text[last : found.start()]))
        word, last = found[0], found.end()
        if word.startswith("`"):
            parts.append(f"<code>{_quiet('`')}{html(word[1:-1])}{_quiet('`')}</code>")
            continue
        target = BOOK[int(found[1]) - 1] if found[1] else word[:-3]
        is_known = target in place.sources
        parts.append(f'<a href="#{target}">{html(word)}</a>' if is_known else html(word))
    return "".join([*parts, html(text[last:])])


def _code(line: Line, file: str, place: Place, words: Iterable[Word]) -> str:
    """A line of code with its words."""
    parts, last = [], 0
    for word in words:
        parts.append(html(line.text[last : word.begin]))
        text, last = html(line.text[word.begin : word.end]), word.end
        target = place.target(word.target) if word.target else ""
        if target and target != f"{file}-{line.number}":
            parts.append(f'<a href="#{target}">{text}</a>')
        else:
            parts.append(f'<b class="{word.kind[0]}">{text}</b>' if word.kind else text)
    return f'<span id="{file}-{line.number}">{"".join([*parts, html(line.text[last:])])}</span>'


# ----------------------------------------------------------------------------------------- what ran


def _told(call: Ran, place: Place) -> str:
    """What a function was given and gave: shapes, first numbers, a drawing."""
    if not call.given and not call.gave:
        return ""
    when = html(call.occasion)
    file, line = call.caller
    if file in place.sources:
        when += f', from <a href="#{file}-{line}">{_path(file)} line {line}</a>'
    given = "".join(f"<div><dt>{html(v.name)}</dt><dd>{_value(v)}</dd></div>" for v in call.given)
    gave = "".join(f"<div><dt>gives</dt><dd>{_value(v)}</dd></div>" for v in call.gave)
    drawn = drawing(next((v.drawing for v in call.gave if v.drawing), []))
    return f'<div class="ran"><p>{when}:</p><dl>{given}{gave}</dl>{drawn}</div>'


def _value(value: Value) -> str:
    shape = html(value.shape)
    if not value.first:
        return shape
    return (f"{shape}: " if shape else "") + f"<code>{html(value.first)}</code>"


def drawing(matrix: Matrix) -> str:
    """The corner of a matrix: a square for each number, as large as the number is far from 0; full
    above 0, hollow below."""
    if not matrix:
        return ""
    largest = max((abs(value) for row in matrix for value in row), default=0) or 1.0
    above: list[str] = []
    below: list[str] = []
    for y, row in enumerate(matrix):
        for x, value in enumerate(row):
            side = (CELL - 1) * (abs(value) / largest) ** 0.5
            if side < 0.5:
                continue
            left, top = x * CELL + (CELL - side) / 2, y * CELL + (CELL - side) / 2
            path = f"M{left:.1f} {top:.1f}h{side:.1f}v{side:.1f}h-{side:.1f}z"
            (above if value > 0 else below).append(path)
    width, height = CELL * max(map(len, matrix)), CELL * len(matrix)
    return (
        f'<svg class="drawing" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'aria-hidden="true"><path class="above" d="{"".join(above)}"/>'
        f'<path class="below" d="{"".join(below)}"/></svg>'
    )
