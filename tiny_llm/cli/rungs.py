"""The one table of rung name -> class, and the sizes that the command line gives a rung."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, NamedTuple

from tiny_llm.attention_lm import AttentionConfig, AttentionLanguageModel
from tiny_llm.cli.errors import UsageError
from tiny_llm.mlp_lm import MLPConfig, MLPLanguageModel
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel
from tiny_llm.optimizers import SGD, AdamW

OPTIMIZERS: dict[str, Any] = {"sgd": SGD, "adamw": AdamW}
SCHEDULES = ("cosine", "constant")


class Rung(NamedTuple):
    """A model class, and the training that suits it on the built-in corpus."""

    model: Any
    config: Any
    optimizer: str
    learning_rate: float
    warmup_steps: int
    batch_size: int
    repeat: int  # passes over the training text


RUNGS = {
    "mlp": Rung(MLPLanguageModel, MLPConfig, "sgd", 0.3, 0, 16, 8),
    "attention": Rung(AttentionLanguageModel, AttentionConfig, "sgd", 0.5, 0, 16, 14),
    "modern": Rung(ModernLanguageModel, ModernConfig, "adamw", 0.008, 100, 4, 20),
}


def build_optimizer(options: Any) -> Any:
    """The optimizer that the options of a run describe. Raises KeyError for an unknown name."""
    kind = OPTIMIZERS[options.optimizer]
    if kind is SGD:
        return SGD(options.learning_rate)
    return AdamW(
        options.learning_rate, options.beta1, options.beta2, weight_decay=options.weight_decay
    )


def build_config(rung: str, vocab_size: int, args: argparse.Namespace, **defaults: Any) -> Any:
    """The config of a rung: sizes from the flags, else from `defaults`, else the rung's own.

    Raises UsageError for a size that this rung does not have, or that makes no sense.
    """
    own = _sizes(RUNGS[rung])
    every = {name for other in RUNGS.values() for name in _sizes(other)}
    if rung != "modern" and getattr(args, "dropout", None):
        raise UsageError(f"--dropout is only there for --model modern, not for {rung}")
    given = {name: getattr(args, name) for name in every if getattr(args, name) is not None}
    for name in sorted(given.keys() - set(own)):
        raise UsageError(
            f"{flag(name)} is no size of --model {rung}, which has {', '.join(map(flag, own))}"
        )
    try:
        return RUNGS[rung].config(vocab_size, **{**defaults, **given})
    except ValueError as error:
        raise UsageError(str(error)) from None


def _sizes(rung: Rung) -> list[str]:
    """The fields of the rung's config that a flag can set."""
    return [field.name for field in dataclasses.fields(rung.config) if field.name != "vocab_size"]


def flag(name: str) -> str:
    """The flag that sets the option of this name."""
    return "--" + name.replace("_", "-")
