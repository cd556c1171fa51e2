"""What a trace tells, as plain data: the eight parts of one training step, in order.

Everything is a number, a text, or a list of these, so that a display and a machine get the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from tiny_llm.matmul import Vector


@dataclass(frozen=True)
class Place:
    """Where in the source a function stands."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class Token:
    """A token, and the one that follows it."""

    position: int
    text: str
    id: int


@dataclass(frozen=True)
class Tokens:
    """1: the text as the model gets it."""

    given: int  # tokens of the prompt; the model sees the last of them
    seen: list[Token]
    targets: list[Token]  # what follows the last position (rungs 1, 2), or each (rung 3), if known
    places: list[Place]


@dataclass(frozen=True)
class Row:
    """A row of a table of vectors."""

    reader: str  # "token", "position", or the variable that got the row
    table: str
    shape: tuple[int, ...]
    index: int
    values: Vector


@dataclass(frozen=True)
class Vectors:
    """2: the rows that the last position looked up, and what one function made of them."""

    rows: list[Row]
    total: Optional[Vector]
    total_code: str  # the statement that made it; "" if none did
    places: list[Place]


@dataclass(frozen=True)
class Numbers:
    """A matrix in brief."""

    label: str
    lowest: float  # of all its numbers
    highest: float
    row: Vector  # the last position's


@dataclass(frozen=True)
class Stage:
    """3: one step of the forward."""

    part: str  # of the network: "layer 1 of 2", or ""
    name: str
    what: str  # it does, in a few words
    letters: str  # of the dimension key in layers.py: "N x D"; "" if the code says none
    shape: tuple[int, int]
    code: str  # the statement that asked for it
    code_place: str  # its file and line
    layer: str  # whose parameters it used: "h.0.attn.c_attn"
    places: list[Place]
    numbers: list[Numbers]
    is_attention: bool = False  # then the numbers are one head's scores and weights, key by key


@dataclass(frozen=True)
class Guess:
    """A token that could come next."""

    rank: int  # 1: the likeliest
    token: Token
    logit: float
    probability: float
    is_right: bool


@dataclass(frozen=True)
class Prediction:
    """4: what the last position expects: the likeliest tokens, and the right one."""

    guesses: list[Guess]
    right: Optional[Guess]  # None if nobody said what follows
    vocab_size: int
    what: str  # the function does that made the probabilities, in a few words
    places: list[Place]


@dataclass(frozen=True)
class Loss:
    """5: how surprised the model is, in nats; the loss is the mean over all targets."""

    p_right: float  # of the last target
    each: list[float]  # -ln of the right token's probability, for every target
    loss: float
    guessing: float  # ln V
    places: list[Place]


@dataclass(frozen=True)
class GradientNorm:
    """How long the gradient of one parameter is."""

    name: str
    shape: tuple[int, ...]
    norm: float


@dataclass(frozen=True)
class Followed:
    """The one weight that is looked at in detail."""

    name: str
    row: int
    column: int
    value: float


@dataclass(frozen=True)
class Slope:
    """Its slope as the backward has it, and as it is measured."""

    analytic: float
    step: float  # h
    above: float  # the loss with the weight + h
    below: float  # and - h
    numerical: float  # (above - below) / 2h
    difference: float
    allowed: float
    agree: bool
    places: list[Place]


@dataclass(frozen=True)
class Backward:
    """6: the slopes of the loss by every weight."""

    norms: list[GradientNorm]
    norm: float  # of all together
    followed: Followed
    slope: Slope
    places: list[Place]


@dataclass(frozen=True)
class Clipping:
    """A gradient that was too long: every slope times limit / (norm + 1e-6)."""

    limit: float
    norm: float
    unclipped: float  # the followed weight's slope before
    places: list[Place]


@dataclass(frozen=True)
class Moments:
    """What AdamW adds to the step."""

    step: int
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    m_before: float
    m: float
    m_corrected: float
    v_before: float
    v: float
    v_corrected: float


@dataclass(frozen=True)
class Update:
    """7: what the optimizer made of the followed weight."""

    optimizer: str
    learning_rate: float
    clipping: Optional[Clipping]
    gradient: float  # after clipping
    moments: Optional[Moments]  # of AdamW
    before: float
    computed: float  # by the formula
    after: float  # by the optimizer
    agrees: bool  # with the formulas: the weight, and AdamW's averages, but for rounding
    places: list[Place]


@dataclass(frozen=True)
class Again:
    """8: the same text, after the update."""

    loss_before: float
    loss: float
    p_before: float  # of the right token at the last position
    p_right: float
    places: list[Place]


@dataclass(frozen=True)
class Trace:
    """The whole step, in order; of a forward alone, the first four parts."""

    model: str
    config: dict[str, Any]
    sizes: dict[str, tuple[int, str]]  # letter of the shapes -> size, meaning
    weights: int  # how many the model has
    steps_before: int  # of training
    tokens: Tokens
    vectors: Vectors
    stages: list[Stage]
    prediction: Prediction
    loss: Optional[Loss] = None
    backward: Optional[Backward] = None
    update: Optional[Update] = None
    again: Optional[Again] = None
