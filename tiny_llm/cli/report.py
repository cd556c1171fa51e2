"""tiny-lm report: a trained model as one HTML page that can be handed out.

checkpoint --> the model itself: samples, surprise, attention, embeddings, sizes   \\
metrics beside it --> the loss curves                                               > report.html
--data, if it is the text of the training --> its counts, held-out passage, counting pairs  /
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from typing import Any, NamedTuple, Optional

from tiny_llm.beyond.answering import as_question, can_be_asked
from tiny_llm.cli import options as flags
from tiny_llm.cli import report_stages
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.introduce import count_parameters
from tiny_llm.cli.options import whole_number
from tiny_llm.cli.sample import prompt_of
from tiny_llm.files import atomic
from tiny_llm.files.foreign import beginning_of
from tiny_llm.run.errors import UserError, check_out, writing
from tiny_llm.run.files import metrics_beside
from tiny_llm.run.metrics import has_measured, read_metrics
from tiny_llm.run.saved import LEFT_OUT, Run, newest_checkpoint
from tiny_llm.run.sources import Material, read_source
from tiny_llm.text.corpus import Lines
from tiny_llm.text.shown import shown
from tiny_llm.text.yardsticks import bigram_loss, guessing_loss
from tiny_llm.view.report.facts import (
    Curves,
    Measured,
    curves_of,
    embedding_map,
    functions_of,
    parameter_parts,
    read_passage,
    write_samples,
)
from tiny_llm.view.report.page import GENERATOR, Report, render
from tiny_llm.view.report.pictures import Yardstick
from tiny_llm.view.terminal import loss_text, tell

TEMPERATURES = (0.0, 0.7, 1.2)
OWN = 1  # which of them writes the passage, where there is no other
SHORTEST, LONGEST_SAMPLE, LONGEST_PASSAGE = 40, 160, 120  # tokens
QUESTION = "What is a token?"  # to a model that was taught to talk
# Multiplications that all samples may cost together: a few seconds' worth on CPython. The passage
# may cost a third of it, since its tokens go through the model together.
AFFORDABLE = 90_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `report`."""
    parser.description = (
        "Write one HTML page about a saved model: what it was trained on, its loss curves, "
        "samples, what surprises it, what it looks at, its embeddings and its size. The page needs "
        "nothing but a browser."
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=flags.file_name,
        metavar="FILE",
        help="the page (CHECKPOINT with .report.html)",
    )
    parser.add_argument(
        "--metrics",
        type=flags.file_name,
        metavar="FILE",
        help="of the run (those beside the checkpoint)",
    )
    flags.add_data(parser)
    parser.add_argument(
        "-p",
        "--prompt",
        type=flags.prompt_text,
        help="the text that samples continue and that the model reads (reads: held-out text)",
    )
    parser.add_argument(
        "-n",
        "--max-new-tokens",
        type=whole_number(0),
        metavar="N",
        help=f"tokens of each sample ({SHORTEST} to {LONGEST_SAMPLE}, fewer for a large model)",
    )
    report_stages.add_arguments(parser)
    flags.add_seed(parser)
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> int:
    """Gather, draw, write."""
    args.is_named = bool(flags.checkpoint_of(args))
    args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
    out = args.out or args.checkpoint.parent / f"{args.checkpoint.stem}.report.html"
    check_out(
        out,
        lambda: GENERATOR.encode() in beginning_of(out),
        f"{out} exists and is no report of tiny-lm; choose another --out",
    )
    current = open_checkpoint(args)
    if not args.quiet:
        tell(f"writing {out} ...")
    page = render(_report(current, args)).encode("utf-8")
    with writing(out):
        backup = atomic.keep_old(out)
        atomic.replace_file(out, [page])
    if not args.quiet:
        if backup:
            tell(f"kept: the older {out} is now {backup}")
        tell(f"saved {out} ({len(page) / 1000:,.0f} kB)")
    return 0


def _report(current: Run, args: argparse.Namespace) -> Report:
    """All that is on the page."""
    model, tokenizer = current.model, current.tokenizer
    material = _material(current, args)
    pairs = _counting_pairs(current, material)
    curves, curves_note = _curves(current, args)
    is_asked = can_be_asked(current) and args.prompt is None
    prompt = QUESTION if is_asked else prompt_of(current, args)
    ids = as_question(current, prompt) if is_asked else tokenizer.encode(prompt)
    length, seed = _sample_length(current, args), args.seed or 0
    separator = tokenizer.encode("\n")[0] if current.options.lines else None
    ends = current.chat.ends if is_asked else ()
    samples = write_samples(model, tokenizer, ids, length, TEMPERATURES, seed, separator, ends)
    passage = _passage(current, args, material, separator, [*ids, *samples[OWN].ids])
    best = current.best
    return Report(
        title=args.checkpoint.name,
        summary=_summary(current, material),
        facts=_facts(current, material, pairs),
        unit=_unit(current),
        curves=curves,
        curves_note=curves_note,
        rewards=_rewards(args, curves),
        stages=report_stages.stages_of(args, current),
        yardsticks=_yardsticks(current, pairs),
        best=Measured(best.step, best.val_loss) if best else None,
        samples_note=_samples_note(current, prompt, length, seed, is_asked),
        prompt=tokenizer.decode(ids).lstrip("\n"),  # a sample begins a line anyway
        lines=current.options.lines,
        samples=samples,
        passage_note=passage.what,
        reading=read_passage(model, tokenizer, passage.ids, passage.separator),
        embeddings=embedding_map(
            model, tokenizer, Counter(material.train.ids) if material else None
        ),
        parts=parameter_parts(model),
    )


def _sample_length(current: Run, args: argparse.Namespace) -> int:
    """--max-new-tokens, or as many as a few seconds allow."""
    if args.max_new_tokens is not None:
        length: int = args.max_new_tokens
        return length
    return _affordable(current, AFFORDABLE // len(TEMPERATURES), SHORTEST, LONGEST_SAMPLE)


def _unit(current: Run) -> str:
    return current.tokenizer.unit


def _affordable(current: Run, work: int, least: int, most: int) -> int:
    """Tokens that go through the model for so many multiplications, within bounds."""
    return max(least, min(most, work // count_parameters(current)))


# ----------------------------------------------------------------------------------------- the text


def _material(current: Run, args: argparse.Namespace) -> Optional[Material]:
    """The text that the model was trained on, if --data (or the built-in corpus) is that text.

    Raises UserError for a --data that is another text.
    """
    if current.options.stage:  # what it learned from is no text
        if args.data:
            raise UserError(
                f"{args.checkpoint} learned from conversations, of which a report shows no text; "
                f"leave --data out, or give a passage of yours with --prompt"
            )
        return None
    source = read_source(args.data, args.encoding)
    if source.sha256 == current.options.text_sha256:
        options = current.options
        return source.known(current.tokenizer, options.val_fraction, options.lines)
    if args.data:
        raise UserError(
            f"{args.checkpoint} was trained on another text than {source.name}; give that one with "
            f"--data, or a passage of yours with --prompt"
        )
    return None


def _samples_note(current: Run, prompt: str, length: int, seed: int, is_asked: bool) -> str:
    if is_asked:
        return (
            f"It was taught to talk, so each is an answer, to {prompt!r}, of {length} "
            f"{_unit(current)}s at most, with seed {seed}. The underlined part is what it read."
        )
    begins = f"with the prompt {prompt!r} (underlined)" if prompt.strip("\n") else "a line"
    return (
        f"Each begins {begins} and goes on for {length} {_unit(current)}s, with seed {seed}. The "
        f"same prompt, temperature and seed give the same text again."
    )


class _Passage(NamedTuple):
    """What the model reads on the page."""

    what: str
    ids: list[int]
    separator: Optional[int]  # where it is made of lines


def _passage(
    current: Run,
    args: argparse.Namespace,
    material: Optional[Material],
    separator: Optional[int],
    own: list[int],
) -> _Passage:
    """The prompt that the user gave, else held-out text, else what the model has written."""
    unit = _unit(current)
    length = _affordable(current, AFFORDABLE // 3, 64, LONGEST_PASSAGE)
    if args.prompt is not None:
        ids = current.tokenizer.encode(args.prompt)
        what = "The prompt." if len(ids) <= length else f"The last {length} {unit}s of the prompt."
        return _Passage(what, ids[-length:], None)
    if material:
        val, is_lines = material.val, isinstance(material.val, Lines)
        what = f"The beginning of the part of {material.name} that the model was not trained on."
        return _Passage(what, list(val.ids[:length]), val.ids[0] if is_lines else None)
    what = (
        f"What the model wrote at temperature {TEMPERATURES[OWN]:g}, which surprises it less than "
        f"the text of others. (--data with the text of its training shows held-out text, and "
        f"--prompt any text.)"
    )
    return _Passage(what, own[:length], separator)


# ----------------------------------------------------------------------------------- in plain words


def _summary(current: Run, material: Optional[Material]) -> str:
    """What this is, in two sentences."""
    unit, best = _unit(current), current.best
    if learns_preferences(current):
        return (
            f"A language model with {count_parameters(current):,} numbers in it, which has learned "
            f"for {current.step:,} steps which of two answers is the better one."
        )
    text = f"{material.name}, {sum(material.sizes):,} {unit}s" if material else "a text"
    text = "conversations" if current.options.stage else text
    summary = (
        f"A language model with {count_parameters(current):,} numbers in it, trained for "
        f"{current.step:,} steps on {text}."
    )
    if best:
        guessing = guessing_loss(current.tokenizer.vocab_size)
        summary += (
            f" Its best loss on held-out text is {loss_text(best.val_loss)} nats per {unit}, where "
            f"guessing costs {guessing:.3f}."
        )
    return summary


# The options that a row tells of. Where another version wrote one of them, it would tell a default.
_STEPS = ["steps", "batch_size", "gradient_accumulation_steps"]
_OPTIMIZER = ["optimizer", "learning_rate", "schedule", "min_lr", "warmup_steps", "weight_decay",
              "grad_clip"]  # fmt: skip
OF_ANOTHER = "written by another version, and not understood here"


def _facts(
    current: Run, material: Optional[Material], pairs: Optional[float]
) -> list[tuple[str, str]]:
    """What was trained, on what, and how."""
    options, unit = current.options, _unit(current)
    config: dict[str, Any] = dataclasses.asdict(current.model.config)
    vocab_size = config.pop("vocab_size")
    kinds = {"char": "one token for each character", "bpe": "byte-pair encoding, pieces of words"}
    kind = kinds.get(current.tokenizer.kind, current.tokenizer.kind)
    missing = "not known without the text (--data FILE)"
    best, lowest = current.best, "–"
    if best:
        per = "pair" if learns_preferences(current) else unit
        lowest = f"{loss_text(best.val_loss)} nats per {per}, step {best.step:,}"
    facts = [
        ("model", f"{current.rung}, {type(current.model).__name__}"),
        ("made of", ", ".join(functions_of(current.model))),
        ("sizes", ", ".join(f"{name} {value}" for name, value in config.items())),
        ("numbers learned", f"{count_parameters(current):,}"),
        ("tokens", f"{kind}; {vocab_size:,} different"),
        ("text", _text(current, material)),
        ("fingerprint of the text", f"SHA-256 {options.text_sha256[:16]}…"),
        ("steps", _steps(current)),
        ("optimizer", _optimizer(current)),
        ("seed", str(options.seed)),
        ("best loss", lowest),
        ("guessing costs", f"ln {vocab_size} = {guessing_loss(vocab_size):.3f} nats per {unit}"),
        ("counting pairs costs", missing if pairs is None else f"{pairs:.3f} nats per {unit}"),
    ]
    told = {"steps": _STEPS, "optimizer": _OPTIMIZER, "seed": ["seed"], "text": ["val_fraction"]}
    return [
        (name, OF_ANOTHER if set(told.get(name, [])) & set(current.unknown) else fact)
        for name, fact in facts
    ] + [("left out", f"{LEFT_OUT}{', '.join(map(shown, current.unknown))}")] * bool(
        current.unknown
    )


def learns_preferences(current: Run) -> bool:
    """Whether its loss is that of pairs of answers."""
    return current.options.stage == "dpo"


def _text(current: Run, material: Optional[Material]) -> str:
    """What it learned from, and what was held out."""
    options, unit = current.options, _unit(current)
    if options.stage:
        return "pairs of answers" if learns_preferences(current) else "conversations"
    lines = "; every line is a document of its own" if options.lines else ""
    if not material:
        share = f"{options.val_fraction:.3g} of it held out{lines}"
        return f"not at hand (--data FILE shows more); {share}"
    train, val = material.sizes
    return f"{material.name}: {train:,} {unit}s to learn from, {val:,} held out{lines}"


def _steps(current: Run) -> str:
    options = current.options
    several = options.gradient_accumulation_steps
    batches = f"{several} × {options.batch_size}" if several > 1 else f"{options.batch_size}"
    what = {"sft": "conversations", "dpo": "pairs"}.get(options.stage, "contexts")
    return f"{current.step:,} of {options.steps:,}, each of {batches} {what}"


def _optimizer(current: Run) -> str:
    """The optimizer, its learning rate, and what is not as usual."""
    options = current.options
    rate = f"learning rate {options.learning_rate:g}, {options.schedule}"
    if options.schedule == "cosine":
        rate += f" down to {options.min_lr:g}"
    parts = [
        options.optimizer,
        rate,
        f"{options.warmup_steps} steps of warm-up" if options.warmup_steps else "",
        f"weight decay {options.weight_decay:g}" if options.optimizer == "adamw" else "",
        f"gradients clipped at {options.grad_clip:g}" if options.grad_clip else "",
    ]
    return ", ".join(filter(None, parts))


# --------------------------------------------------------------------------------------- the losses


def _counting_pairs(current: Run, material: Optional[Material]) -> Optional[float]:
    """The second yardstick, as training showed it."""
    if not material:
        return None
    return bigram_loss(material.train.ids, material.val.ids, current.tokenizer.vocab_size)


def _yardsticks(current: Run, pairs: Optional[float]) -> list[Yardstick]:
    if learns_preferences(current):
        return [Yardstick("no preference", math.log(2))]
    yardsticks = [Yardstick("guessing", guessing_loss(current.tokenizer.vocab_size))]
    return yardsticks if pairs is None else [*yardsticks, Yardstick("counting pairs", pairs)]


def _curves(current: Run, args: argparse.Namespace) -> tuple[Optional[Curves], str]:
    """The run's losses, and where they come from or why there are none."""
    path = args.metrics or metrics_beside(args.checkpoint)
    records = read_metrics(path)
    curves = curves_of(records)
    if curves is None:
        if args.metrics:
            raise UserError(f"{path} holds no metrics of a run; leave --metrics out")
        return None, f"No curves: there is no {path.name} beside the checkpoint."
    best = current.best
    known = {record["step"]: record.get("val_loss") for record in records}
    if best and known.get(best.step) != best.val_loss:
        if args.metrics:
            raise UserError(f"{path} is of another run than {args.checkpoint}; name its own")
        return None, f"No curves: {path.name} beside the checkpoint is of another run."
    last = records[-1]["step"]
    later = f" The run went on: this model is that of step {current.step:,}."
    return curves, f"From {path.name}.{later if last > current.step else ''}"


def _rewards(args: argparse.Namespace, curves: Optional[Curves]) -> list[dict[str, Any]]:
    """What a run of `dpo` measured, in the file that the curves come from; none of another."""
    records = read_metrics(args.metrics or metrics_beside(args.checkpoint)) if curves else []
    return [record for record in records if has_measured(record)]
