"""A training run as a file, and back: all of it to go on with, or the model alone to read with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from tiny_llm.fast.packed import Packed
from tiny_llm.fast.tensors import count, shape
from tiny_llm.files import checkpoint
from tiny_llm.files.atomic import backups
from tiny_llm.files.checkpoint import CheckpointError
from tiny_llm.files.portable import Chat
from tiny_llm.model import LanguageModel, Parameters
from tiny_llm.optimizers import Optimizer
from tiny_llm.run.errors import UserError, program, quoted
from tiny_llm.run.options import Options, options_from
from tiny_llm.run.rungs import RUNGS, build_optimizer
from tiny_llm.run.steps import RecentLosses
from tiny_llm.text.shown import LONGEST_MESSAGE, shown
from tiny_llm.text.tokenizers import Tokenizer, tokenizer_from

RUNS = Path("runs")
LEFT_OUT = "options of another version, which are left out here: "
MOMENT = "optimizer."  # begins the names of the optimizer's tensors in a checkpoint
REFERENCE = "reference."  # and those of the weights that a run of `dpo` began with


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
    optimizer: Optimizer  # of a run that was loaded for reading, one without its averages
    options: Options
    step: int = 0  # steps done
    best: Optional[Best] = None
    recent: RecentLosses = field(default_factory=RecentLosses)
    unknown: list[str] = field(default_factory=list)  # options in the file that are none here
    chat: Chat = field(default_factory=Chat)  # how it was taught to talk, if it was
    reference: Parameters = field(default_factory=dict)  # what `dpo` began with, to go on with
    came_from: str = ""  # the format of another program that it was read from

    @property
    def is_best(self) -> bool:
        """Whether no step had a lower validation loss than this one."""
        return self.best is not None and self.best.step == self.step

    @property
    def is_exhausted(self) -> bool:
        """Whether the patience has run out: so many evaluations since the best one."""
        options, best = self.options, self.best
        if not options.patience or not best:
            return False
        return self.step - best.step >= options.patience * options.eval_every


def is_packed(model: LanguageModel) -> bool:
    """Whether its matrices are int8 numbers."""
    return any(isinstance(tensor, Packed) for tensor in model.parameters.values())


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
        **({"chat": run.chat._asdict()} if run.chat.template else {}),
        **({"came_from": run.came_from} if run.came_from else {}),
    }
    reference = {REFERENCE + name: tensor for name, tensor in run.reference.items()}
    checkpoint.save(path, {**run.model.parameters, **moments, **reference}, metadata)


def load_run(path: Path, to_train: bool = False) -> Run:
    """The run in a checkpoint. Raises UserError, with what is wrong, if there is none.

    Only a run that goes on needs the optimizer's averages, and has to understand all options of its
    training: `to_train`. Whoever reads the model does without those of another version.
    """
    path = Path(path)
    try:
        tensors, metadata = checkpoint.load(
            path, wanted=lambda name: to_train or not name.startswith((MOMENT, REFERENCE))
        )
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; {instead(path)}") from None
    except IsADirectoryError:
        raise UserError(f"cannot read {path}: it is a folder without a config.json") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except CheckpointError as error:
        raise UserError(str(error)) from None
    try:
        run = _run_from(tensors, metadata, to_train)
    except KeyError as error:
        name = shown(error)
        raise UserError(f"{path} does not hold a run of this version: no {name}") from None
    except (ValueError, TypeError, AttributeError) as error:
        problem = shown(error, LONGEST_MESSAGE // 2)
        raise UserError(f"{path} does not hold a run of this version: {problem}") from None
    if to_train and is_packed(run.model):
        raise UserError(
            f"{path} has int8 weights, which are read and not trained; "
            f"take the checkpoint that it was made of"
        )
    return run


def instead(path: Path) -> str:
    """What to do about a checkpoint that is not there: take one that is, or make it."""
    for other in (path.with_name(path.name + ".safetensors"), backups(path)[0]):
        if other and other.is_file():
            return f"{other} is one, though"
    if path.suffix == ".gguf":
        return "give the path of one that is"
    return f"train one with: {making(path)}"


def making(path: Path) -> str:
    """What to type so that a model is saved to this file: the file's name tells a rung, or none."""
    stem = path.name.split(".")[0]
    words = [*program().split(), "train", *(["--model", stem] if stem in RUNGS else [])]
    usual = [RUNS / f"{stem}{best}.safetensors" for best in ("", ".best")]
    is_usual = stem in RUNGS and path in usual
    return " ".join(words if is_usual else [*words, "--out", quoted(str(path))])


def _run_from(tensors: Parameters, metadata: dict[str, Any], to_train: bool) -> Run:
    """Raises ValueError, TypeError, KeyError or AttributeError for content of another form."""
    if metadata["format"] != 1:
        raise ValueError(f"its format is {shown(repr(metadata['format']))}")
    rung = RUNGS[metadata["model"]]
    config, training = dict(metadata["config"]), dict(metadata["training"])
    if "dropout" in config:  # where it stood in the first files
        training.setdefault("dropout", config.pop("dropout"))
    _check_sizes(config, tensors)
    config = rung.config(**config)
    tokenizer = tokenizer_from(metadata["tokenizer"])
    if config.vocab_size != tokenizer.vocab_size:
        raise ValueError("its alphabet and its vocabulary differ in size")
    own = (MOMENT, REFERENCE)
    parameters = {k: v for k, v in tensors.items() if not k.startswith(own)}
    model = model_from(rung.model, config, parameters)
    options, unknown = options_from(training)
    if to_train and unknown:
        names = ", ".join(map(shown, unknown))
        raise ValueError(
            f"it cannot go on with {names}, which another version understands; "
            f"generate, eval and report can read it"
        )
    step = metadata["step"]
    last = step if "steps" in unknown else options.steps
    if type(step) is not int or not 0 <= step <= last:
        raise ValueError(f"it is at step {shown(repr(step))} of {last}")
    optimizer = build_optimizer(options)
    optimizer.steps = step
    if to_train and not is_packed(model):
        moments = {k[len(MOMENT) :]: v for k, v in tensors.items() if k.startswith(MOMENT)}
        optimizer.state = _checked_moments(optimizer, moments, parameters)
    needed = to_train and options.stage == "dpo" and not is_packed(model)
    best = _best_from(metadata["best"])
    recent = _recent_from(metadata["recent"])
    return Run(
        metadata["model"], model, tokenizer, optimizer, options, step, best, recent, unknown,
        _chat_from(metadata.get("chat", {}), tokenizer),
        _reference_from(tensors, parameters, needed),
        shown(metadata.get("came_from", "")),
    )  # fmt: skip


def _check_sizes(config: dict[str, Any], tensors: Parameters) -> None:
    """Raises ValueError for a model that its tensors cannot be, before anything grows with it.

    No size of a model is larger than the count of its numbers, nor are there more layers than
    tensors.
    """
    numbers = count(tensors)
    for name, value in config.items():
        most = len(tensors) if name == "n_layers" else numbers
        if name == "tie_embeddings" and type(value) is not bool:
            raise ValueError(f"{name} must be true or false, not {shown(repr(value))}")
        if type(value) is int and value > most:
            raise ValueError(f"{shown(name)} {value} does not fit its tensors")


def model_from(kind: Any, config: Any, parameters: Parameters) -> LanguageModel:
    """A model with these parameters, for which nothing is drawn.

    Raises ValueError if their names or shapes are not those that the config asks for.
    """
    layout = kind.layout(config)
    for name in sorted(layout.keys() ^ parameters.keys()):
        problem = "missing" if name in layout else "not one of this model's"
        raise ValueError(f"parameter {shown(name)} is {problem}")
    for name, start in layout.items():
        if shape(parameters[name]) != start.shape:
            raise ValueError(
                f"parameter {name} has shape {shape(parameters[name])}, not {start.shape}"
            )
    model: LanguageModel = kind.__new__(kind)
    model.config, model.parameters = config, {name: parameters[name] for name in layout}
    return model


def _checked_moments(
    optimizer: Optimizer, moments: Parameters, parameters: Parameters
) -> Parameters:
    """Raises ValueError unless the optimizer remembers what it should after its steps."""
    expected = {
        f"{moment}.{name}": shape(tensor)
        for moment in optimizer.moments
        for name, tensor in parameters.items()
    }
    if {name: shape(tensor) for name, tensor in moments.items()} != expected:
        raise ValueError("the optimizer's averages do not fit its parameters")
    return moments


def _reference_from(tensors: Parameters, parameters: Parameters, needed: bool) -> Parameters:
    """The weights that a run of `dpo` began with; none of another run, or of one that is read.

    Raises ValueError unless they are those of such a model, or if they are needed and missing.
    """
    found = {k[len(REFERENCE) :]: v for k, v in tensors.items() if k.startswith(REFERENCE)}
    expected = {name: shape(tensor) for name, tensor in parameters.items()}
    if (found or needed) and {name: shape(tensor) for name, tensor in found.items()} != expected:
        raise ValueError("the weights of its reference are not those of such a model")
    return {name: found[name] for name in parameters} if found else {}


def _best_from(values: Any) -> Optional[Best]:
    if values is None:
        return None
    best = Best(**values)
    if type(best.step) is not int or best.step < 0 or type(best.val_loss) is not float:
        raise ValueError(f"its best is {shown(repr(values))}")
    return best


def _chat_from(values: Any, tokenizer: Tokenizer) -> Chat:
    template, ends = values.get("template", ""), values.get("ends", [])
    is_known = all(type(end) is int and 0 <= end < tokenizer.vocab_size for end in ends)
    if not isinstance(template, str) or not is_known:
        raise ValueError(f"its way to chat is {shown(repr(values))}")
    return Chat(template, tuple(ends))


def _recent_from(values: Any) -> RecentLosses:
    recent = RecentLosses(**values)
    if type(recent.count) is not int or type(recent.total) is not float or recent.count < 0:
        raise ValueError(f"its recent losses are {shown(repr(values))}")
    return recent


def newest(ending: str) -> Optional[Path]:
    """The file in runs/ with this ending that was written last, if there is one."""
    found = filter(Path.is_file, RUNS.glob("*" + ending))
    return max(found, key=lambda path: (path.stat().st_mtime, path.name), default=None)


def newest_checkpoint() -> Path:
    """The checkpoint in runs/ that was written last. Raises UserError if there is none."""
    found = newest(".safetensors")
    if not found:
        raise UserError(
            f"there is no checkpoint in {RUNS}/; train a model first ({program()} train, or "
            f"{program()} recipe chat for one that talks), or name one with --checkpoint"
        )
    return found
