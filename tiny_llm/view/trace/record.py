"""What a forward does, noted while it runs: a display that reads this cannot retell it wrongly.

    model, contexts --recorded--> a Call for each layer: function, numbers, line of code

For the time of one forward, the functions that a rung calls are replaced by ones that note the call
and pass it on. So whoever changes a layer, or writes a rung of their own, sees what really ran.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Callable, NamedTuple, Optional

from tiny_llm import layers, matmul
from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel

LAYERS = layers.__name__
PRODUCTS = (matmul.matmul, matmul.matmul_bt)


class Code(NamedTuple):
    """The statement of a rung that made a call."""

    file: str
    line: int
    text: str  # as it stands in the file, its lines joined
    name: str  # of the variable that it sets: the first, if several; "" if none


class Call(NamedTuple):
    """A function that ran."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    out: Matrix
    rest: Any  # what else it returned, a cache
    code: Optional[Code]
    depth: int  # 0: called by a rung; more: by another function that was noted


@contextmanager
def recorded(model: LanguageModel) -> Iterator[list[Call]]:
    """Within it, all calls that return a matrix are noted, in the order in which they end."""
    calls: list[Call] = []
    modules = {layers, *(sys.modules[kind.__module__] for kind in type(model).__mro__[:-1])}
    replaced = [
        (module, name, function)
        for module in modules
        for name, function in list(vars(module).items())
        if inspect.isfunction(function) and _is_noted(function, module.__name__)
    ]
    depth = [0]
    for module, name, function in replaced:
        setattr(module, name, _noting(function, calls, depth))
    try:
        yield calls
    finally:
        for module, name, function in replaced:
            setattr(module, name, function)


def _is_noted(function: Any, module: str) -> bool:
    """Layers wherever they are called, products and a rung's own functions where it calls them."""
    own = function.__module__ == module and module.rpartition(".")[2].endswith(("_lm", "_block"))
    return function.__module__ == LAYERS or own or (module != LAYERS and function in PRODUCTS)


def _noting(function: Callable[..., Any], calls: list[Call], depth: list[int]) -> Any:
    @functools.wraps(function)
    def noting(*arguments: Any, **named: Any) -> Any:
        depth[0] += 1
        try:
            result = function(*arguments, **named)
        finally:
            depth[0] -= 1
        out, *rest = result if isinstance(result, tuple) else (result,)
        if _is_matrix(out):
            code = _code(sys._getframe(1)) if depth[0] == 0 else None
            calls.append(Call(function, arguments, out, rest[0] if rest else None, code, depth[0]))
        return result

    return noting


def _is_matrix(value: Any) -> bool:
    return bool(
        isinstance(value, list)
        and value
        and isinstance(value[0], (list, tuple))
        and value[0]
        and isinstance(value[0][0], float)
    )


def _code(frame: Optional[FrameType]) -> Optional[Code]:
    """The statement that made the call; where that only returns the result, the one above."""
    while frame:
        code = frame.f_code
        statement = _statement(code.co_filename, frame.f_lineno)
        if statement is not None and not isinstance(statement, ast.Return):
            return _described(code.co_filename, statement)
        frame = frame.f_back
    return None


def _described(file: str, statement: ast.stmt) -> Code:
    first, last = statement.lineno, statement.end_lineno or statement.lineno
    text = " ".join(linecache.getline(file, line).strip() for line in range(first, last + 1))
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    names = [
        node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
    ]
    return Code(file, first, text, names[0] if names else "")


@functools.cache
def _tree(file: str) -> Optional[ast.Module]:
    try:
        return ast.parse(Path(file).read_text("utf-8"))
    except (OSError, SyntaxError):  # a rung from an interactive session, say
        return None


@functools.cache
def _statement(file: str, line: int) -> Optional[ast.stmt]:
    """The innermost statement that spans this line of the file."""
    tree = _tree(file)
    spanning = [
        node
        for node in (ast.walk(tree) if tree else ())
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(spanning, key=lambda node: node.lineno, default=None)
