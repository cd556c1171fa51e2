"""A training run as an object, as a file, and back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from tiny_llm.cli.errors import UserError
from tiny_llm.cli.options import program
from tiny_llm.cli.rungs import RUNGS, SCHEDULES, build_optimizer
from tiny_llm.fast.tensors import shape
from tiny_llm.files import checkpoint
from tiny_llm.files.checkpoint import CheckpointError
from tiny_llm.model import LanguageModel, Parameters
from tiny_llm.optimizers import Optimizer
from tiny_llm.run.steps import RecentLosses
from tiny_llm.text.tokenizers import Tokenizer, tokenizer_from

RUNS = Path("runs")
MOMENT = "optimizer."  # begins the names of the optimizer's tensors in a checkpoint


@dataclass(frozen=True)
class Options:
    """What decides how a run goes, beside the text and the sizes: all that resuming it needs."""

    optimizer: str
    learning_rate: float
    schedule: str
    min_lr: float
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float
    dropout: float
    batch_size: int
    gradient_accumulation_steps: int
    steps: int
    eval_every: int
    patience: int  # evaluations without a better one after which the run ends; 0: it never does
    val_fraction: float
    lines: bool  # every line is a document of its own
    seed: int
    matmul: str
    workers: int
    text_sha256: str

    def __post_init__(self) -> None:
        """Raises ValueError for what no command line would have accepted."""
        batch = self.batch_size, self.gradient_accumulation_steps
        least_one = min(*batch, self.steps, self.eval_every)
        if (
            least_one < 1
            or min(self.warmup_steps, self.patience, self.seed, self.weight_decay, self.grad_clip)
            < 0
            or not (0 <= self.min_lr <= self.learning_rate and self.learning_rate > 0)
            or not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 < self.val_fraction < 1)
            or self.schedule not in SCHEDULES
        ):
            raise ValueError("its training options make no sense")


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far, in nats per token, and when it was."""

    step: int
    val_loss: float


@dataclass
class Run:
    """A model in training, or trained: what a checkpoint holds."""

    rung: str
    model: LanguageModel
    tokenizer: Tokenizer
    optimizer: Optimizer
    options: Options
    step: int = 0  # steps done
    best: Optional[Best] = None
    recent: RecentLosses = field(default_factory=RecentLosses)

    @property
    def is_best(self) -> bool:
        """Whether no step had a lower validation loss than this one."""
        return self.best is not None and self.best.step == self.step


def save_run(path: Path, run: Run) -> None:
    """Write the run to a checkpoint. Raises as `checkpoint.save` does."""
    moments = {MOMENT + name: moment for name, moment in run.optimizer.state.items()}
    metadata = {
        "format": 1,
        "model": run.rung,
        "config": dataclasses.asdict(run.model.config),
        "tokenizer": run.tokenizer.state(),
        "training": dataclasses.asdict(run.options),
        "step": run.step,
        "best": run.best and dataclasses.asdict(run.best),
        "recent": dataclasses.asdict(run.recent),
    }
    checkpoint.save(path, {**run.model.parameters, **moments}, metadata)


def load_run(path: Path) -> Run:
    """The run in a checkpoint. Raises UserError, with what is wrong, if there is none."""
    try:
        tensors, metadata = checkpoint.load(path)
    except FileNotFoundError:
        raise UserError(
            f"there is no checkpoint {path}; train one with: {program()} train"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except CheckpointError as error:
        raise UserError(str(error)) from None
    try:
        return _run_from(tensors, metadata)
    except KeyError as error:
        raise UserError(f"{path} does not hold a run of this version: no {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold a run of this version: {error}") from None


def _run_from(tensors: Parameters, metadata: dict[str, Any]) -> Run:
    """Raises ValueError, TypeError, KeyError or AttributeError for content of another form."""
    if metadata["format"] != 1:
        raise ValueError(f"its format is {metadata['format']!r}")
    rung = RUNGS[metadata["model"]]
    tokenizer = tokenizer_from(metadata["tokenizer"])
    config, training = dict(metadata["config"]), dict(metadata["training"])
    training.setdefault("dropout", config.pop("dropout", 0.0))  # where it was until 0.1
    model = rung.model(_record(rung.config, config))
    if model.config.vocab_size != tokenizer.vocab_size:
        raise ValueError("its alphabet and its vocabulary differ in size")
    parameters = {k: v for k, v in tensors.items() if not k.startswith(MOMENT)}
    replace_parameters(model, parameters)
    options = _record(Options, training)
    step, best = metadata["step"], metadata["best"]
    if type(step) is not int or not 0 <= step <= options.steps:
        raise ValueError(f"it is at step {step!r} of {options.steps}")
    optimizer = build_optimizer(options)
    optimizer.steps = step
    optimizer.state = {k[len(MOMENT) :]: v for k, v in tensors.items() if k.startswith(MOMENT)}
    _check_moments(optimizer, parameters)
    best = None if best is None else _record(Best, best)
    recent = _record(RecentLosses, metadata["recent"])
    return Run(metadata["model"], model, tokenizer, optimizer, options, step, best, recent)


def _check_moments(optimizer: Optimizer, parameters: Parameters) -> None:
    """Raises ValueError unless the optimizer remembers what it should after its steps."""
    expected = {
        f"{moment}.{name}": shape(tensor)
        for moment in optimizer.moments
        for name, tensor in parameters.items()
    }
    if {name: shape(tensor) for name, tensor in optimizer.state.items()} != expected:
        raise ValueError("the optimizer's averages do not fit its parameters")


def _record(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass from a dict with the same names and types. Raises ValueError or TypeError."""
    record = kind(**values)
    types = {"int": int, "float": float, "str": str, "bool": bool}
    for entry in dataclasses.fields(kind):
        if type(values[entry.name]) is not types[getattr(entry.type, "__name__", str(entry.type))]:
            raise ValueError(f"{entry.name} is {values[entry.name]!r}")
    return record


def newest_checkpoint() -> Path:
    """The checkpoint in runs/ that was written last. Raises UserError if there is none."""
    found = sorted(RUNS.glob("*.safetensors"), key=lambda path: (path.stat().st_mtime, path.name))
    if not found:
        raise UserError(
            f"there is no checkpoint in {RUNS}/; train a model first ({program()} train), "
            f"or name one with --checkpoint"
        )
    return found[-1]


def replace_parameters(model: LanguageModel, parameters: Parameters) -> None:
    """Give the model these parameters. Raises ValueError if their names or shapes are others."""
    for name in sorted(model.parameters.keys() ^ parameters.keys()):
        problem = "missing" if name in model.parameters else "not one of this model's"
        raise ValueError(f"parameter {name} is {problem}")
    for name, own in model.parameters.items():
        if shape(own) != shape(parameters[name]):
            raise ValueError(
                f"parameter {name} has shape {shape(parameters[name])}, not {shape(own)}"
            )
    model.parameters.update(parameters)
