"""The update at the end of a step that is shown: of all weights, the one that says the most."""

from __future__ import annotations

from typing import NamedTuple

from tiny_llm.model import Parameters, rows_of
from tiny_llm.optimizers import clip_by_global_norm, global_norm
from tiny_llm.run.saved import Run


class Moved(NamedTuple):
    """The weight with the largest slope, before and after the update."""

    name: str  # with its place
    before: float
    slope: float
    after: float


def update(run: Run, gradients: Parameters) -> Moved:
    """Make a step with the highest learning rate of the run: its weights change."""
    options, parameters = run.options, run.model.parameters
    name, row, place = _largest(gradients)
    weights, slope = rows_of(parameters[name])[row], rows_of(gradients[name])[row][place]
    before = weights[place]
    if options.grad_clip:
        clip_by_global_norm(gradients, global_norm(gradients), options.grad_clip)
    run.optimizer.learning_rate = options.learning_rate
    run.optimizer.update(parameters, gradients)
    is_matrix = isinstance(gradients[name][0], list)
    where = f"{name}[{row}][{place}]" if is_matrix else f"{name}[{place}]"
    return Moved(where, before, slope, weights[place])


def _largest(gradients: Parameters) -> tuple[str, int, int]:
    """Where the largest slope is: its name, the number of its row, its place in that."""
    places = (
        (abs(slope), name, row, place)
        for name, tensor in gradients.items()
        for row, slopes in enumerate(rows_of(tensor))
        for place, slope in enumerate(slopes)
    )
    _, name, row, place = max(places)
    return name, row, place
