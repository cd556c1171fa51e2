"""Continuous batching: texts join and leave the running batch at every token.

    waiting   e f          a step:  1. who waits comes in, as long as there is room
    reading   c...  d....           2. one of those that read reads a piece of its prompt
    writing   a  b                  3. all that have read everything get their next token together

A batch that had to be full before it began, or to end before another began, would let people wait
for strangers. Here a text takes part in every forward that it needs, and in no other (Yu et al.,
2022, Orca). Prompts are read in pieces (Agrawal et al., 2023, Sarathi), each with as many tokens as
there are texts: about the work of a step, so that a long prompt holds up the others by little more.

What a text becomes does not depend on its company: its logits are its own rows, and it is drawn
with a generator of its own.
"""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from heapq import nlargest
from queue import SimpleQueue
from typing import Any, Callable, NamedTuple, Optional, Union

from tiny_llm.fast.kv_cache import NOTHING, Past, go_on, listen, read_on
from tiny_llm.fast.tensors import check_finite
from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import LanguageModel
from tiny_llm.sampling import Sampling, slide

PIECE = 16  # tokens of a prompt that are read in a step, at most
STOP, LENGTH = "stop", "length"  # why a text ends


class Busy(Exception):
    """So many wait already that another one would wait too long."""


class Closed(Exception):
    """No text is begun any more, and those that were do not go on."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class Wish(NamedTuple):
    """What somebody asks for."""

    ids: list[int]  # the prompt, at least one token
    most: int  # tokens to write; 0: none
    sampling: Sampling = Sampling()
    seed: Optional[int] = None
    ends: frozenset[int] = frozenset()  # a token of these ends the text, and is no part of it
    likeliest: Optional[int] = None  # with each token its log-probability, and those of so many
    echo: bool = False  # the same of the tokens of the prompt
    slides: bool = True  # whether it goes on when the window is full


class Heard(NamedTuple):
    """A token, and how likely it was: ln p, and the likeliest with theirs, if that was asked."""

    token: int
    log: Optional[float] = None
    likeliest: tuple[tuple[int, float], ...] = ()
    ends: bool = False  # the text, of which it is no part


Event = Union[Heard, str, Exception]


class Text:
    """A wish on its way."""

    def __init__(
        self,
        wish: Wish,
        model: LanguageModel,
        events: SimpleQueue[tuple[int, Event]],
        number: int,
        separator: Optional[int] = None,
    ) -> None:
        self.wish, self.events, self.number = wish, events, number
        self.is_cancelled = self.has_ended = False
        self.rng = random.Random(wish.seed)
        self.window = _line_of(wish.ids, separator)[-model.config.context_length :]
        self.past, self.read, self.count = NOTHING, 0, 0
        if wish.echo:
            self.tell(Heard(wish.ids[0]))

    def tell(self, event: Event) -> None:
        """Whoever asked hears of it."""
        self.has_ended = not isinstance(event, Heard)
        self.events.put((self.number, event))

    def cancel(self) -> None:
        """Whoever asked has gone. Any thread may say so."""
        self.is_cancelled = self.has_ended = True

    @property
    def is_reading(self) -> bool:
        """Whether more than the last token of its window is still to be read."""
        return len(self.window) - self.read > 1


class Batch:
    """The running batch of one model, and those who wait for it. One thread calls `run`, which
    alone touches the model; any other may `submit`."""

    def __init__(
        self, model: LanguageModel, running: int, waiting: int, separator: Optional[int] = None
    ) -> None:
        self.model, self.most_running, self.most_waiting = model, running, waiting
        self.separator = separator  # a model of single lines begins anew at each
        self.remembers = model.predicts_every_token
        self.running: list[Text] = []
        self.waiting: deque[Text] = deque()
        self.jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.most = running + waiting
        self.is_closed = False
        self._changed = threading.Condition()

    def submit(self, wishes: Sequence[Wish], events: SimpleQueue[tuple[int, Event]]) -> list[Text]:
        """Let them wait for their places: all of them, or none.

        events: gets (number of the wish, what happened), at last why its text ended, or an error.
        Raises Busy if too many wait, and Closed.
        """
        with self._changed:
            if self.is_closed:
                raise Closed
            there = sum(not text.has_ended for text in [*self.running, *self.waiting])
            if len(wishes) > self.most - there:
                raise Busy
            texts = [
                Text(wish, self.model, events, number, self.separator)
                for number, wish in enumerate(wishes)
            ]
            self.waiting.extend(texts)
            self._changed.notify()
        return texts

    def between_steps(self, job: Callable[[], Any]) -> Any:
        """What another job with the model gives, which is done between two steps. Raises what it
        raises, and as `submit` does."""
        future: Future[Any] = Future()
        with self._changed:
            if self.is_closed:
                raise Closed
            if len(self.jobs) > self.most_waiting:
                raise Busy
            self.jobs.append((job, future))
            self._changed.notify()
        return future.result()

    def close(self) -> None:
        """No more texts and jobs; those that are there end with an error."""
        with self._changed:
            self.is_closed = True
            self._changed.notify()

    @property
    def is_alive(self) -> bool:
        """Whether it writes."""
        return not self.is_closed

    def run(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Step after step, until it is closed."""
        while self._has_work():
            self.step()
            after_step()
        for text in [*self.running, *self.waiting]:
            text.tell(Closed())
        for _, future in self.jobs:
            future.set_exception(Closed())
        after_step()

    def _has_work(self) -> bool:
        """Wait for something to do; False: it is closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.is_closed or self.running or self.waiting or self.jobs
            )
            return not self.is_closed

    def step(self) -> None:
        """Let in, read a piece, write a token of each; and one job."""
        if self.jobs:
            self._do(*self.jobs.popleft())
        self._let_in()
        reading = [text for text in self.running if text.is_reading]
        try:
            if reading:
                count = len(self.running)
                self._read(reading[0], min(PIECE, count) if count > 1 else PIECE)
                self.running.remove(reading[0])  # the next piece is another's
                self.running.append(reading[0])
            self._write([text for text in self.running if not text.is_reading])
        except Exception as error:  # a worker that died, or no memory: nobody's own fault
            texts, self.running = self.running, []
            for text in texts:
                text.tell(error)

    def _do(self, job: Callable[[], Any], future: Future[Any]) -> None:
        try:
            future.set_result(job())
        except Exception as error:  # is of whoever asked for it
            future.set_exception(error)

    def _let_in(self) -> None:
        """Those who have gone give their places to those who wait."""
        with self._changed:
            self.running = [text for text in self.running if not text.is_cancelled]
            for text in [text for text in self.waiting if text.is_cancelled]:
                self.waiting.remove(text)
            while self.waiting and len(self.running) < self.most_running:
                self.running.append(self.waiting.popleft())

    def _read(self, text: Text, most: int) -> None:
        """The next piece of its window, but never the last token."""
        end = min(text.read + most, len(text.window) - 1)
        piece = text.window[text.read : end]
        is_heard = text.wish.echo and not text.count
        if is_heard:
            logits = self._all_logits(text, piece)
            for row, token in zip(logits, text.window[text.read + 1 :]):
                text.tell(_heard(token, row, text.wish.likeliest))
        elif self.remembers:
            text.past = listen(self.model, text.past, piece)
        else:
            end = len(text.window) - 1  # it reads its whole window at each token anyway
        text.read = end

    def _all_logits(self, text: Text, piece: list[int]) -> Matrix:
        """What follows each token of the piece."""
        if self.remembers:
            logits, (text.past,) = go_on(self.model, [text.past], [piece])
        else:
            places = range(text.read, text.read + len(piece))
            logits, _ = self.model.forward([text.window[: place + 1] for place in places])
        return logits

    def _write(self, texts: list[Text]) -> None:
        """The next token of each."""
        for text in [text for text in texts if text.count >= text.wish.most]:
            self._end(text, LENGTH)  # nothing was to be written
            texts.remove(text)
        if not texts:
            return
        if self.remembers:
            pasts: list[Past]
            new = [text.window[text.read :] for text in texts]
            logits, pasts = read_on(self.model, [text.past for text in texts], new)
            for text, past in zip(texts, pasts):
                text.past, text.read = past, len(text.window)
        else:
            logits, _ = self.model.forward([text.window for text in texts])
        for text, row in zip(texts, logits):
            self._draw(text, row)

    def _draw(self, text: Text, logits: Vector) -> None:
        wish, length = text.wish, self.model.config.context_length
        try:
            check_finite([logits])
        except ValueError as error:
            self._end(text, error)
            return
        token = wish.sampling.draw(logits, text.rng)
        heard = _heard(token, logits, wish.likeliest)
        if token in wish.ends:
            text.tell(heard._replace(ends=True))
            self._end(text, STOP)
            return
        text.tell(heard)
        text.count += 1
        is_full = len(text.window) == length and not wish.slides
        if text.count == wish.most or is_full:
            self._end(text, LENGTH)
            return
        window = slide([] if token == self.separator else text.window, token, self.model)
        if len(window) != len(text.window) + 1:  # it slid, or began anew
            text.past, text.read = NOTHING, 0
        text.window = window
        if not self.remembers:
            text.read = len(window) - 1

    def _end(self, text: Text, why: Union[str, Exception]) -> None:
        self.running.remove(text)  # whoever hears of it finds a free place
        text.tell(why)


def _line_of(ids: list[int], separator: Optional[int]) -> list[int]:
    """What a model of single lines reads of a prompt: from its last separator on."""
    if separator is None or separator not in ids:
        return ids
    return ids[len(ids) - 1 - ids[::-1].index(separator) :]


def _heard(token: int, logits: Vector, likeliest: Optional[int]) -> Heard:
    """The token with what was asked to know of it."""
    if likeliest is None:
        return Heard(token)
    highest = max(logits)
    total = highest + math.log(math.fsum(math.exp(logit - highest) for logit in logits))
    best = nlargest(likeliest, range(len(logits)), logits.__getitem__)
    return Heard(token, logits[token] - total, tuple((t, logits[t] - total) for t in best))
