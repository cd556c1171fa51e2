"""Continue a prompt with a model and print it as it comes; show what the model looked at."""

from __future__ import annotations

import argparse
import random
import sys

from tiny_llm.cli.runs import Run
from tiny_llm.cli.texts import choose_prompt
from tiny_llm.sampling import generate
from tiny_llm.view.attention_map import attention_report
from tiny_llm.view.terminal import style_for


def print_sample(run: Run, args: argparse.Namespace, seed: int) -> None:
    """The prompt and its continuation to standard output, and with --show-attention the weights."""
    prompt = choose_prompt(args.prompt, run.tokenizer)
    ids = run.tokenizer.encode(prompt)
    if not args.quiet:
        print(
            f"prompt {prompt!r}, {args.max_new_tokens} more characters at temperature "
            f"{args.temperature:g}, seed {seed}:\n",
            file=sys.stderr,
            flush=True,
        )
    continuation = generate(
        run.model,
        ids,
        args.max_new_tokens,
        random.Random(seed),
        args.temperature,
        args.top_k,
        args.top_p,
    )
    print(_harmless(prompt), end="", flush=True)
    for token in continuation:
        print(_harmless(run.tokenizer.decode([token])), end="", flush=True)
    print(flush=True)
    if args.show_attention:
        print_attention(run, ids, args)


def _harmless(text: str) -> str:
    """The text; on a terminal its control characters, which could do anything there, escaped."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c >= " " or c in "\n\t" else repr(c)[1:-1] for c in text)


def print_attention(run: Run, ids: list[int], args: argparse.Namespace) -> None:
    """The weights of every layer and head on the end of these tokens that fits in the context."""
    context = ids[-run.model.config.context_length :]
    _, cache = run.model.forward([context])
    weights = run.model.attention(cache)[0]  # type: ignore[attr-defined]
    tokens = [run.tokenizer.decode([token]) for token in context]
    style = style_for(sys.stdout, args.color)
    print("\n" + attention_report(weights, tokens, style), flush=True)
