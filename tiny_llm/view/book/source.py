"""A file of source as a reader is given it: prose beside the code that it is about.

    text --rows--> prose and code, every line once --words--> names that lead somewhere

Prose is what stands in docstrings and in comments that have a line of their own. A row begins where
a function or a class does, and where a comment tells of the lines below it.
"""

from __future__ import annotations

import ast
import io
import keyword
import token as kinds
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional, Union

Definition = Union[ast.FunctionDef, ast.ClassDef]
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
PACKAGE = Path(__file__).resolve().parents[2]
BOOK = (  # the chapters in reading order
    "tokenizer", "batches", "matmul", "layers", "model", "mlp_lm", "optimizers", "training",
    "sampling", "gradcheck", "attention_lm", "modern_block",
)  # fmt: skip


class Line(NamedTuple):
    """A line as it stands in the file, without its end."""

    number: int  # from 1
    text: str


class Row(NamedTuple):
    """What stands side by side."""

    prose: list[Line]
    code: list[Line]


class Word(NamedTuple):
    """A part of a line of code that looks different, or leads somewhere."""

    begin: int
    end: int
    kind: str  # keyword, string, number, comment, defined; "" for any other name
    target: str  # "layers.linear": where the name is defined; "" if that is nowhere in the book


class Source:
    """A file, and what its names mean."""

    def __init__(self, name: str, text: str) -> None:
        """name: that of the module, without the package. Raises SyntaxError if it is no Python."""
        self.name, self.text = name, text
        self.tree = ast.parse(text)
        self.lines = [Line(i, line) for i, line in enumerate(text.split("\n")[:-1], 1)]
        self.definitions = dict(_definitions(self.tree, name))

    @property
    def title(self) -> str:
        """The first line of its docstring."""
        return (ast.get_docstring(self.tree) or self.name).split("\n")[0]

    def rows(self) -> list[Row]:
        """All lines, in order, each once."""
        prose = {line for node in _documented(self.tree) for line in _docstring_lines(node)}
        comments = set(_own_line_comments(self.text))
        begins = {
            _first_line(node) for node in ast.walk(self.tree) if isinstance(node, DEFINITIONS)
        }
        rows, row = [], Row([], [])
        for line in self.lines:
            has_code = any(one.text.strip() for one in row.code)
            is_apart = has_code or (row.prose and row.prose[-1].number != line.number - 1)
            if is_apart and line.number in begins | comments:
                rows.append(row)
                row = Row([], [])
            (row.prose if line.number in prose | comments else row.code).append(line)
        return [*rows, row]

    def words(self, known: dict[str, set[str]]) -> dict[int, list[Word]]:
        """Line -> its words. known: module -> what it defines, of all files in sight."""
        table = {**_imported(self.tree, known), **{n: f"{self.name}.{n}" for n in self.definitions}}
        locals_of = [
            (_first_line(node), node.end_lineno or 0, _locals(node))
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef)
        ]
        words: dict[int, list[Word]] = {}
        for one, before, after in _tokens(self.text):
            kind, target = _kind(one, before), ""
            if not kind and one.type == kinds.NAME:
                hidden = [own for first, last, own in locals_of if first <= one.start[0] <= last]
                if before[-1:] == ["."]:
                    target = self._attribute(before, table, known, one)
                elif after != "=" and not any(one.string in own for own in hidden):
                    target = table.get(one.string, "")
            if kind or target:
                for line, begin, end in _by_line(one, self.lines):
                    words.setdefault(line, []).append(Word(begin, end, kind, target))
        return words

    def _attribute(
        self,
        before: list[str],
        table: dict[str, str],
        known: dict[str, set[str]],
        one: tokenize.TokenInfo,
    ) -> str:
        """Where `module.name` or `self.name` is defined."""
        owner = before[-2] if len(before) > 1 else ""
        if owner == "self":
            around = [
                node.name
                for node in self.tree.body
                if isinstance(node, ast.ClassDef)
                and node.lineno <= one.start[0] <= (node.end_lineno or 0)
            ]
            name = ".".join([*around, one.string])
            return f"{self.name}.{name}" if name in self.definitions else ""
        module = table.get(owner, "")
        return f"{module}.{one.string}" if one.string in known.get(module, set()) else ""


def _definitions(
    body: Union[ast.Module, ast.ClassDef], module: str, owner: str = ""
) -> Iterator[tuple[str, int]]:
    """Name -> line: functions, classes and their methods, constants."""
    for node in body.body:
        if isinstance(node, DEFINITIONS):
            yield owner + node.name, node.lineno
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node, module, f"{node.name}.")
        elif not owner and isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)):
                yield name, node.lineno


def _documented(tree: ast.Module) -> Iterator[Union[ast.Module, Definition]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, *DEFINITIONS)) and ast.get_docstring(node) is not None:
            yield node


def _docstring_lines(node: Union[ast.Module, Definition]) -> range:
    first = node.body[0]
    return range(first.lineno, (first.end_lineno or first.lineno) + 1)


def _first_line(node: Definition) -> int:
    return min([node.lineno, *(one.lineno for one in node.decorator_list)])


def _own_line_comments(text: str) -> Iterator[int]:
    for one in tokenize.generate_tokens(io.StringIO(text).readline):
        if one.type == kinds.COMMENT and not one.line[: one.start[1]].strip():
            yield one.start[0]


def _imported(tree: ast.Module, known: dict[str, set[str]]) -> dict[str, str]:
    """Name in this file -> "layers" or "layers.linear", of what comes from files in sight."""
    table = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            module = ".".join((node.module or "").split(".")[1:])
            for alias in node.names:
                full = f"{module}.{alias.name}".lstrip(".")
                if full in known or alias.name in known.get(module, set()):
                    table[alias.asname or alias.name] = full
    return table


def _locals(function: ast.FunctionDef) -> set[str]:
    """The names that mean something else within it."""
    names = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return names | {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _tokens(text: str) -> Iterator[tuple[tokenize.TokenInfo, list[str], str]]:
    """Each token with the two before it on its line and the one after; an f-string is one."""
    start = getattr(kinds, "FSTRING_START", None)  # from Python 3.12 on, it comes in parts
    found: list[tokenize.TokenInfo] = []
    open_strings: list[tokenize.TokenInfo] = []
    for one in tokenize.generate_tokens(io.StringIO(text).readline):
        if start is not None and one.type == start:
            open_strings.append(one)
        elif open_strings and one.type == getattr(kinds, "FSTRING_END", None):
            first = open_strings.pop()
            if not open_strings:
                found.append(one._replace(type=kinds.STRING, start=first.start, string=""))
        elif not open_strings:
            found.append(one)
    for i, one in enumerate(found):
        before = [other.string for other in found[max(0, i - 2) : i]]
        yield one, before, found[i + 1].string if i + 1 < len(found) else ""


def _kind(one: tokenize.TokenInfo, before: list[str]) -> str:
    if one.type == kinds.NAME and before[-1:] in (["def"], ["class"]):
        return "defined"
    if one.type == kinds.NAME and keyword.iskeyword(one.string):
        return "keyword"
    return {kinds.STRING: "string", kinds.NUMBER: "number", kinds.COMMENT: "comment"}.get(
        one.type, ""
    )


def _by_line(one: tokenize.TokenInfo, lines: list[Line]) -> Iterator[tuple[int, int, int]]:
    """A token's part of each line that it spans: line, begin, end."""
    for number in range(one.start[0], one.end[0] + 1):
        begin = one.start[1] if number == one.start[0] else 0
        yield number, begin, one.end[1] if number == one.end[0] else len(lines[number - 1].text)


def paragraphs(prose: Iterable[Line]) -> Iterator[tuple[bool, list[Line]]]:
    """Lines of prose in groups: whether they are a drawing or a formula, which keeps its form, and
    which lines. An empty line is with those above it."""
    group: list[Line] = []
    base: Optional[int] = None
    is_form = after_empty = was_comment = False
    for line in prose:
        is_comment = line.text.lstrip().startswith("#")
        text = line.text.lstrip(" #" if is_comment else " ")
        indent = len(line.text) - len(text)
        base = indent if base is None or is_comment != was_comment else base
        begins_form = indent > base + 1 if text else is_form
        if group and text and (after_empty or begins_form != is_form or is_comment != was_comment):
            yield is_form, group
            group = []
        group.append(line)
        is_form, after_empty, was_comment = begins_form, not text, is_comment
    if group:
        yield is_form, group
