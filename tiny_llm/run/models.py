"""A model that a user names: what this project saved, a Hugging Face folder, or a GGUF file.

The last two hold a model and no run. They become one that has not begun, to read with.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Optional

from tiny_llm.fast.packed import Packed, is_table
from tiny_llm.fast.tensors import shape
from tiny_llm.files import gguf, gguf_models, hugging_face
from tiny_llm.files.foreign import beginning_of
from tiny_llm.files.portable import PortableModel, PortableTensor
from tiny_llm.matmul import Vector
from tiny_llm.model import rows_of
from tiny_llm.run.begin import memory
from tiny_llm.run.errors import UserError, to_type
from tiny_llm.run.options import Options
from tiny_llm.run.rungs import RUNGS, build_optimizer
from tiny_llm.run.saved import Run, load_run
from tiny_llm.text.shown import LONGEST_MESSAGE, shown

MOST_FLOATS = 20_000_000  # numbers in a model that is read as floats
KNOWN_TO_OTHERS = ("modern", "llama")
BYTES_OF_FLOAT, BYTES_OF_INT8 = 32, 4  # in a list, with its place there; in lanes, and beside them


def open_model(path: Path, to_train: bool = False, int8: bool = False) -> Run:
    """The model of that file or folder; another program's as int8 numbers if that is asked for, or
    if it is large. Raises UserError, with what is wrong, if there is none, as `load_run` does."""
    run = _opened(Path(path), to_train, int8)
    gc.collect()  # lets go of a mapped file, which is as large as the model
    return run


def _opened(path: Path, to_train: bool, int8: bool) -> Run:
    found = foreign_model(path)
    if not found:
        return load_run(path, to_train)
    if to_train:
        imports = to_type("import", {str(path): "", "--out": f"{path.stem}.safetensors"})
        raise UserError(f"{path} is another program's, which is only read; first type {imports}")
    return run_of(path, *found, int8)


def foreign_model(path: Path) -> Optional[tuple[str, PortableModel]]:
    """The name of its format, and what another program wrote; None if it is none of the two.

    Raises UserError for one that cannot be read, or is damaged.
    """
    try:
        if hugging_face.is_folder(path):
            return "Hugging Face", hugging_face.read(path)
        with suppress(OSError):
            if gguf.is_gguf(beginning_of(path)):
                return "GGUF", gguf_models.read(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise _refused(path, error) from None
    return None


def _refused(path: Path, error: ValueError) -> UserError:
    """In one line that names the file."""
    problem = shown(error, LONGEST_MESSAGE)
    return UserError(problem if problem.startswith(str(path)) else f"{path}: {problem}")


def run_of(path: Path, name: str, model: PortableModel, int8: bool) -> Run:
    """A run that has not begun, with these weights. Raises UserError as `foreign_model` does, and
    for a model that is larger than memory."""
    count = sum(math.prod(tensor.shape) for tensor in model.tensors.values())
    int8 = int8 or count > MOST_FLOATS
    _check_memory(count, int8)
    rung = RUNGS[model.kind]
    try:
        config = rung.config(**model.config)
        built = rung.model.__new__(rung.model)
        built.config = config
        built.parameters = {
            name: _numbers(name, model.tensors[name], int8) for name in rung.model.layout(config)
        }
    except ValueError as error:
        raise _refused(path, error) from None
    options = Options()
    return Run(
        model.kind, built, model.tokenizer, build_optimizer(options), options,
        chat=model.chat, came_from=name,
    )  # fmt: skip


def portable(run: Run) -> PortableModel:
    """The model of a run, for other programs. Raises UserError for one that none of them knows."""
    if run.rung not in KNOWN_TO_OTHERS:
        raise UserError(
            f"the model is {run.rung}, which no other program has; export modern, which is GPT-2, "
            f"or llama"
        )
    tensors = {
        name: PortableTensor(shape(tensor), partial(_rows, tensor))
        for name, tensor in run.model.parameters.items()
    }
    config = dataclasses.asdict(run.model.config)
    return PortableModel(run.rung, config, tensors, run.tokenizer, run.chat)


def _rows(tensor: Any) -> Iterator[Vector]:
    return iter(tensor) if isinstance(tensor, Packed) else iter(rows_of(tensor))


def _numbers(name: str, tensor: PortableTensor, int8: bool) -> Any:
    if len(tensor.shape) == 1:
        return list(next(tensor.read()))
    return tensor.packed(is_table(name)) if int8 else [list(row) for row in tensor.read()]


def _check_memory(count: int, int8: bool) -> None:
    """Raises UserError for more numbers than there is memory for, where that can be told."""
    needed = count * (BYTES_OF_INT8 if int8 else BYTES_OF_FLOAT)
    free = free_memory()
    if free and needed > free:
        raise UserError(
            f"the model has {count:,} numbers, which take about {needed / 1e9:.1f} GB of memory, "
            f"and {free / 1e9:.1f} GB are free; take a smaller one"
        )


def free_memory() -> int:
    """Bytes that can be had now, or those of the whole machine; 0 if the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return memory()
