"""What a report shows, gathered from a model as plain data.

    passage (token ids) --contexts_of--> contexts --forward--> logits -> surprise at each token
                                                          \\--> attention of every layer and head
    parameters -> parts and their sizes, the embedding table in two dimensions
    prompt -> a sample at each of several temperatures

Nothing here knows of HTML.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, Optional

from tiny_llm.batches import Contexts
from tiny_llm.fast.tensors import check_finite, shape
from tiny_llm.fast.writer import Writer
from tiny_llm.layers import softmax
from tiny_llm.matmul import Matrix, Vector
from tiny_llm.model import LanguageModel
from tiny_llm.sampling import Sampling
from tiny_llm.text.stream import TextStream
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.view.curves import LARGEST, number_of
from tiny_llm.view.pca import project
from tiny_llm.view.terminal import Style, visible
from tiny_llm.view.trace.record import Call, recorded
from tiny_llm.view.trace.stages import lookups, parameters_of

SIGNS = Style()  # how a token is made visible: ·, ↵ and the like
LIKELIEST = 5  # tokens that are listed beside the right one
MOST_ROWS = 64  # queries of an attention map
MOST_WINDOWS = 40  # the same where each query has a window of its own, and the map is a band
MOST_PLACED = 1000  # tokens on the map of embeddings


def token_label(tokenizer: Tokenizer, token: int) -> str:
    """A token in sight: · for a space; bytes that are no whole character as \\xf0."""
    return visible(tokenizer.token_bytes(token).decode("utf-8", "backslashreplace"), SIGNS)


# ------------------------------------------------------------------------ a passage, token by token


class Choice(NamedTuple):
    """A token and the probability that the model gave it."""

    label: str
    probability: float


class Prediction(NamedTuple):
    """How well the model foresaw a token."""

    nats: float  # -ln of its probability: the loss at this token
    probability: float
    rank: int  # 1: the likeliest
    likeliest: list[Choice]


class AttentionRow(NamedTuple):
    """A query: the place of the token that reads, and of the first that it may read."""

    query: int
    first_key: int


class AttentionMaps(NamedTuple):
    """What every head read from: each row's weights belong to the keys from `first_key` on."""

    rows: list[AttentionRow]
    layers: list[list[Matrix]]  # layers x heads x rows x keys of the row


class Reading(NamedTuple):
    """What a model made of a passage of T tokens."""

    labels: list[str]  # T
    predictions: list[Prediction]  # T - 1: of the second token, the third, ...
    following: list[Choice]  # the likeliest after the last token
    attention: Optional[AttentionMaps]  # None for a model without attention

    @property
    def mean_nats(self) -> Optional[float]:
        """The loss on the passage; None if nothing in it could be predicted."""
        if not self.predictions:
            return None
        return math.fsum(p.nats for p in self.predictions) / len(self.predictions)


class Window(NamedTuple):
    """A context as a part of the passage."""

    begin: int
    end: int


def read_passage(
    model: LanguageModel, tokenizer: Tokenizer, ids: Sequence[int], separator: Optional[int] = None
) -> Reading:
    """Let the model predict every token of a passage but the first, and the one after the last.

    With a `separator`, the passage is made of lines, each of which the model sees alone, as in its
    training. Raises ValueError for an empty passage or an id outside the vocabulary.
    """
    if not ids:
        raise ValueError("a passage needs at least one token")
    length, one_target = model.config.context_length, not model.predicts_every_token
    windows = windows_of(ids, length, one_target, separator)
    contexts: Contexts = [list(ids[begin:end]) for begin, end in windows]
    logits, cache = model.forward(contexts)  # T x V, a row for each token either way
    check_finite(logits)
    probabilities = [softmax(row) for row in logits]
    predictions = [_prediction(tokenizer, row, token) for row, token in zip(probabilities, ids[1:])]
    return Reading(
        [token_label(tokenizer, token) for token in ids],
        predictions,
        _likeliest(tokenizer, probabilities[-1]),
        _attention_maps(model, cache, windows, one_target),
    )


def windows_of(
    ids: Sequence[int], context_length: int, one_target: bool, separator: Optional[int] = None
) -> list[Window]:
    """The contexts that predict what follows each token of a passage, once each.

    With one target to a context, there is one that ends with each token; otherwise they stand one
    behind the other. None reaches back beyond the separator that begins its line.
    """
    begins = [0, *(place for place, token in enumerate(ids) if place and token == separator)]
    windows = []
    for begin, end in zip(begins, [*begins[1:], len(ids)]):
        if one_target:
            windows += [
                Window(max(begin, last + 1 - context_length), last + 1)
                for last in range(begin, end)
            ]
        else:
            windows += [
                Window(first, min(first + context_length, end))
                for first in range(begin, end, context_length)
            ]
    return windows


def _prediction(tokenizer: Tokenizer, probabilities: Vector, token: int) -> Prediction:
    """What the model thought of the token that came."""
    probability = probabilities[token]
    nats = -math.log(max(probability, 5e-324))  # below that a float is 0
    rank = 1 + sum(other > probability for other in probabilities)
    return Prediction(nats, probability, rank, _likeliest(tokenizer, probabilities))


def _likeliest(tokenizer: Tokenizer, probabilities: Vector) -> list[Choice]:
    ranked = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    return [
        Choice(token_label(tokenizer, token), probabilities[token]) for token in ranked[:LIKELIEST]
    ]


def _attention_maps(
    model: Any, cache: Any, windows: list[Window], one_target: bool
) -> Optional[AttentionMaps]:
    """The weights of the first rows: of all windows, or of the longest where it has a row each."""
    weights = model.attention(cache)  # contexts x layers x heads x queries x keys
    if not weights:
        return None
    if one_target:
        shown = windows[:MOST_WINDOWS]
        rows = [AttentionRow(window.end - 1, window.begin) for window in shown]
        return AttentionMaps(rows, [[[layers[0][0][0] for layers in weights[: len(shown)]]]])
    number = max(range(len(windows)), key=lambda i: windows[i].end - windows[i].begin)
    begin, end = windows[number]
    rows = [AttentionRow(query, begin) for query in range(begin, min(end, begin + MOST_ROWS))]
    layers = [
        [
            [head[place][: place + 1] for place in range(len(rows))]  # what comes later is 0
            for head in heads
        ]
        for heads in weights[number]
    ]
    return AttentionMaps(rows, layers)


# ------------------------------------------------------------------------------------------ samples


class Sampled(NamedTuple):
    """A continuation of the prompt."""

    temperature: float
    text: str
    ids: list[int]


def write_samples(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: list[int],
    max_new_tokens: int,
    temperatures: Iterable[float],
    seed: int,
    separator: Optional[int] = None,
    ends: Collection[int] = (),
) -> list[Sampled]:
    """A sample at each temperature: what `tiny-lm generate` writes with this seed, up to one of the
    tokens that end an answer.

    Raises ValueError for an empty prompt.
    """
    samples = []
    for temperature in temperatures:
        stream, rngs = TextStream(tokenizer.token_bytes), [random.Random(seed)]
        writer = Writer(model, prompt, rngs, Sampling(temperature), separator=separator)
        drawn = (writer.step()[0] for _ in range(max_new_tokens))
        ids = list(takewhile(lambda token: token not in ends, drawn))
        text = "".join(map(stream.add, ids)) + stream.end()
        samples.append(Sampled(temperature, text, ids))
    return samples


# --------------------------------------------------------------------------------------- parameters


class Part(NamedTuple):
    """A layer, or the same layer of every block."""

    name: str
    purpose: str  # the functions that got its tensors, and the variables that they were for
    shapes: list[tuple[int, ...]]  # of its tensors, in one block
    times: int  # blocks that have one
    numbers: int  # in all of them


def noted(model: LanguageModel) -> list[Call]:
    """What a forward of a single token calls: enough to see which layer gets which parameter."""
    with recorded(model) as calls:
        model.forward([[0]])
    return calls


def functions_of(model: LanguageModel) -> list[str]:
    """The functions that a forward is made of, each once, in the order in which they come."""
    return list(dict.fromkeys(call.function.__name__ for call in noted(model) if call.depth == 0))


def _uses(model: LanguageModel, calls: Sequence[Call]) -> dict[str, str]:
    """layer -> what was done with it: "linear for qkv", as the model's own code has it."""
    uses: dict[str, dict[str, None]] = {}
    for call in calls:
        if call.depth == 0:
            target = f" for {call.code.name}" if call.code and call.code.name else ""
            for name in parameters_of(model, call):
                layer = uses.setdefault(name.rpartition(".")[0], {})
                layer[call.function.__name__ + target] = None
    return {layer: ", ".join(texts) for layer, texts in uses.items()}


def parameter_parts(model: LanguageModel) -> list[Part]:
    """Where the numbers of a model are, in the order in which data meet them.

    h.0.ln_1, h.1.ln_1, ... are one part, h.*.ln_1.
    """
    parameters, uses = model.parameters, _uses(model, noted(model))
    tensors: dict[str, dict[str, list[Any]]] = {}  # part -> layer -> its tensors
    for name, tensor in parameters.items():
        layer = name.rpartition(".")[0]
        words = layer.split(".")
        part = ".".join("*" if word.isdecimal() else word for word in words)
        tensors.setdefault(part, {}).setdefault(layer, []).append(tensor)
    parts = []
    for part, layers in tensors.items():
        purpose = uses.get(next(iter(layers)), "")
        shapes = [shape(tensor) for tensor in next(iter(layers.values()))]
        every = [tensor for layer in layers.values() for tensor in layer]
        count = sum(math.prod(shape(tensor)) for tensor in every)
        name = part if len(layers) > 1 else next(iter(layers))
        parts.append(Part(name, purpose, shapes, len(layers), count))
    return parts


class PlacedToken(NamedTuple):
    """A token on the map."""

    label: str
    x: float
    y: float


class EmbeddingMap(NamedTuple):
    """The embedding table in two dimensions."""

    name: str  # of the parameter
    width: int  # dimensions that it has
    tokens: list[PlacedToken]  # the first are the most worth a label
    different: int  # tokens in the table
    shares: tuple[float, float]  # of the variance along each axis


def embedding_map(
    model: LanguageModel, tokenizer: Tokenizer, counts: Optional[dict[int, int]] = None
) -> EmbeddingMap:
    """The token embeddings along their two main axes; of many tokens, the most frequent.

    counts: token -> how often it occurs in the training text. A token that does not is left out,
    since its vector was hardly trained. Without counts, tokens go by their ids.
    """
    vocab_size = model.config.vocab_size
    looked_up = [name for name, _ in lookups(model, noted(model))]
    name, table = next(  # what was looked up comes first; a model of another kind has any table
        (name, model.parameters[name])
        for name in [*looked_up, *model.parameters]
        if len(model.parameters[name]) == vocab_size and isinstance(model.parameters[name][0], list)
    )
    counts = counts or dict.fromkeys(range(len(table)), 1)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))[:MOST_PLACED]
    points, shares = project([table[token] for token in ranked])
    placed = [
        PlacedToken(token_label(tokenizer, token), x, y) for token, (x, y) in zip(ranked, points)
    ]
    return EmbeddingMap(name, len(table[0]), placed, len(table), shares)


# ------------------------------------------------------------------------------------------- curves


class Measured(NamedTuple):
    """A loss, in nats per token, and after how many steps."""

    step: int
    loss: float


class Curves(NamedTuple):
    """How the losses of a run went."""

    batches: list[Measured]  # the loss of each step's batch; of many steps, means over neighbours
    train: list[Measured]  # at each evaluation: the mean over the steps before it
    val: list[Measured]


def curves_of(records: Sequence[dict[str, Any]], most: int = 240) -> Optional[Curves]:
    """The curves in the records of metrics.jsonl; None if these hold no loss."""

    def series(name: str) -> list[Measured]:
        return [
            Measured(record["step"], loss)
            for record in records
            for loss in [number_of(record.get(name))]
            if loss is not None and abs(loss) <= LARGEST
        ]

    curves = Curves(_thinned(series("loss"), most), series("train_loss"), series("val_loss"))
    return curves if any(curves) else None


def _thinned(points: list[Measured], most: int) -> list[Measured]:
    """At most so many points: the mean of each of as many groups of neighbours."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        Measured(group[len(group) // 2].step, math.fsum(p.loss for p in group) / len(group))
        for group in groups
    ]
