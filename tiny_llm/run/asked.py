"""Rung 3 where only some places of a context are asked for.

It predicts behind every token. Where the answer cannot be known, its prediction is left out of the
loss: it has no row among the logits, and no slope comes back.
"""

from __future__ import annotations

from typing import Any

from tiny_llm.batches import Contexts
from tiny_llm.matmul import Matrix
from tiny_llm.model import LanguageModel, Parameters
from tiny_llm.text.tasks import AskedContext


class OnlyAsked(LanguageModel):
    """The model with rows of logits for the places asked for. It shares the model's parameters."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.config, self.parameters = model, model.config, model.parameters

    predicts_every_token = True

    def forward(self, contexts: Contexts) -> tuple[Matrix, Any]:
        """Contexts -> the rows of logits that are asked for; cache. Other contexts have all."""
        logits, cache = self.model.forward(contexts)
        rows, first = [], 0
        for context in contexts:
            asked = context.rows if isinstance(context, AskedContext) else range(len(context))
            rows += [first + row for row in asked]
            first += len(context)
        return [logits[row] for row in rows], (cache, rows, len(logits))

    def backward(self, dlogits: Matrix, cache: Any) -> Parameters:
        """The model's, with slopes of 0 where nothing was asked."""
        inner, rows, count = cache
        spread = [[0.0] * len(dlogits[0]) for _ in range(count)]
        for row, slopes in zip(rows, dlogits):
            spread[row] = slopes
        return self.model.backward(spread, inner)
