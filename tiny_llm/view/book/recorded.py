"""What the functions of the book are given and give back in a real step of each rung.

    a rung's first steps, a token that it writes, a check of its slopes
        --what_ran--> function -> its first call: shapes, first numbers, who called

Nothing is retold: Python itself says what is called with what (`sys.setprofile`). Products go by
the plain loops of chapter 3, so that they are seen at work.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Optional

from tiny_llm.beyond.dpo import dpo, pair_logs
from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.fast.lanes import LONG, multiply_in_lanes
from tiny_llm.fast.products import multiply_with
from tiny_llm.fast.writer import Writer
from tiny_llm.gradcheck import check_model
from tiny_llm.matmul import Matrix, PlainLoops
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel
from tiny_llm.run.begin import batches_of, begin, schedule_of
from tiny_llm.run.rungs import RUNGS, build_optimizer
from tiny_llm.run.sources import read_source
from tiny_llm.run.texts import read_text
from tiny_llm.sampling import Sampling, generate
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.training import evaluate, loss_and_gradients, on_batches, train
from tiny_llm.view.book.source import BOOK, PACKAGE

FIRST = 4  # numbers of a row that are shown
ROWS, COLUMNS = 8, 24  # of a drawing
MOST_FIELDS = 6  # of an object
LONGEST = 34  # characters of a text
LONG_NUMBER = 10**12
PROMPT = "language models "
CLIP = 0.1
SMALL = {  # so that every slope can be measured at once
    "mlp": {"context_length": 4, "d_embedding": 2, "d_hidden": 3},
    "attention": {"context_length": 4, "d_model": 2, "d_hidden": 3},
    "modern": {"context_length": 4, "d_model": 4, "n_heads": 2, "n_layers": 1},
}


class Value(NamedTuple):
    """A value in brief."""

    name: str  # of the argument; "" of a result
    shape: str  # "16 x 96", "40"; "" of a single value
    first: str  # the first numbers of its first row, or the value itself
    drawing: Matrix  # its upper left corner; empty unless it is a matrix


class Ran(NamedTuple):
    """The first call of a function."""

    occasion: str  # "In the first step of rung 1"
    caller: tuple[str, int]  # module and line, if that is in sight; else "", 0
    given: list[Value]
    gave: list[Value]


Key = tuple[str, int]  # the module of a function, and the line where it begins


def what_ran(rooms: Sequence[str] = ()) -> dict[Key, Ran]:
    """Function -> its first call, by the first rung that calls it; also of these rooms' files."""
    ran: dict[Key, Ran] = {}
    with multiply_with(PlainLoops()):
        for number, rung in enumerate(SMALL, 1):
            _run(ran, rung, f"rung {number}")
    for name in rooms:
        if name in OF_ROOMS:
            with _watched(ran, "In a small example", {name}):
                OF_ROOMS[name]()
    return ran


def _run(ran: dict[Key, Ran], rung: str, name: str) -> None:
    """Two steps of `tiny-lm train`, the second of them clipped; two tokens that the model writes, a
    validation, a check of slopes."""
    with _watched(ran, f"In the first step of {name}"):
        run, material = begin(read_source(None), rung)
        batches, optimizer = batches_of(run, material), build_optimizer(run.options)
        gradients_at, rate = on_batches(run.model, batches), schedule_of(run.options)
        list(train(run.model, optimizer, gradients_at, 1, rate))
    with _watched(ran, f"In a step of {name} with grad_clip {CLIP}"):
        list(train(run.model, optimizer, gradients_at, 2, rate, start=1, grad_clip=CLIP))
    with _watched(ran, f"When {name} writes"):
        ids, sampling = run.tokenizer.encode(PROMPT), Sampling(0.7, top_p=0.9)
        run.tokenizer.decode(list(generate(run.model, ids, 2, random.Random(0), sampling)))
    with _watched(ran, f"When {name} is measured"):
        length, every = run.model.config.context_length, run.model.predicts_every_token
        evaluate(run.model, material.val.examples(length, every), 64)
    with _watched(ran, f"When the slopes of a small {name} are checked"):
        small = RUNGS[rung].model(RUNGS[rung].config(5, **SMALL[rung]), 0)
        list(check_model(small, [[0, 1, 2, 3], [4, 2]]))


def _bpe() -> None:
    tokenizer = BPETokenizer.train(read_text(None, "utf-8").content[:2000], 300)
    tokenizer.decode(tokenizer.encode("language models"))


def _lanes() -> None:
    rng = random.Random(0)
    a, b = ([[rng.gauss(0, 1) for _ in range(16)] for _ in range(12)] for _ in range(2))
    multiply_in_lanes(a, b, LONG, True)


def _kv_cache() -> None:
    model = ModernLanguageModel(ModernConfig(8, 8, 8, 2, 1))
    writer = Writer(model, [1, 2, 3], [random.Random(0)], Sampling())
    for _ in range(2):
        writer.step()


def _llama() -> None:
    model = LlamaLanguageModel(LlamaConfig(8, 8, 8, n_heads=2, n_kv_heads=1, d_hidden=12))
    loss_and_gradients(model, [[1, 2, 3, 4]], [2, 3, 4, 5])


def _dpo() -> None:
    rng = random.Random(0)
    ours, theirs = ([[rng.gauss(0, 1) for _ in range(6)] for _ in range(5)] for _ in range(2))
    targets, lengths = [1, 2, 0, 3, 0], [3, 2]
    dpo(ours, targets, lengths, pair_logs(theirs, targets, lengths), 0.3, 0.1)


# What the files of rooms are shown at: small examples.
OF_ROOMS = {
    "text.bpe": _bpe,
    "fast.lanes": _lanes,
    "fast.kv_cache": _kv_cache,
    "beyond.llama": _llama,
    "beyond.dpo": _dpo,
}


@contextmanager
def _watched(ran: dict[Key, Ran], occasion: str, modules: Collection[str] = BOOK) -> Iterator[None]:
    """Within it, the first call of each function of these modules is noted."""
    begun: dict[FrameType, tuple[Key, Ran]] = {}
    seen = set(ran)

    def profile(frame: FrameType, event: str, result: Any) -> None:
        if event == "call":
            key = _key(frame)
            if key and key[0] in modules and key not in seen:
                seen.add(key)
                begun[frame] = key, Ran(occasion, _caller(frame), _arguments(frame), [])
        elif event == "return" and frame in begun:
            key, call = begun.pop(frame)
            parts = result if type(result) is tuple else (result,)
            gave = [value for part in parts for value in [in_brief("", part)] if value]
            ran.setdefault(key, call._replace(gave=gave))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def _key(frame: Optional[FrameType]) -> Optional[Key]:
    """The function of this package that this is a call of."""
    if frame is None or frame.f_code.co_name.startswith("<"):
        return None
    module = _module(frame.f_code.co_filename)
    return (module, frame.f_code.co_firstlineno) if module else None


@functools.cache
def _module(file: str) -> str:
    """text.bpe; "" for a file outside the package."""
    path = Path(file)
    inside = PACKAGE in path.parents
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts) if inside else ""


def _caller(frame: FrameType) -> tuple[str, int]:
    other = frame.f_back
    while other is not None and other.f_code.co_name.startswith("<"):  # a list that it makes
        other = other.f_back
    key = _key(other)
    return (key[0], other.f_lineno) if key and other else ("", 0)


def _arguments(frame: FrameType) -> list[Value]:
    code, values = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    found = (in_brief(name, values[name]) for name in names if name != "self" and name in values)
    return [value for value in found if value]


def in_brief(name: str, value: Any) -> Optional[Value]:
    """A value as a line; None for one that says nothing: None itself, a function."""
    if value is None or callable(value):
        return None
    if isinstance(value, (bool, int, float)):
        return Value(name, "", number(value), [])
    if isinstance(value, str):
        return Value(name, f"{len(value)} characters", repr(value[:LONGEST]), [])
    if isinstance(value, Mapping):
        names = ", ".join(map(str, islice(value, 2))) + ", …" * (len(value) > 2)
        return Value(name, f"{len(value)} by name", names, [])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return _object(name, value, value._fields)
    if is_dataclass(value):
        return _object(name, value, [field.name for field in fields(value)])
    if isinstance(value, (list, tuple, range)):
        return _list(name, value)
    return Value(name, "", type(value).__name__, [])


def _object(name: str, value: Any, names: Sequence[str]) -> Value:
    """An object by its fields."""
    parts = [in_brief(field, getattr(value, field)) for field in names[:MOST_FIELDS]]
    words = [f"{part.name} {part.shape or part.first}" for part in parts if part]
    return Value(name, type(value).__name__, ", ".join(words), [])


def _list(name: str, value: Sequence[Any]) -> Value:
    """A vector, a matrix, a list of lists of ids, or of anything else."""
    head = value[0] if len(value) else None
    if isinstance(value, tuple) and isinstance(head, (list, tuple)):  # different things together
        parts = [in_brief("", part) for part in value[:MOST_FIELDS]]
        return Value(name, "", ", ".join(part.shape or part.first for part in parts if part), [])
    if isinstance(head, (int, float)):
        return Value(name, f"{len(value):,}", _row(value), _drawn([list(value)]))
    if isinstance(head, (list, tuple)) and head and isinstance(head[0], (int, float)):
        lengths = set(map(len, value))
        width = str(lengths.pop()) if len(lengths) == 1 else f"{min(lengths)} to {max(lengths)}"
        return Value(name, f"{len(value):,} × {width}", _row(head), _drawn(value))
    first = in_brief("", head)
    inner = f"{first.shape or first.first}" if first else "objects"
    return Value(name, f"{len(value):,} of: {inner}", first.first if first else "", [])


def _row(numbers: Sequence[float]) -> str:
    first = " ".join(number(value) for value in numbers[:FIRST])
    return first + " …" * (len(numbers) > FIRST)


def _drawn(rows: Sequence[Sequence[float]]) -> Matrix:
    """The corner of a matrix of floats that a drawing shows."""
    if not isinstance(rows[0][0], float) or len(rows) * len(rows[0]) < 2:
        return []
    return [list(row[:COLUMNS]) for row in rows[:ROWS]]


def number(value: float) -> str:
    """Three digits: 0.0312, -1.2e-05; whole numbers as they are, unless they are very long."""
    if isinstance(value, int) and abs(value) > LONG_NUMBER:
        return f"(a number of {len(str(abs(value)))} digits)"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
