"""Measure what the KV cache is worth: tokens per second with it, and recomputing everything.

    python3 benchmarks/generation.py             one to two minutes on CPython
    python3 benchmarks/generation.py --every 1   recomputes for each token: a quarter of an hour

A prompt and what follows it fill one window. Recomputing costs the same for a token whether or not
the one before it was recomputed, so it is timed at every tenth token of the text that the cache has
written, from the first to the last part of the window, and has to choose the same token.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm import ModernConfig, ModernLanguageModel, Sampling, generate
from tiny_llm.fast.kv_cache import Reader

CONFIG = ModernConfig(65, context_length=256, d_model=128, n_heads=4, n_layers=4)
PROMPT = 56  # tokens


def continued(model: ModernLanguageModel, text: list[int], n: int, use_cache: bool) -> list[int]:
    """The likeliest n tokens."""
    reader = Reader(model, use_cache)
    return list(generate(model, text, n, Random(0), Sampling(temperature=0), reader))


def with_cache(model: ModernLanguageModel, prompt: list[int]) -> tuple[float, list[int]]:
    """Seconds per token, and the tokens that fill the window. The prompt's time is part of it."""
    n = CONFIG.context_length - len(prompt)
    start = time.perf_counter()
    tokens = continued(model, prompt, n, use_cache=True)
    return (time.perf_counter() - start) / n, tokens


def recomputing(
    model: ModernLanguageModel, prompt: list[int], tokens: list[int], every: int
) -> float:
    """Seconds per token, at every so many of these tokens."""
    places = range(every // 2, len(tokens), every)
    start = time.perf_counter()
    for place in places:
        text = prompt + tokens[:place]
        if continued(model, text, 1, use_cache=False) != tokens[place : place + 1]:
            raise SystemExit(f"another token after {len(text)}: the cache is wrong")
    return (time.perf_counter() - start) / len(places)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=10, metavar="N")
    every = parser.parse_args().every
    model, rng = ModernLanguageModel(CONFIG, seed=0), Random(0)
    prompt = [rng.randrange(CONFIG.vocab_size) for _ in range(PROMPT)]
    print(f"{platform.python_implementation()} {platform.python_version()}, {CONFIG}")
    continued(model, prompt, 20, use_cache=True)  # lets a compiler such as PyPy's warm up
    continued(model, prompt, 2, use_cache=False)
    cached, tokens = with_cache(model, prompt)
    print(f"with the KV cache       {1 / cached:9.2f} tokens/s", flush=True)
    whole = recomputing(model, prompt, tokens, every)
    print(f"recomputing everything  {1 / whole:9.2f} tokens/s")
    print(f"ratio                   {whole / cached:9.1f}")


if __name__ == "__main__":
    main()
