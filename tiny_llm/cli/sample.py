"""Continue a prompt with a model and print it as it comes; show what the model looked at.

Standard output carries the samples alone, each with its prompt and a newline at its end. Between
two samples stands an empty line, but none where `--stop` is a newline: then each sample is a line.
Newlines that begin the prompt are for the model only: a sample begins a line anyway.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tiny_llm.cli.task import task_prompt
from tiny_llm.fast.tensors import check_finite
from tiny_llm.fast.writer import Writer
from tiny_llm.matmul import Matrix
from tiny_llm.run.saved import Run
from tiny_llm.run.texts import choose_prompt
from tiny_llm.sampling import Sampling
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.shown import shown
from tiny_llm.text.stream import TextStream
from tiny_llm.view.attention_map import attention_report
from tiny_llm.view.terminal import style_for, tell

LARGEST_BATCH = 256  # samples written at once: more take more memory, and hardly less time each


class Piece(NamedTuple):
    """A part of a sample's text, and whether it is the last."""

    sample: int
    text: str
    is_last: bool


def print_sample(run: Run, args: argparse.Namespace, seed: int) -> None:
    """The prompt and its continuations to standard output, and with --show-attention the weights.

    Sample i has the seed `seed` + i, so --seed alone writes any of them again.
    """
    prompt = prompt_of(run, args)
    ids = prompt_ids(run, args)
    unit = run.tokenizer.unit + "s"
    several = f"{args.num_samples} samples, " if args.num_samples > 1 else ""
    _heading(
        args,
        f"prompt {shown(repr(prompt), 200)}, {several}{args.max_new_tokens} more {unit} at "
        f"temperature {args.temperature:g}, seed {seed}",
    )
    for sample, text, is_last in in_order(_pieces(run, ids, args, seed)):
        print(_harmless(text), end="\n" if is_last else "", flush=True)
        if is_last and sample + 1 < args.num_samples and args.stop != "\n":
            print(flush=True)
            _heading(args, f"sample {sample + 2}, seed {seed + sample + 1}")
    if args.show_attention:
        print_attention(run, ids, args)


def prompt_of(run: Run, args: argparse.Namespace) -> str:
    """What the run's samples begin with."""
    if args.prompt is None and run.options.task:
        return task_prompt(run.options.task)
    options = run.options
    return choose_prompt(args.prompt, run.tokenizer, options.lines, options.text_beginning)


def prompt_ids(run: Run, args: argparse.Namespace) -> list[int]:
    """The tokens of that; with --allow-special, special ones where the prompt names them.

    Raises ValueError for characters that the model does not know.
    """
    prompt, tokenizer = prompt_of(run, args), run.tokenizer
    if args.allow_special and isinstance(tokenizer, BPETokenizer):
        return tokenizer.encode(prompt, tokenizer.special_tokens)
    return tokenizer.encode(prompt)


def _heading(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        tell(f"{line}:")
        tell("")


def _pieces(run: Run, ids: list[int], args: argparse.Namespace, seed: int) -> Iterator[Piece]:
    """The texts of all samples as they come, in batches."""
    for first in range(0, args.num_samples, LARGEST_BATCH):
        samples = range(first, min(first + LARGEST_BATCH, args.num_samples))
        rngs = [random.Random(seed + sample) for sample in samples]
        for sample, text, is_last in _batch(run, ids, args, rngs):
            yield Piece(first + sample, text, is_last)


def _batch(
    run: Run, ids: list[int], args: argparse.Namespace, rngs: list[random.Random]
) -> Iterator[Piece]:
    """A batch of samples, one for each generator: each the prompt, then its own text."""
    prompt = run.tokenizer.decode(ids).lstrip("\n")
    streams = [TextStream(run.tokenizer.token_bytes, args.stop or "") for _ in rngs]
    for sample in range(len(rngs)):
        yield Piece(sample, prompt, False)
    separator = run.tokenizer.encode("\n")[0] if run.options.lines else None
    sampling = Sampling(args.temperature, args.top_k, args.top_p)
    writer = Writer(run.model, ids, rngs, sampling, args.kv_cache, separator)
    for _ in range(args.max_new_tokens):
        if not writer.windows:
            break
        for sample, token in writer.step().items():
            text = streams[sample].add(token)
            if streams[sample].stopped:
                writer.end(sample)
            yield Piece(sample, text, streams[sample].stopped)
    for sample in list(writer.windows):
        yield Piece(sample, streams[sample].end(), True)


def in_order(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces sample by sample: of the first that has not ended as they come, others later."""
    waiting: dict[int, Piece] = {}
    shown = 0
    for sample, text, is_last in pieces:
        text = waiting[sample].text + text if sample in waiting else text
        waiting[sample] = Piece(sample, text, is_last)
        while shown in waiting:
            piece = waiting.pop(shown)
            if piece.text or piece.is_last:
                yield piece
            if not piece.is_last:
                break
            shown += 1


def _harmless(text: str) -> str:
    """The text; on a terminal what could do anything there is escaped, but for lines and tabs."""
    return shown(text, 0, keep="\n\t") if sys.stdout.isatty() else text


def print_attention(run: Run, ids: list[int], args: argparse.Namespace) -> None:
    """The weights of every layer and head on the end of these tokens that fits in the context."""
    style = style_for(sys.stdout, args.color)
    print("\n" + attention_report(*attention_of(run, ids), style), flush=True)


def attention_of(run: Run, ids: list[int]) -> tuple[list[list[Matrix]], list[str]]:
    """Layers x heads x Q x K on the end of these tokens that fits in the context; the K tokens.

    Raises ValueError if they are no finite numbers.
    """
    context = ids[-run.model.config.context_length :]
    _, cache = run.model.forward([context])
    weights = run.model.attention(cache)[0]
    check_finite(row for heads in weights for head in heads for row in head)
    return weights, [run.tokenizer.decode([token]) for token in context]
