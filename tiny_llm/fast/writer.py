"""Several texts that continue one prompt, written in one batch: one forward for a token of each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Optional

from tiny_llm.fast.kv_cache import Reader
from tiny_llm.fast.tensors import check_finite
from tiny_llm.model import LanguageModel
from tiny_llm.sampling import Sampling, slide


class Writer:
    """Writes text i with rngs[i] alone, so it is the same whatever is written beside it.

    A model of single lines begins anew at each `separator`, as it did in training.
    Raises ValueError for an empty prompt, and `step` for a model whose numbers are not finite.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: list[int],
        rngs: Sequence[random.Random],
        sampling: Sampling,
        remember: bool = True,
        separator: Optional[int] = None,
    ) -> None:
        if not prompt:
            raise ValueError("the prompt is empty; give at least one token to continue")
        window = prompt[-model.config.context_length :]
        self.model, self.sampling, self.separator = model, sampling, separator
        self.rngs = dict(enumerate(rngs))  # of the texts that go on
        self.windows = dict.fromkeys(self.rngs, window)
        self.reader = Reader(model, remember)
        self.reader.begin(window, list(self.rngs))

    def step(self) -> dict[int, int]:
        """One more token for each text that goes on: text -> token."""
        tokens = {}
        for text, logits in self.reader.all(self.windows).items():
            check_finite([logits])
            tokens[text] = token = self.sampling.draw(logits, self.rngs[text])
            window = [] if token == self.separator else self.windows[text]
            self.windows[text] = slide(window, token, self.model)
        return tokens

    def end(self, text: int) -> None:
        """This text takes part no more."""
        del self.rngs[text], self.windows[text]
