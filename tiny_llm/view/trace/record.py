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
from types import FrameType, FunctionType, ModuleType
from typing import Any, Callable, NamedTuple, Optional

from tiny_llm import layers
from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel


class Code(NamedTuple):
    """The statement of a rung that made a call."""

    file: str
    line: int
    text: str  # as it stands in the file, its lines joined
    name: str  # of the variable that it sets: the first, if several; "" if none


class Call(NamedTuple):
    """A function that ran."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]  # in the order of its signature
    out: Matrix
    rest: Any  # what else it returned, a cache
    code: Optional[Code]
    depth: int  # 0: called by a rung; more: by another function that was noted
    inside: tuple[Callable[..., Any], ...]  # the functions that ran within it, each once


@contextmanager
def recorded(model: LanguageModel) -> Iterator[list[Call]]:
    """Within it, all calls that return a matrix are noted, in the order in which they end."""
    calls: list[Call] = []
    running: list[dict[Callable[..., Any], None]] = [{}]  # what ran within each unfinished call
    replaced = [
        (module, name, function, _noting(function, calls, running))
        for module in _modules(model)
        for name, function in list(vars(module).items())
        if inspect.isfunction(function) and _is_noted(function, module)
    ]
    noting = {function: wrapper for _, _, function, wrapper in replaced}
    # A function may be another's default, too, as attention is of multi_head_attention.
    defaults = [(f, f.__defaults__) for f in noting if f.__defaults__]
    try:
        for module, name, _, wrapper in replaced:
            setattr(module, name, wrapper)
        for function, values in defaults:
            function.__defaults__ = tuple(
                noting.get(value, value) if inspect.isfunction(value) else value for value in values
            )
        yield calls
    finally:
        for module, name, function, _ in replaced:
            setattr(module, name, function)
        for function, values in defaults:
            function.__defaults__ = values


def _modules(model: LanguageModel) -> list[ModuleType]:
    """layers.py, and the files of the model's class and of those that it is derived from."""
    kinds = [kind for kind in type(model).__mro__ if issubclass(kind, LanguageModel)]
    names = dict.fromkeys([layers.__name__, *(kind.__module__ for kind in kinds)])
    return [sys.modules[name] for name in names if name in sys.modules]


def _is_noted(function: FunctionType, module: ModuleType) -> bool:
    """Layers wherever they are called; in a rung's file all that it defines or imports by name."""
    is_layer = function.__module__ == layers.__name__
    return is_layer or module.__name__ not in (layers.__name__, LanguageModel.__module__)


def _noting(
    function: Callable[..., Any],
    calls: list[Call],
    running: list[dict[Callable[..., Any], None]],
) -> Any:
    @functools.wraps(function)
    def noting(*arguments: Any, **named: Any) -> Any:
        running.append({})
        try:
            result = function(*arguments, **named)
        finally:
            inside = running.pop()
            running[-1].update({function: None, **inside})
        out, *rest = result if isinstance(result, tuple) and result else (result,)
        if _is_matrix(out):
            if named:
                bound = inspect.signature(function).bind(*arguments, **named)
                arguments = tuple(bound.arguments.values())
            depth, cache = len(running) - 1, rest[0] if rest else None
            code = _code(sys._getframe(1)) if depth == 0 else None
            calls.append(Call(function, arguments, out, cache, code, depth, tuple(inside)))
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
    """The statement that made the call; where that only returns the result, the one above.

    Nothing above the model's forward is looked at: that would be no code of the rung.
    """
    returned = None
    while frame:
        code = frame.f_code
        statement = _statement(code.co_filename, frame.f_lineno)
        if statement is not None:
            described = _described(code.co_filename, statement)
            if not isinstance(statement, ast.Return):
                return described
            returned = described
        frame = frame.f_back if code.co_name != "forward" else None
    return returned


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
        for node in reversed(list(ast.walk(tree)) if tree else [])  # the inner ones first
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(spanning, key=lambda node: node.lineno, default=None)
