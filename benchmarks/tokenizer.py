"""Measure how fast the byte-level BPE learns, encodes and decodes.

    python3 benchmarks/tokenizer.py FILE [SIZE ...]      a large text; 512 and 4096 tokens

Prints a line for each size of the vocabulary: the seconds that learning it takes; megabytes of
UTF-8 a second for encoding, at first (no piece is known yet) and again (all are), and for decoding;
and how many bytes a token holds. Each speed is the best of several. Where Hugging Face's tokenizers
are installed, a second line has theirs for the same text, with the same merges.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm import BPETokenizer
from tiny_llm.files.bpe_files import to_tokenizer_json
from tiny_llm.text.pretokenize import pattern

SIZES = (512, 4096)
ROUNDS = 5


def best_seconds(action: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """The time of `action` when the machine did nothing else, as nearly as can be known."""
    best = float("inf")
    for _ in range(rounds):
        start = perf_counter()
        action()
        best = min(best, perf_counter() - start)
    return best


def line(name: str, *figures: float) -> str:
    """A row of the table."""
    return f"{name:<24}" + "".join(f"{figure:>11.2f}" for figure in figures)


def ours(text: str, size: int) -> tuple[str, BPETokenizer]:
    """What we take, and the tokenizer."""
    megabytes = len(text.encode("utf-8")) / 1e6
    training = best_seconds(lambda: BPETokenizer.train(text, size), rounds=2)
    tokenizer = BPETokenizer.train(text, size)
    ids = tokenizer.encode(text)
    new = [BPETokenizer.from_state(tokenizer.state()) for _ in range(ROUNDS)]
    first = best_seconds(lambda: new.pop().encode(text))
    again = best_seconds(lambda: tokenizer.encode(text))
    decoding = best_seconds(lambda: tokenizer.decode(ids))
    speeds = (megabytes / seconds for seconds in (first, again, decoding))
    return line(f"{size:,} tokens", training, *speeds, megabytes * 1e6 / len(ids)), tokenizer


def theirs(text: str, tokenizer: BPETokenizer) -> str:
    """The speed of Hugging Face's tokenizers. Raises ImportError where they are not installed."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def train() -> Tokenizer:
        other = Tokenizer(models.BPE())
        other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        size = tokenizer.vocab_size - len(tokenizer.special_tokens)
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False
        )
        other.train_from_iterator([text], trainer)
        return other

    megabytes = len(text.encode("utf-8")) / 1e6
    learned = json.loads(train().to_str())["model"]["merges"]
    same = [tuple(merge) for merge in learned] == tokenizer.merges
    other = Tokenizer.from_str(to_tokenizer_json(tokenizer))
    ids = other.encode(text).ids
    same = same and ids == tokenizer.encode(text)
    training = best_seconds(train, rounds=2)
    encoding = megabytes / best_seconds(lambda: other.encode(text))
    decoding = megabytes / best_seconds(lambda: other.decode(ids))
    name = f"  tokenizers, {'equal' if same else 'DIFFERENT'}"
    return line(name, training, encoding, encoding, decoding, megabytes * 1e6 / len(ids))


def main() -> None:
    """Measure and print."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    text = Path(sys.argv[1]).read_text("utf-8")
    print(f"{platform.python_implementation()} {platform.python_version()}")
    print(f"the pattern of pieces: {best_seconds(pattern.__wrapped__) * 1e3:.0f} ms, once\n")
    heads = ("learn, s", "first", "again", "decode", "bytes each")
    print(f"{'':<24}" + "".join(f"{head:>11}" for head in heads))
    for size in [int(word) for word in sys.argv[2:]] or SIZES:
        row, tokenizer = ours(text, size)
        print(row, flush=True)
        with suppress(ImportError):
            print(theirs(text, tokenizer), flush=True)


if __name__ == "__main__":
    main()
