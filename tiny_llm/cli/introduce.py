"""What is about to be trained on what, in a few lines before the first step."""

from __future__ import annotations

import dataclasses

from tiny_llm.fast.tensors import count
from tiny_llm.run.begin import VAL_TOKENS, batches_of
from tiny_llm.run.saved import Run
from tiny_llm.run.sources import Material
from tiny_llm.text.tasks import HELD_OUT, LEARNED, TASKS
from tiny_llm.text.yardsticks import bigram_loss, guessing_loss
from tiny_llm.view.progress import Progress


def introduce(current: Run, material: Material, progress: Progress) -> None:
    """What is about to be trained on what, and the two yardsticks for every loss that follows."""
    config = dataclasses.asdict(current.model.config)
    vocab_size = config.pop("vocab_size")
    sizes = ", ".join(f"{name} {value}" for name, value in config.items())
    options, unit = current.options, material.tokenizer.unit
    learned, held_out = material.sizes
    many = held_out - 1 > VAL_TOKENS
    some = f" (about {VAL_TOKENS:,} of them, evenly spread, at each validation)" if many else ""
    which = f"the last {held_out:,}"
    if material.lines:
        which = f"one line in {round(1 / material.val_fraction)}, {held_out:,} {unit}s in all,"
    if material.task:
        about = TASKS[material.task].about
        progress.fact(
            "task:",
            f"{material.task}, {about}: {LEARNED:,} cases to learn from, {HELD_OUT} held out",
        )
    else:
        progress.fact(
            "text:",
            f"{material.name}, {learned + held_out:,} {unit}s, {vocab_size} different; "
            f"{which} are held out for validation{some}",
        )
    progress.fact(
        "model:",
        f"{current.rung}, {count_parameters(current):,} parameters ({sizes}), seed {options.seed}",
    )
    progress.fact("training:", _training(current, material))
    pairs = bigram_loss(material.train.ids, material.val.ids, vocab_size)
    counting = "" if material.task else f", counting pairs {pairs:.3f} (on the held-out text)"
    guessing = f"ln {vocab_size} = {guessing_loss(vocab_size):.3f}"
    progress.fact("yardstick:", f"guessing costs {guessing} nats per {unit}{counting}")
    if current.step:
        progress.fact("resumed:", f"at step {current.step}")


def _training(current: Run, material: Material) -> str:
    """How it is trained: steps, batches, passes, optimizer, and what is not as usual."""
    options = current.options
    several = options.gradient_accumulation_steps
    passes = options.steps * several / batches_of(current, material).steps_per_pass
    parts = [
        f"{options.optimizer}, learning rate {options.learning_rate:g}, {options.schedule}",
        f"gradients clipped at {options.grad_clip:g}" if options.grad_clip else "",
        f"{options.workers} workers" if options.workers > 1 else "",
    ]
    return (
        f"{options.steps:,} steps of {f'{several} x ' if several > 1 else ''}{options.batch_size} "
        f"contexts ({passes:.3g} passes over the text) with "
        f"{', '.join(filter(None, parts))}"
    )


def count_parameters(current: Run) -> int:
    """How many numbers the model learns."""
    return count(current.model.parameters)
