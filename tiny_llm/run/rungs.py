"""The one table of rung name -> class, with the training that suits it on the built-in corpus."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Optional

from tiny_llm.attention_lm import AttentionConfig, AttentionLanguageModel
from tiny_llm.mlp_lm import MLPConfig, MLPLanguageModel
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel
from tiny_llm.optimizers import SGD, AdamW, Optimizer
from tiny_llm.run.errors import UsageError
from tiny_llm.run.options import BY_NAME
from tiny_llm.text.tasks import TASKS


class Rung(NamedTuple):
    """A model class, its config, and how it is trained unless somebody says otherwise."""

    model: Any
    config: Any
    repeat: int  # passes over the training text
    options: dict[str, Any]  # in place of the defaults in options.py

    @property
    def sizes(self) -> list[str]:
        """The fields of its config that can be chosen."""
        fields = [field for field in dataclasses.fields(self.config) if field.type != "float"]
        return [field.name for field in fields if field.name != "vocab_size"]


RUNGS = {
    "mlp": Rung(
        MLPLanguageModel, MLPConfig, repeat=6,
        options={"optimizer": "sgd", "learning_rate": 0.1, "batch_size": 16},
    ),
    "attention": Rung(
        AttentionLanguageModel, AttentionConfig, repeat=8,
        options={"optimizer": "sgd", "learning_rate": 0.3, "batch_size": 16},
    ),
    "modern": Rung(
        ModernLanguageModel, ModernConfig, repeat=18,
        options={
            "optimizer": "adamw", "learning_rate": 0.008, "warmup_steps": 100, "batch_size": 4
        },
    ),
}  # fmt: skip

# What suits the tasks, in place of that: (sizes, options) of each rung.
ON_TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mlp": ({}, {"learning_rate": 0.3, "steps": 2000}),
    "attention": ({}, {"learning_rate": 0.3, "steps": 2000}),
    "modern": (
        {"d_model": 24, "n_heads": 1, "n_layers": 2},
        {"learning_rate": 0.003, "warmup_steps": 50, "batch_size": 16},
    ),
}


def suiting(task: str, rung: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sizes and the options of a rung that suit a task in place of its own; none without."""
    if not task:
        return {}, {}
    sizes, options = ON_TASKS[rung]
    steps = options.get("steps", TASKS[task].steps)
    return {"context_length": TASKS[task].window, **sizes}, {**options, "steps": steps}


def defaults_of(name: str) -> dict[str, Any]:
    """rung -> what it has of an option, a size or `repeat` unless somebody says otherwise."""
    defaults: dict[str, Any] = {}
    for rung, (_, config, repeat, options) in RUNGS.items():
        has = {field.name: field.default for field in dataclasses.fields(config)}
        has.update({"repeat": repeat, **{n: field.default for n, field in BY_NAME.items()}})
        if name in {**has, **options}:
            defaults[rung] = {**has, **options}[name]
    return defaults


def in_words(defaults: dict[str, Any]) -> str:
    """Defaults of rungs: "0" if all have the same, "mlp 0.3, attention 0.5" if each has its own."""
    words = {rung: _word(value) for rung, value in defaults.items()}
    if words.keys() == RUNGS.keys() and len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{rung} {word}" for rung, word in words.items())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def build_optimizer(options: Any) -> Optimizer:
    """The optimizer that the options of a run describe."""
    if options.optimizer == "sgd":
        return SGD(options.learning_rate)
    return AdamW(
        options.learning_rate, options.beta1, options.beta2, weight_decay=options.weight_decay
    )


def build_config(rung: str, vocab_size: int, sizes: dict[str, Optional[Any]]) -> Any:
    """The config of a rung: the given sizes (None: not given), else the rung's own.

    Raises UsageError for a size that this rung does not have, or that makes no sense.
    """
    own = RUNGS[rung].sizes
    given = {name: value for name, value in sizes.items() if value is not None}
    for name in sorted(given.keys() - set(own)):
        raise UsageError(
            f"{flag(name)} is no size of --model {rung}, which has {', '.join(map(flag, own))}"
        )
    for field in dataclasses.fields(RUNGS[rung].config):
        value = given.get(field.name, False)
        if field.type in (bool, "bool") and type(value) is not bool:
            raise UsageError(f"{flag(field.name)} must be True or False, not {value!r}")
    try:
        return RUNGS[rung].config(vocab_size, **given)
    except ValueError as error:
        raise UsageError(str(error)) from None


def flag(name: str) -> str:
    """The flag that sets the option of this name."""
    return "--" + name.replace("_", "-")
