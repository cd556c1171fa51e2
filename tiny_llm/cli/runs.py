"""A training run as an object, as a file, and back; and the one table of rung name -> class."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

from tiny_llm import checkpoint
from tiny_llm.attention_lm import AttentionConfig, AttentionLanguageModel
from tiny_llm.checkpoint import CheckpointError
from tiny_llm.cli.errors import UsageError, UserError
from tiny_llm.contract import LanguageModel, replace_parameters, shape
from tiny_llm.mlp_lm import MLPConfig, MLPLanguageModel
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel
from tiny_llm.optimizers import SGD, AdamW, Optimizer
from tiny_llm.tokenizer import CharTokenizer

RUNS = Path("runs")
OPTIMIZERS: dict[str, Any] = {"sgd": SGD, "adamw": AdamW}


class Rung(NamedTuple):
    """A model class, and the training that suits it on a short text."""

    model: Any
    config: Any
    optimizer: str
    learning_rate: float
    warmup_steps: int
    batch_size: int
    repeat: int  # passes over the training text


RUNGS = {
    "mlp": Rung(MLPLanguageModel, MLPConfig, "sgd", 0.5, 0, 32, 12),
    "attention": Rung(AttentionLanguageModel, AttentionConfig, "sgd", 0.1, 0, 32, 12),
    "modern": Rung(ModernLanguageModel, ModernConfig, "adamw", 3e-3, 20, 2, 12),
}


@dataclass(frozen=True)
class Options:
    """What decides how a run goes, beside the text and the sizes: all that resuming it needs."""

    optimizer: str
    learning_rate: float
    schedule: str
    warmup_steps: int
    batch_size: int
    steps: int
    eval_every: int
    val_fraction: float
    seed: int
    text_sha256: str


@dataclass
class Run:
    """A model in training, or trained: what a checkpoint holds."""

    rung: str
    model: LanguageModel
    tokenizer: CharTokenizer
    optimizer: Optimizer
    options: Options
    step: int = 0  # steps done
    best_val_loss: Optional[float] = None  # nats per token
    best_step: int = 0


def build_config(rung: str, vocab_size: int, args: argparse.Namespace, **defaults: int) -> Any:
    """The config of a rung: sizes from the flags, else from `defaults`, else the rung's own.

    Raises UsageError for a size that this rung does not have, or that makes no sense.
    """
    config = RUNGS[rung].config
    own = [field.name for field in dataclasses.fields(config) if field.name != "vocab_size"]
    every = {f.name for r in RUNGS.values() for f in dataclasses.fields(r.config)} - {"vocab_size"}
    given = {name: getattr(args, name) for name in every if getattr(args, name) is not None}
    for name in sorted(given.keys() - set(own)):
        raise UsageError(
            f"{flag(name)} is no size of --model {rung}, which has {', '.join(map(flag, own))}"
        )
    try:
        return config(vocab_size, **{**defaults, **given})
    except ValueError as error:
        raise UsageError(str(error)) from None


def flag(name: str) -> str:
    """The flag that sets the option of this name."""
    return "--" + name.replace("_", "-")


def save_run(path: Path, run: Run) -> None:
    """Write the run to a checkpoint. Raises as `checkpoint.save` does."""
    tensors = dict(run.model.parameters)
    tensors.update({f"optimizer.{name}": moment for name, moment in run.optimizer.state.items()})
    checkpoint.save(
        path,
        tensors,
        {
            "format": 1,
            "model": run.rung,
            "config": dataclasses.asdict(run.model.config),
            "tokenizer": {"kind": "char", "characters": run.tokenizer.itos},
            "training": dataclasses.asdict(run.options),
            "step": run.step,
            "best": {"step": run.best_step, "val_loss": run.best_val_loss},
        },
    )


def load_run(path: Path) -> Run:
    """The run in a checkpoint. Raises UserError, with what is wrong, if there is none."""
    try:
        tensors, metadata = checkpoint.load(path)
        return _run_from(tensors, metadata)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; train one with: tiny-lm train") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except CheckpointError as error:
        raise UserError(str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} does not hold a model that can be built: {error}") from None


def _run_from(tensors: dict[str, Any], metadata: dict[str, Any]) -> Run:
    """Raises ValueError, TypeError, KeyError or AttributeError for metadata of another form."""
    if metadata["format"] != 1 or metadata["model"] not in RUNGS:
        raise ValueError("its format or its model is unknown to this version")
    rung = RUNGS[metadata["model"]]
    options = _record(Options, metadata["training"])
    tokenizer = CharTokenizer(metadata["tokenizer"]["characters"])
    model = rung.model(_record(rung.config, metadata["config"]))
    if model.config.vocab_size != tokenizer.vocab_size:
        raise ValueError("its alphabet and its vocabulary differ in size")
    prefix = "optimizer."
    replace_parameters(model, {k: v for k, v in tensors.items() if not k.startswith(prefix)})
    step, best = metadata["step"], metadata["best"]
    if type(step) is not int or not 0 <= step <= options.steps:
        raise ValueError(f"it is at step {step!r} of {options.steps}")
    optimizer = OPTIMIZERS[options.optimizer](options.learning_rate)
    optimizer.steps = step
    optimizer.state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    shapes = {
        f"{moment}.{name}": shape(tensor)
        for moment in optimizer.moments
        for name, tensor in model.parameters.items()
    }
    if step and {name: shape(tensor) for name, tensor in optimizer.state.items()} != shapes:
        raise ValueError("the optimizer's averages do not fit its parameters")
    return Run(
        metadata["model"],
        model,
        tokenizer,
        optimizer,
        options,
        step,
        best["val_loss"],
        best["step"],
    )


def _record(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass from a dict with the same names and types. Raises ValueError or TypeError."""
    record = kind(**values)
    for field in dataclasses.fields(kind):
        expected = {"int": int, "float": float, "str": str, "bool": bool}[str(field.type)]
        if type(values[field.name]) is not expected:
            raise ValueError(f"{field.name} is {values[field.name]!r}")
    return record


def newest_checkpoint() -> Path:
    """The checkpoint in runs/ that was written last. Raises UserError if there is none."""
    found = sorted(RUNS.glob("*.safetensors"), key=lambda path: (path.stat().st_mtime, path.name))
    if not found:
        raise UserError(
            f"there is no checkpoint in {RUNS}{'/'}; train a model first (tiny-lm train), "
            f"or name one with --checkpoint"
        )
    return found[-1]
