"""A run that goes on in PyTorch, and comes back: a folder with all that it is.

    run.safetensors     the checkpoint: weights, the optimizer's averages, options, step
    data.json           which token file the run reads, and how
    tokens.bin          that file, unless the run has read one from the beginning
    metrics.jsonl       what every step was like
    config.json, ...    the model alone, as a Hugging Face folder

    Run, Material --write--> folder --scripts/train_torchrun.py--> the same, further on
    folder --read--> Continued, which that script goes on with
    folder / run.safetensors --load_run--> Run

A step needs its number and the seed alone to find its batch, so the step is all there is to the
place in the data. Weights and averages are stored under the names of the parameters, as doubles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tiny_llm.batches import Ids
from tiny_llm.files import atomic, checkpoint, hugging_face
from tiny_llm.files.foreign import content_of, parsed_object, text_of
from tiny_llm.files.safetensors import Stored
from tiny_llm.files.token_file import FileIds, TokenFile, open_tokens, packed, write_tokens
from tiny_llm.run.errors import UserError
from tiny_llm.run.models import portable
from tiny_llm.run.options import Options, options_from
from tiny_llm.run.rungs import RUNGS
from tiny_llm.run.saved import Best, Run, save_run
from tiny_llm.run.sources import Material
from tiny_llm.run.steps import RecentLosses
from tiny_llm.text.corpus import Corpus, Lines, RunningText
from tiny_llm.text.shown import LONGEST_MESSAGE, shown
from tiny_llm.text.tokenizers import tokenizer_from

RUN, DATA, TOKENS, METRICS = "run.safetensors", "data.json", "tokens.bin", "metrics.jsonl"
BLOCK = 2**20  # tokens that are written at a time


class Continued(NamedTuple):
    """A run, without a number of it in a list."""

    metadata: dict[str, Any]  # of its checkpoint
    tensors: Mapping[str, Stored]
    rung: str
    config: Any  # of the rung
    options: Options
    step: int
    best: Optional[Best]
    recent: RecentLosses
    train: Corpus
    val: Corpus
    file: TokenFile  # that both are of


def is_folder(path: Path) -> bool:
    """Whether `write` has made it."""
    return (Path(path) / RUN).is_file()


# ---------------------------------------------------------------- writing


def check(run: Run) -> None:
    """Raises UserError for a run that cannot go on there."""
    portable(run)  # which refuses rungs 1 and 2
    if run.options.stage or run.options.task or run.came_from:
        what = run.options.stage or run.options.task or "an imported model"
        raise UserError(
            f"what goes on in PyTorch is a run of `train` on a text, and this one is of {what}"
        )


def write(folder: Path, run: Run, material: Material, metrics: Path) -> None:
    """The whole folder. Raises UserError as `check` does, ValueError for a vocabulary that token
    files have no room for, and OSError if something cannot be written."""
    check(run)
    hugging_face.write(folder, portable(run), "f64")
    file = material.train.ids
    separator = file[0] if isinstance(material.train, Lines) else None
    if isinstance(file, FileIds):
        tokens = str(Path(file.file.name).resolve())
    else:
        tokens, state = TOKENS, material.tokenizer.state()
        write_tokens(folder / TOKENS, _blocks(file), _blocks(material.val.ids), state)
    about = {"tokens": tokens, "separator": separator}
    atomic.replace_file(folder / DATA, [json.dumps(about).encode("ascii") + b"\n"])
    atomic.replace_file(folder / METRICS, [])
    with suppress(FileNotFoundError):
        atomic.copy_file(metrics, folder / METRICS)
    save_run(folder / RUN, run)


def _blocks(ids: Ids) -> Iterator[bytes]:
    numbers = iter(ids)
    while block := list(islice(numbers, BLOCK)):
        yield packed(block)


# ---------------------------------------------------------------- reading


def read(folder: Path, tokens: Optional[Path] = None) -> Continued:
    """The run in a folder; `tokens`: where its token file is on this machine.

    Raises UserError, with what is wrong, if it cannot go on.
    """
    try:
        metadata, stored = checkpoint.read(folder / RUN)
        data = parsed_object(text_of(content_of(folder / DATA)))
        tokenizer = tokenizer_from(metadata["tokenizer"])
        path = tokens or folder / str(data["tokens"])
        file = open_tokens(path)
        if file.tokenizer != tokenizer.state():
            raise UserError(f"{path} holds tokens of another tokenizer than this run's")
        parts = [_corpus(ids, data["separator"]) for ids in (file.train, file.val)]
        options, unknown = options_from(metadata["training"])
        if unknown:
            raise UserError(f"{folder} has options of another version: {', '.join(unknown)}")
        config = RUNGS[metadata["model"]].config(**metadata["config"])
        best = metadata["best"] and Best(**metadata["best"])
        recent = RecentLosses(**metadata["recent"])
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {error.filename}; make the folder with tiny-lm export --to torch, and "
            f"name a token file that lies elsewhere with --tokens"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(shown(error, LONGEST_MESSAGE)) from None
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no run of this version: {shown(error)}") from None
    rung, step, (train, val) = metadata["model"], metadata["step"], parts
    return Continued(metadata, stored, rung, config, options, step, best, recent, train, val, file)


def verify(run: Continued) -> None:
    """Read all of its token file. Raises UserError if it is another than the run has read."""
    try:
        run.file.verify()
    except (ValueError, OSError) as error:
        raise UserError(shown(error, LONGEST_MESSAGE)) from None


def _corpus(ids: FileIds, separator: Optional[int]) -> Corpus:
    """The part as the run has it; of lines, those between separators."""
    if separator is None:
        return RunningText(ids)
    return Lines(_between(ids, separator), separator)


def _between(ids: Iterable[int], separator: int) -> Iterator[list[int]]:
    line: list[int] = []
    for token in ids:
        if token == separator:
            yield line
            line = []
        else:
            line.append(token)
