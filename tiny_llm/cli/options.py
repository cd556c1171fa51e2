"""The flags that several commands share, and the checks that need nothing but the flag itself."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, Callable, Optional

from tiny_llm.beyond.builtin import ABOUT
from tiny_llm.fast.products import WAYS
from tiny_llm.run.errors import UsageError, problem_with_name
from tiny_llm.run.options import BY_NAME, LARGEST, TYPES, problem_with
from tiny_llm.run.rungs import RUNGS, defaults_of, flag, in_words
from tiny_llm.run.sources import Cut

SAMPLE_LENGTH = 200
TEMPERATURE = 0.7
LEAST_VOCAB = 257  # the bytes, and what separates documents
SIZES = {
    "context_length": "tokens that the model sees at once",
    "d_embedding": "numbers in a token's embedding",
    "d_hidden": "hidden units",
    "d_model": "width of every position's vector",
    "n_heads": "attention heads in a block",
    "n_kv_heads": "heads of keys and values, which those of queries share",
    "n_layers": "blocks",
    "tie_embeddings": "one table to read and to write tokens",
}
MATMUL_VARIABLE = "TINY_LM_MATMUL"


def whole_number(least: int) -> Callable[[str], int]:
    """A parser of whole numbers that are at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
        if value > LARGEST:
            raise argparse.ArgumentTypeError(f"must be at most {LARGEST:,}")
        return value

    return parse


def number(description: str, accepts: Callable[[float], bool]) -> Callable[[str], float]:
    """A parser of finite numbers that `accepts` accepts; `description` says which these are."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (math.isfinite(value) and accepts(value)):
            kind = "" if math.isfinite(value) else "a finite number "
            raise argparse.ArgumentTypeError(f"must be {kind}{description}, not {text}")
        return value

    return parse


def file_name(text: str) -> Path:
    """A path that is not empty, and no address of something elsewhere."""
    return Path(data_name(text))


def data_name(text: str) -> str:
    """As `file_name`, or - for standard input."""
    problem = problem_with_name(text)
    if problem:
        raise argparse.ArgumentTypeError(f"{text} {problem}".lstrip())
    return text


def text_encoding(name: str) -> str:
    """The name of an encoding that Python knows."""
    try:
        "".encode(name)  # refuses what Python calls an encoding though it makes no bytes of text
        b"".decode(name)
    except (LookupError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{name!r} is not an encoding that Python knows; try utf-8, cp1252 or utf-16"
        ) from None
    return name


def prompt_text(text: str) -> str:
    """A prompt that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give at least one character to continue")
    return text


def stop_text(text: str) -> str:
    """A text to stop at that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; leave it out to stop nowhere")
    return text


def add_data(
    parser: argparse.ArgumentParser,
    what: str = "a text file, one of tokens (see prepare), or - for standard input (built-in "
    "corpus)",
) -> argparse._ArgumentGroup:
    """--data, --encoding, and the group for more of their kind."""
    group = parser.add_argument_group("text")
    group.add_argument(
        "--data",
        type=data_name,
        metavar="FILE",
        help=what,
    )
    group.add_argument(
        "--encoding", type=text_encoding, default="utf-8", help="of the text (%(default)s)"
    )
    return group


def add_builtin(group: argparse._ActionsContainer, names: tuple[str, ...]) -> None:
    """--builtin."""
    about = "; ".join(f"{name}, {ABOUT[name]}" for name in names)
    group.add_argument("--builtin", choices=names, help=f"instead of --data: {about} ({names[0]})")


def add_cutting(group: argparse._ArgumentGroup) -> None:
    """How the text of a new run is cut into documents and tokens."""
    group.add_argument(
        "--lines",
        action="store_true",
        default=None,
        help="every line is a document of its own (names): contexts do not go beyond it, and "
        "lines throughout the text are held out",
    )
    group.add_argument(
        "--tokenizer",
        choices=("char", "bpe"),
        help="tokens are characters, or pieces of words learned from the text (char)",
    )
    group.add_argument(
        "--vocab-size",
        type=whole_number(LEAST_VOCAB),
        metavar="N",
        help="different pieces (bpe: 512)",
    )
    group.add_argument(
        "--tokenizer-file",
        type=file_name,
        metavar="FILE",
        help="a tokenizer made before: tokenizer.json, or a folder with vocab.json and merges.txt",
    )


def add_sizes(
    parser: argparse.ArgumentParser, small: Optional[dict[str, dict[str, Any]]] = None
) -> None:
    """The sizes of a model, with what each rung has of them. small: rung -> other defaults."""
    group = parser.add_argument_group("size of the model")
    for size, meaning in SIZES.items():
        defaults = defaults_of(size)
        for rung, sizes in (small or {}).items():
            defaults.update({rung: sizes[size]} if size in sizes else {})
        reading: Any = {"type": whole_number(1), "metavar": "N"}
        if size == "tie_embeddings":
            reading = {"action": argparse.BooleanOptionalAction, "default": None}
        group.add_argument(flag(size), **reading, help=f"{meaning} ({in_words(defaults)})")


def add_training(
    parser: argparse.ArgumentParser, own: Optional[dict[str, Any]] = None, more: str = ""
) -> None:
    """How long, how fast and in which portions to learn: the flags of run/options.py.

    own: defaults of a command that has its own, None where there is no such flag. more: another
    group of options.
    """
    groups = {
        name: parser.add_argument_group(name)
        for name in ("training", "optimizer", "validation", more)
        if name
    }
    own = own or {}
    length = groups["training"].add_mutually_exclusive_group()
    length.add_argument(
        "--repeat",
        type=whole_number(1),
        metavar="N",
        help=f"passes over the training text ({_default('repeat', own)})",
    )
    length.add_argument(
        "--steps", type=whole_number(1), metavar="N", help="instead: the whole length of the run"
    )
    for name in BY_NAME:
        group = groups.get(BY_NAME[name].metadata["group"])
        if group and BY_NAME[name].metadata["help"] and own.get(name, ()) is not None:
            add_option(group, name, own)
    add_matmul(groups["training"], "auto")
    add_seed(groups["training"])


def _default(name: str, own: dict[str, Any]) -> str:
    """What is taken unless somebody says otherwise, in words."""
    return in_words(dict.fromkeys(RUNGS, own[name]) if name in own else defaults_of(name))


def add_option(
    group: argparse._ActionsContainer, name: str, own: Optional[dict[str, Any]] = None
) -> None:
    """The flag of one option of a run; without it, its value is None: not given."""
    field = BY_NAME[name]
    kind: Any = TYPES[str(field.type)]
    metadata = field.metadata

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        problem = problem_with(field, value)
        if problem:
            raise argparse.ArgumentTypeError(problem)
        return value

    choices = metadata["choices"]
    reading: Any = (
        {"choices": choices} if choices else {"type": parse, "metavar": "NX"[kind is float]}
    )
    about, is_stated, _ = metadata["help"].partition(" (")
    if not is_stated or name in (own or {}):
        about = f"{about} ({_default(name, own or {})})"
    else:
        about = metadata["help"]
    group.add_argument(*(metadata["flags"] or [flag(name)]), **reading, help=about)


def add_matmul(parser: argparse._ActionsContainer, default: str) -> None:
    """--matmul."""
    parser.add_argument(
        "--matmul",
        choices=("auto", "float64", *WAYS),
        help=f"the way to multiply matrices, also set by {MATMUL_VARIABLE} ({default})",
    )


def chosen_matmul(given: Optional[str], default: str) -> str:
    """The way that the flag names, else the environment, else the command's default."""
    way = given or os.environ.get(MATMUL_VARIABLE) or default
    if way not in ("auto", "float64", *WAYS):
        raise UsageError(
            f"{MATMUL_VARIABLE} is {way!r}, which is no way to multiply here; "
            f"these are auto, float64, {', '.join(WAYS)}"
        )
    return way


def sizes_of(args: argparse.Namespace) -> dict[str, Any]:
    """The sizes of a model that the command line gives; None: not given."""
    return {name: getattr(args, name) for name in SIZES}


def cut_of(args: argparse.Namespace) -> Cut:
    """How the command line wants a text cut."""
    return Cut(
        getattr(args, "val_fraction", None),
        args.lines,
        args.tokenizer,
        args.vocab_size,
        args.tokenizer_file,
    )


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a run that the command line gives; None: not given."""
    given = {name: getattr(args, name, None) for name in BY_NAME if name != "task"}
    given["matmul"] = args.matmul or os.environ.get(MATMUL_VARIABLE)
    if given["matmul"]:
        chosen_matmul(args.matmul, "auto")
    return given


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How to continue a prompt."""
    group = parser.add_argument_group("sampling")
    group.add_argument("-p", "--prompt", type=prompt_text, help="the text to continue")
    add_special(group)
    add_length(group, SAMPLE_LENGTH)
    add_drawing(group, TEMPERATURE, 1.0)
    _add_samples(group)


def add_length(group: argparse._ActionsContainer, default: int) -> None:
    """--max-new-tokens."""
    group.add_argument(
        "-n",
        "--max-new-tokens",
        "--sample-length",
        type=whole_number(0),
        default=default,
        metavar="N",
        help="tokens to write (%(default)s)",
    )


def add_drawing(group: argparse._ActionsContainer, temperature: float, top_p: float) -> None:
    """How the next token is drawn."""
    group.add_argument(
        "--temperature",
        type=number("at least 0", lambda value: value >= 0),
        default=temperature,
        metavar="X",
        help="below 1: likely tokens more often; 0: only the likeliest (%(default)s)",
    )
    group.add_argument(
        "--top-k",
        type=whole_number(0),
        default=0,
        metavar="K",
        help="draw from the K likeliest tokens; 0: from all (%(default)s)",
    )
    group.add_argument(
        "--top-p",
        type=number("above 0 and at most 1", lambda value: 0 < value <= 1),
        default=top_p,
        metavar="P",
        help="draw from the fewest tokens with probability P in all; 1: from all (%(default)s)",
    )


def add_special(group: argparse._ActionsContainer) -> None:
    """--allow-special."""
    group.add_argument(
        "--allow-special",
        action="store_true",
        help="the prompt's '<|endoftext|>' is the token that separates documents, so that the "
        "model begins one; without this, it is text like any other (bpe)",
    )


def _add_samples(group: argparse._ArgumentGroup) -> None:
    """How many texts, where each ends, and how they come about."""
    group.add_argument(
        "--num-samples",
        type=whole_number(1),
        default=1,
        metavar="K",
        help="texts to write, in one batch; the i-th is that of --seed + i - 1 (%(default)s)",
    )
    group.add_argument(
        "--stop",
        type=stop_text,
        metavar="TEXT",
        help="a sample ends before this text; a newline ($'\\n' in bash): one sample a line",
    )
    group.add_argument(
        "--no-kv-cache",
        dest="kv_cache",
        action="store_false",
        help="compute the whole window for every token: the same text, slower (modern)",
    )


def add_display(parser: argparse.ArgumentParser, attention: bool = True) -> None:
    """--show-attention, --color, --quiet, --debug."""
    group = parser.add_argument_group("display")
    if attention:
        group.add_argument(
            "--show-attention",
            action="store_true",
            help="show which tokens of the prompt the model looks at (attention, modern)",
        )
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="auto: in a terminal, unless NO_COLOR is set (%(default)s)",
    )
    group.add_argument("--quiet", action="store_true", help="results and errors only")
    group.add_argument("--debug", action="store_true", help="on an error, show where it happened")


def add_seed(parser: argparse._ActionsContainer) -> None:
    """--seed."""
    parser.add_argument(
        "--seed",
        type=whole_number(0),
        default=None,
        metavar="N",
        help="of all that is random; the same seed gives the same result (0)",
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """A saved model, by itself or behind --checkpoint."""
    parser.add_argument(
        "model_file",
        nargs="?",
        type=file_name,
        metavar="CHECKPOINT",
        help="as --checkpoint names it",
    )
    parser.add_argument(
        "-c",
        "--checkpoint",
        type=file_name,
        metavar="FILE",
        help="a saved model, a Hugging Face folder or a GGUF file (the newest in runs/)",
    )


def add_int8(parser: argparse.ArgumentParser) -> None:
    """--int8."""
    parser.add_argument(
        "--int8",
        action="store_true",
        help="round the weights to one byte each: faster, and a little less exact",
    )


def add_sharing(parser: argparse._ActionsContainer) -> None:
    """--workers, of a model that writes."""
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        choices=(1, 2),
        default=1,
        help="processes, which share int8 weights and write the same text (%(default)s)",
    )


def checkpoint_of(args: argparse.Namespace) -> Optional[Path]:
    """The saved model that is named, if one is. Raises UsageError if two are."""
    bare: Optional[Path] = getattr(args, "model_file", None)
    named: Optional[Path] = args.checkpoint
    if bare and named and bare != named:
        raise UsageError("two checkpoints are named, one of them with --checkpoint; name one")
    of_recipe: Optional[Path] = getattr(args, "recipe_checkpoint", None)
    return bare or named or of_recipe
