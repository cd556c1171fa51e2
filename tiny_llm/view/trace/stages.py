"""The stages of a forward as plain data, from what was noted while it ran.

    calls --stages--> name, shape, the line of code, the function at work, range, last row of each

Nothing here knows a rung: names are those of the variables in the rung's own code, words are those
of the functions that ran, shapes those of their numbers.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Callable, Optional

from tiny_llm import layers
from tiny_llm.layers import AttentionCache
from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel
from tiny_llm.training import Diverged
from tiny_llm.view.trace.data import Numbers, Place, Stage
from tiny_llm.view.trace.record import Call

ROOT = Path(__file__).resolve().parent.parent.parent.parent  # the folder that the package lies in
SHAPE_COMMENT = re.compile(r"#\s*((?:\d*[A-Z]+|1) x (?:\d*[A-Z]+))")
SIZES = {  # letter of the dimension key in layers.py -> field of a config, meaning
    "C": ("context_length", "tokens in a context at most"),
    "E": ("d_embedding", "numbers for a token"),
    "U": ("d_hidden", "hidden units"),
    "D": ("d_model", "numbers for a position"),
    "H": ("n_heads", "heads in each layer"),
    "V": ("vocab_size", "tokens in the vocabulary"),
}


def sizes(model: LanguageModel) -> dict[str, tuple[int, str]]:
    """letter -> size, meaning: what the config of this model has."""
    return {
        letter: (getattr(model.config, field), meaning)
        for letter, (field, meaning) in SIZES.items()
        if hasattr(model.config, field)
    }


def place_of(function: Callable[..., Any]) -> Place:
    """File, line and name of a function of this package; the file as seen from beside it."""
    inner: Any = inspect.unwrap(function)
    code = inner.__code__
    return Place(short_path(inspect.getfile(inner)), code.co_firstlineno, inner.__qualname__)


def short_path(file: str) -> str:
    """The path of a file of this package as seen from beside it, else its name alone."""
    path = Path(file).resolve()
    return path.relative_to(ROOT).as_posix() if ROOT in path.parents else path.name


def lookups(model: LanguageModel, calls: Sequence[Call]) -> list[tuple[str, Call]]:
    """The calls that looked up rows in a table, each with the name of the table."""
    return [
        (name, call)
        for call in calls
        if inspect.unwrap(call.function) is inspect.unwrap(layers.embedding)
        for name in parameters_of(model, call)
    ]


def stages(model: LanguageModel, calls: Sequence[Call]) -> Iterator[Stage]:
    """Each call of the rung itself, and after attention one stage for each head."""
    part = ""
    own = [call for call in calls if call.depth == 0]
    for call, following in zip(own, [*own[1:], None]):
        parameters = parameters_of(model, call)
        if parameters:
            part = _part(model, parameters[0], part)
        stage = replace(_stage(call, parameters), part=part)
        if following is not None and following.code == call.code:  # a call within that call
            stage = replace(stage, name=stage.layer.rpartition(".")[2] or call.function.__name__)
        yield stage
        heads = _heads(call.rest)
        for number, head in enumerate(heads, 1):
            # by the function that made it; by the rung's, if that was none that is noted
            maker = next((other for other in calls if other.rest is head), call)
            yield replace(_head(head, f"head {number} of {len(heads)}", maker), part=part)


def parameters_of(model: LanguageModel, call: Call) -> list[str]:
    """The names of the parameters that a function was given."""
    return [n for n, tensor in model.parameters.items() if any(tensor is a for a in call.arguments)]


def _part(model: LanguageModel, parameter: str, before: str) -> str:
    """layer 1 of 2, if the name of the parameter has the number of a layer."""
    number = _layer_number(parameter)
    if number is None:
        return f"after {before}" if before.startswith("layer") else before
    return f"layer {number + 1} of {len(set(map(_layer_number, model.parameters)) - {None})}"


def _layer_number(parameter: str) -> Optional[int]:
    return next((int(word) for word in parameter.split(".") if word.isdecimal()), None)


def _stage(call: Call, parameters: list[str]) -> Stage:
    code = call.code
    function = inspect.unwrap(call.function)
    comment = SHAPE_COMMENT.search(code.text) if code else None
    layer = parameters[0].rpartition(".")[0] if parameters else ""
    return Stage(
        part="",
        name=(code.name if code else "") or function.__name__,
        what=in_words(function),
        letters=comment[1] if comment else "",
        shape=(len(call.out), len(call.out[0])),
        code=code_of(call),
        code_place=f"{short_path(code.file)}:{code.line}" if code else "",
        layer=layer,
        places=[place_of(function)],
        numbers=[numbers(call.out)],
    )


def code_of(call: Call) -> str:
    """The statement that made a call, without its comment; else the function's name."""
    return call.code.text.partition("  #")[0] if call.code else call.function.__name__


def in_words(function: Callable[..., Any]) -> str:
    """What a function does: the first line of its docstring, without shapes and full stop."""
    first = (inspect.getdoc(function) or function.__name__).partition("\n")[0]
    return re.sub(r"(: \S+ [^:]*( x |->)[^:]*)?\.?( Raises.*)?$", "", first)


def _heads(cache: Any) -> list[AttentionCache]:
    """The heads in what an attention returned for the one context."""
    if isinstance(cache, AttentionCache):
        return [cache]
    if isinstance(cache, list) and cache and isinstance(cache[0], list):
        return [head for head in cache[0] if isinstance(head, AttentionCache)]
    return []


def _head(head: AttentionCache, name: str, maker: Call) -> Stage:
    """One head's scores and the weights that they become, of the last query, which sees all."""
    return Stage(
        part="",
        name=name,
        what="the last query's scores for each key, and the weights made of them",
        letters="Q x K",
        shape=(len(head.weights), len(head.weights[0])),
        code="",
        code_place="",
        layer="",
        places=[place_of(function) for function in (maker.function, *maker.inside)],
        numbers=[numbers(head.scores[-1:], "scores"), numbers(head.weights[-1:], "weights")],
        is_attention=True,
    )


def numbers(rows: Matrix, label: str = "") -> Numbers:
    """The range of a matrix, whose rows may be of several lengths, and its last row.

    Raises Diverged if there is a number in it that is not finite.
    """
    values = [value for row in rows for value in row]
    if not all(map(isfinite, values)):
        raise Diverged(
            "the network computes numbers that are not finite; its weights are too large"
        )
    return Numbers(label, min(values), max(values), list(rows[-1]))
