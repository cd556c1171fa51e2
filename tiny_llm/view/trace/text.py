"""A trace as lines of text, in colour or without, in 40 columns or more.

    Trace --as_lines--> 1. text -> tokens              a heading,
                          tiny_llm/tokenizer.py:70 ..  the functions at work, with file and line,
                          ..                           a sentence and the numbers; eight times

What is written as a calculation can be done again from the numbers that are printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import isclose, log

from tiny_llm.view.rows import INDENT, first_numbers, in_columns, strip
from tiny_llm.view.terminal import (
    BOLD,
    Style,
    bar,
    clip,
    display_width,
    fraction_text,
    number_text,
    pad,
    paint,
    visible,
    wrap,
)
from tiny_llm.view.trace import data

DIM = "2"
DEEPER = 2 * INDENT
NAME, SHAPE = 18, 20  # columns of a stage's name and of its shape, if the functions fit behind
RANGE, NORM = 24, 10  # columns
NARROW = 60  # columns; below it, a strip has a line of its own
LONGEST_LABEL, LONGEST_BAR, SHORTEST_BAR = 12, 40, 5  # columns
TINY = 1e-300  # below it a float has fewer figures
MOST_KEYS = 20  # of the keys in sight, those that are shown one by one


def as_lines(told: data.Trace, style: Style, all_heads: bool = False) -> Iterator[str]:
    """What the trace tells, in order: all eight parts, or the forward's four."""
    yield from _opening(told, style)
    parts = [
        ("text -> tokens", _tokens(told.tokens, style)),
        ("tokens -> vectors", _vectors(told, style)),
        ("through the network", _stages(told, style, all_heads)),
        ("logits -> probabilities", _prediction(told.prediction, style)),
    ]
    if told.loss and told.backward and told.update and told.again:
        parts += [
            ("the loss", _loss(told.loss, told, style)),
            ("backward: a slope for every weight", _backward(told.backward, style)),
            ("the update", _update(told.update, style)),
            ("the same text again", _again(told.again, style)),
        ]
    for number, (title, lines) in enumerate(parts, 1):
        yield ""
        yield paint(f"{number}. {title}", BOLD, style)
        yield from lines


def short_lines(told: data.Trace, style: Style) -> Iterator[str]:
    """The same parts in two screens: what goes in, what comes out, which functions are between."""
    yield from _title(told, style)
    seen = told.tokens.seen
    rows = {"token": [_label(token, style) for token in seen], "id": [str(t.id) for t in seen]}
    parts = [
        ("text -> tokens", in_columns(rows, style)),
        ("tokens -> vectors", _short_vectors(told, style)),
        ("through the network", _short_stages(told, style)),
        ("logits -> probabilities", _short_guesses(told.prediction, style)),
    ]
    if told.loss and told.backward and told.update and told.again:
        parts += _short_step(told.loss, told.backward, told.update, told.again, style)
    for number, (title, lines) in enumerate(parts, 1):
        yield paint(f"{number}. {title}", BOLD, style)
        yield from lines
    yield from wrap("All numbers, and the lines of code that made them: --full", style)


def _short_step(
    loss: data.Loss, backward: data.Backward, update: data.Update, again: data.Again, style: Style
) -> list[tuple[str, Iterator[str]]]:
    """The last four parts: the numbers before and after."""
    slope, rate = backward.slope, f"learning rate {update.learning_rate:g}"
    verdict = "they agree" if slope.agree else "they DISAGREE"
    slopes = f"backward {figure(slope.analytic)}, measured {figure(slope.numerical)}: {verdict}"
    mean = f"-ln p(right), the mean of {len(loss.each)}" if len(loss.each) > 1 else "-ln p(right)"
    losses = f"{figure(loss.loss)}; guessing is {figure(loss.guessing)}"
    weight = [f"{INDENT}w = {figure(update.before)}", f"{INDENT}new w = {figure(update.after)}"]
    change = [
        f"{INDENT}loss before = {figure(again.loss_before)}",
        f"{INDENT}loss after  = {figure(again.loss)}",
    ]
    said = _say(f"The followed weight: {slopes}", style)
    return [
        ("the loss", _equation(mean, [losses], style)),
        ("backward: a slope for every weight", iter(said)),
        ("the update", chain(_say(f"{update.optimizer}, {rate}", style), weight)),
        ("the same text again", iter(change)),
    ]


def _short_vectors(told: data.Trace, style: Style) -> Iterator[str]:
    for row in told.vectors.rows[:1]:
        yield from _row(f"{_label(told.tokens.seen[-1], style)} is", row, style)


def _short_stages(told: data.Trace, style: Style) -> Iterator[str]:
    """A line for each stage. What stands in one block stands in every other one."""
    parts = dict.fromkeys(stage.part for stage in told.stages)  # in order
    first, *others = [part for part in parts if part.startswith("layer ")] or [""]
    for stage in told.stages:
        if stage.part not in others:
            place = stage.places[0].function if stage.places else ""
            line = f"{INDENT}{stage.name:{NAME}}{_shape(stage.shape):{SHAPE - 1}} {place}"
            yield clip(line, style.width, style).rstrip()
    if others:
        yield from _say(
            f"The stages of {first} come again in each of the {len(others)} after it.", style
        )


def _short_guesses(told: data.Prediction, style: Style) -> Iterator[str]:
    """The likeliest tokens, and the right one."""
    guesses = list(told.guesses[:3])
    if told.right and told.right not in guesses:
        guesses.append(told.right)
    column = max(display_width(_label(guess.token, style)) for guess in guesses)
    for guess in guesses:
        yield _guess(guess, guesses[0].probability, column, style)


def _title(told: data.Trace, style: Style) -> Iterator[str]:
    """Which model, and what the letters of the shapes stand for."""
    trained = f"after {told.steps_before:,} steps" if told.steps_before else "before any training"
    title = f"One {'training step' if told.loss else 'forward'} of {told.model}, {trained}"
    for line in wrap(title, style):
        yield paint(line, BOLD, style)
    sizes = [f"{letter}={size} {what}" for letter, (size, what) in told.sizes.items()]
    yield from wrap(f"{told.weights:,} weights; {', '.join(sizes)}.", style)


def _opening(told: data.Trace, style: Style) -> Iterator[str]:
    """The title, and how to read the strips."""
    yield from _title(told, style)
    low, high = ("▁", "█") if style.unicode else (".", "#")
    colours = "; orange below 0, blue above" if style.color else ""
    yield from wrap(
        f"A strip draws the last position's numbers, from the lowest {low} to the highest {high} "
        f"of the stage{colours}.",
        style,
    )


# ---------------------------------------------------------------- small parts


def figure(value: float) -> str:
    """A number with six figures, as arithmetic needs it."""
    return f"{value + 0.0:.6g}"  # + 0.0: no -0


def rough(value: float) -> str:
    """A number with three figures."""
    return f"{value + 0.0:#.3g}".rstrip(".")


def _place(place: data.Place) -> str:
    return f"{place.file}:{place.line} {place.function}"


def _places(places: Sequence[data.Place], style: Style, indent: str = INDENT) -> Iterator[str]:
    """The functions at work, on as few lines as they take."""
    lines: list[str] = []
    for text in map(_place, places):
        if lines and len(f"{lines[-1]}, {text}") <= style.width:
            lines[-1] += f", {text}"
        else:
            lines += wrap(text, style, indent)
    yield from (paint(line, DIM, style) for line in lines)


def _say(sentence: str, style: Style, indent: str = INDENT) -> list[str]:
    return wrap(sentence, style, indent)


def _label(token: data.Token, style: Style) -> str:
    return clip(visible(token.text, style), LONGEST_LABEL, style)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _equation(name: str, parts: Sequence[str], style: Style) -> Iterator[str]:
    """name = part = part, on one line, or on a line for each part."""
    whole = " = ".join([INDENT + name, *parts])
    if len(whole) <= style.width:
        yield whole
        return
    first, *others = parts
    yield from wrap(f"{name} = {first}", style, INDENT)
    for part in others:
        yield from wrap(f"= {part}", style, DEEPER)


# ---------------------------------------------------------------- 1 and 2


def _tokens(told: data.Tokens, style: Style) -> Iterator[str]:
    yield from _places(told.places, style)
    several, held = len(told.targets) > 1, "as many as its context holds"
    if told.given - bool(told.targets) > len(told.seen):
        sees = f"the model sees {len(told.seen)}, {held}."
        guessed = "The last one is there to be guessed; of those before it, "
        yield from _say(
            f"The prompt has {told.given} tokens. "
            f"{guessed + sees if told.targets else 'Of these, ' + sees}",
            style,
        )
    rows = {
        "position": [str(token.position) for token in told.seen],
        "token": [_label(token, style) for token in told.seen],
        "id": [str(token.id) for token in told.seen],
    }
    if several:
        rows["target"] = [_label(token, style) for token in told.targets]
        rows["its id"] = [str(token.id) for token in told.targets]
    yield from in_columns(rows, style)
    if several:
        yield from _say("The target of each position is the token that follows it.", style)
    for target in () if several else told.targets:
        row = f"{INDENT}target    {_label(target, style)} (id {target.id}), which follows"
        yield from (
            [row] if display_width(row) <= style.width else _say(" ".join(row.split()), style)
        )


def _vectors(told: data.Trace, style: Style) -> Iterator[str]:
    vectors, last = told.vectors, told.tokens.seen[-1]
    yield from _places(vectors.places, style)
    readers = {"token": _label(last, style), "position": f"position {last.position}"}
    for row in vectors.rows:
        yield from _row(f"{readers.get(row.reader, row.reader)} is", row, style)
    if vectors.total is not None:
        yield from _say(f"together: {vectors.total_code}", style)
        yield INDENT + first_numbers(vectors.total, style.width - len(INDENT), style)
    if not vectors.rows:
        yield from _say("layers.embedding looked up no row here.", style)
    if told.backward:
        weight = told.backward.followed
        name = f"{weight.name}[{weight.row}][{weight.column}]"
        yield from _say(f"One weight will be followed: {name} = {figure(weight.value)}", style)


def _row(start: str, row: data.Row, style: Style) -> Iterator[str]:
    """Which row of which table it is, and its first numbers."""
    line = f"{INDENT}{start} row {row.index} of {row.table}"
    shape = f" ({_shape(row.shape)})"
    if display_width(line + shape) <= style.width:
        yield line + shape
    else:
        yield f"{INDENT}{start} row {row.index} of"
        yield from wrap(row.table + shape, style, INDENT)
    yield INDENT + first_numbers(row.values, style.width - len(INDENT), style)


# ---------------------------------------------------------------- 3


def _stages(told: data.Trace, style: Style, all_heads: bool) -> Iterator[str]:
    """Every stage; what it does is said where it comes for the first time."""
    part, said, table_shown = "", set(), False
    for stage in told.stages:
        if stage.part != part:
            part = stage.part
            yield ""
            yield paint(INDENT + part, BOLD, style)
        yield from _heading(stage, style)
        if stage.code and stage.code not in said:
            said.add(stage.code)
            code = wrap(f"{stage.code_place}  {stage.code}", style, DEEPER)
            yield from (paint(line, DIM, style) for line in code)
        if stage.what not in said:
            said.add(stage.what)
            yield from _say(stage.what, style, DEEPER)
        for numbers in stage.numbers:
            yield from _numbers(numbers, style)
        if stage.is_attention and (all_heads or not table_shown):
            table_shown = True
            yield from _keys(stage, told.tokens.seen, style)


def _heading(stage: data.Stage, style: Style) -> Iterator[str]:
    """The name of a stage, its shape, and the functions at work behind or under them."""
    shape = _shape(stage.shape) + (f" ({stage.letters})" if stage.letters else "")
    start = f"{INDENT}{stage.name:{NAME}}{shape:{SHAPE - 1}} "
    first, *others = map(_place, stage.places)
    fits = max(map(len, (first, *others))) <= style.width - len(start)
    painted = INDENT + paint(stage.name, BOLD, style) + start[len(INDENT + stage.name) :]
    if fits:
        yield painted + paint(first, DIM, style)
        for other in others:
            yield " " * len(start) + paint(other, DIM, style)
    else:
        yield painted.rstrip()
        yield from _places(stage.places, style, DEEPER)


def _numbers(numbers: data.Numbers, style: Style) -> Iterator[str]:
    """The range of a stage, and its last row as a strip, behind it or under it."""
    ends = f"{rough(numbers.lowest)} .. {rough(numbers.highest)}"
    start = f"{DEEPER}{f'{numbers.label} {ends}'.strip():{RANGE}} "
    if style.width < NARROW:
        yield start.rstrip()
        start = DEEPER
    room = style.width - len(start)
    yield start + strip(numbers.row, numbers.lowest, numbers.highest, room, style)


def _keys(stage: data.Stage, seen: list[data.Token], style: Style) -> Iterator[str]:
    """A head's scores and weights of the last query, key by key; the heaviest if they are many."""
    scores, weights = (numbers.row for numbers in stage.numbers)
    ranked = sorted(range(len(weights)), key=lambda place: -weights[place])
    shown = sorted(ranked[:MOST_KEYS])
    many = "" if len(shown) == len(weights) else f" (the {MOST_KEYS} heaviest of {len(weights)})"
    yield from _say(f"read from the last position, key by key{many}:", style, DEEPER)
    rows = {
        "key": [_label(seen[place], style) for place in shown],
        "score": [number_text(scores[place]) for place in shown],
        "weight": [fraction_text(weights[place], 3) for place in shown],
    }
    yield from in_columns(rows, style, INDENT)


# ---------------------------------------------------------------- 4 and 5


def _prediction(told: data.Prediction, style: Style) -> Iterator[str]:
    yield from _places(told.places, style)
    yield from _say(f"{told.what}. The likeliest tokens after the last position:", style)
    guesses = list(told.guesses)
    if told.right and told.right not in guesses:
        guesses.append(told.right)
    column = max(display_width(_label(guess.token, style)) for guess in guesses)
    for guess in guesses:
        yield _guess(guess, guesses[0].probability, column, style)
    rank = f"The right one has rank {told.right.rank} of {told.vocab_size}. " if told.right else ""
    yield from _say(
        f"{rank}The longest bar is the likeliest token's; if all were equally likely, each p would "
        f"be {rough(1 / told.vocab_size)}.",
        style,
    )


def _guess(guess: data.Guess, highest: float, column: int, style: Style) -> str:
    mark = "<- right" if guess.is_right else ""
    label = pad(_label(guess.token, style), column)
    start = f"{INDENT}{rough(guess.probability):>9}  {label}  "
    room = min(LONGEST_BAR, style.width - display_width(start) - len(" <- right"))
    drawn = pad(bar(guess.probability / highest, room, style), room)
    return f"{start}{drawn} {paint(mark, BOLD, style)}".rstrip()


def _loss(loss: data.Loss, told: data.Trace, style: Style) -> Iterator[str]:
    yield from _places(loss.places, style)
    yield from _say("The loss says how surprised the model is by the right token, in nats.", style)
    # A probability that rounds to 0 has no logarithm: its loss is known from the logits alone.
    surprise = -log(loss.p_right) if loss.p_right > TINY else loss.each[-1]
    parts = [f"-ln {figure(loss.p_right)}", figure(surprise)]
    yield from _equation("-ln p(right)", parts, style)
    if not isclose(surprise, loss.each[-1], rel_tol=1e-6, abs_tol=1e-9):
        yield from _say(f"The loss is another one here: {figure(loss.each[-1])}.", style)
    yield from _equation(
        "guessing", [f"ln {told.prediction.vocab_size}", figure(loss.guessing)], style
    )
    if len(loss.each) > 1:
        yield from _say(f"That is the last of {len(loss.each)} targets. All of them:", style)
        rows = {
            "target": [_label(token, style) for token in told.tokens.targets],
            "loss": list(map(number_text, loss.each)),
        }
        yield from in_columns(rows, style)
        yield from _equation("the loss", ["their mean", figure(loss.loss)], style)


# ---------------------------------------------------------------- 6, 7 and 8


def _backward(told: data.Backward, style: Style) -> Iterator[str]:
    yield from _places(told.places, style)
    yield from _say(
        "How would the loss change if a weight grew? All these slopes together are the gradient; "
        "its length (norm), parameter by parameter:",
        style,
    )
    yield from _norms(told, style)
    yield ""
    yield from _slope(told, style)


def _norms(told: data.Backward, style: Style) -> Iterator[str]:
    """A line for each parameter, with a bar; the shapes only where there is room for them."""
    total = "all together"
    shapes = [_shape(gradient.shape) for gradient in told.norms]
    name = max(len(total), *(len(gradient.name) for gradient in told.norms))
    shape = 2 + max(map(len, shapes))
    room = style.width - len(INDENT) - name - NORM - 1
    shape = shape if room - shape >= SHORTEST_BAR else 0
    longest = max(gradient.norm for gradient in told.norms) or 1.0
    for gradient, text in zip(told.norms, shapes):
        start = f"{INDENT}{gradient.name:{name}}{f'  {text}'[:shape]:<{shape}}"
        drawn = bar(gradient.norm / longest, min(LONGEST_BAR, room - shape), style)
        yield f"{start}{rough(gradient.norm):>{NORM}} {drawn}".rstrip()
    yield f"{INDENT}{total:{name + shape}}{rough(told.norm):>{NORM}}"


def _slope(told: data.Backward, style: Style) -> Iterator[str]:
    """The followed weight: what the backward says, and what is measured."""
    slope, weight = told.slope, told.followed
    title = f"The followed weight, {weight.name}[{weight.row}][{weight.column}]"
    yield from (paint(line, BOLD, style) for line in wrap(title, style, INDENT))
    yield from _equation("backward's slope", [figure(slope.analytic)], style)
    yield from _say("Measured, by moving the weight a little up and down:", style)
    yield from _places(slope.places, style)
    h = f"{slope.step:g}"
    yield f"{INDENT}loss(w + {h}) = {slope.above:.12f}"
    yield f"{INDENT}loss(w - {h}) = {slope.below:.12f}"
    parts = [f"their difference / (2 x {h})", figure(slope.numerical)]
    yield from _equation("slope", parts, style)
    verdict = "they agree" if slope.agree else "they DISAGREE"
    yield from _say(
        f"The two slopes are {slope.difference:.1e} apart. Measuring may be wrong by up to "
        f"{slope.allowed:.1e}, so {verdict}.",
        style,
    )


def _update(told: data.Update, style: Style) -> Iterator[str]:
    yield from _places(told.places, style)
    rate = f"lr = {told.learning_rate:g}"
    yield from _say(f"{told.optimizer}, learning rate {rate}: a small step downhill.", style)
    yield f"{INDENT}w = {figure(told.before)}"
    g = figure(told.gradient)
    if told.clipping:
        yield from _clipping(told.clipping, g, style)
    else:
        yield f"{INDENT}g = {g}, its slope"
    if told.moments:
        yield from _adamw(told, told.moments, style)
    else:
        parts = [
            "w - lr g",
            f"{figure(told.before)} - {figure(told.learning_rate)} x {g}",
            figure(told.computed),
        ]
        yield from _equation("new w", parts, style)
    difference = abs(told.computed - told.after)
    if not told.agrees:
        yield from _say(
            f"The optimizer computes something else than this: it wrote {figure(told.after)}.",
            style,
        )
    elif difference:
        yield from _say(
            f"The optimizer, which takes the same in another order, wrote a number that is "
            f"{difference:.1e} away.",
            style,
        )
    else:
        yield from _say("The optimizer wrote exactly this number.", style)


def _clipping(told: data.Clipping, g: str, style: Style) -> Iterator[str]:
    yield from _say(
        f"The gradient is longer than {told.limit:g}, so every slope is shortened:", style
    )
    yield from _places(told.places, style)
    parts = [
        "slope x limit / (norm + 1e-06)",
        f"{figure(told.unclipped)} x {figure(told.limit)} / ({figure(told.norm)} + 1e-06)",
        g,
    ]
    yield from _equation("g", parts, style)


def _adamw(told: data.Update, moments: data.Moments, style: Style) -> Iterator[str]:
    """Both moments, both corrections, the decay and the step, formula, numbers and result."""
    t, g = moments.step, figure(told.gradient)
    beta1, beta2, rate = map(figure, (moments.beta1, moments.beta2, told.learning_rate))
    gain1, gain2 = figure(1 - moments.beta1), figure(1 - moments.beta2)
    m, v, m_corrected, v_corrected = map(
        figure, (moments.m, moments.v, moments.m_corrected, moments.v_corrected)
    )
    w, decay, epsilon = map(figure, (told.before, moments.weight_decay, moments.epsilon))
    yield from _say(f"beta1 = {beta1}, beta2 = {beta2}, step t = {t}", style)
    yield from _say("m: where the slope has been pointing lately", style)
    numbers = f"{beta1} x {figure(moments.m_before)} + {gain1} x {g}"
    yield from _equation("new m", ["beta1 m + (1 - beta1) g", numbers, m], style)
    yield from _say("v: how large it has been", style)
    numbers = f"{beta2} x {figure(moments.v_before)} + {gain2} x ({g})^2"
    yield from _equation("new v", ["beta2 v + (1 - beta2) g^2", numbers, v], style)
    yield from _say("m' and v' make up for their beginning at 0", style)
    numbers = f"{m} / (1 - {beta1}^{t})"
    yield from _equation("m'", ["m / (1 - beta1^t)", numbers, m_corrected], style)
    numbers = f"{v} / (1 - {beta2}^{t})"
    yield from _equation("v'", ["v / (1 - beta2^t)", numbers, v_corrected], style)
    yield from _say(f"epsilon = {epsilon}; weight decay {decay} pulls w towards 0", style)
    formula = "w - lr (m' / (sqrt(v') + epsilon) + decay w)"
    numbers = f"{w} - {rate} x ({m_corrected} / (sqrt({v_corrected}) + {epsilon}) + {decay} x {w})"
    yield from _equation("new w", [formula, numbers, figure(told.computed)], style)


def _again(told: data.Again, style: Style) -> Iterator[str]:
    yield from _places(told.places, style)
    before, after = figure(told.loss_before), figure(told.loss)
    change = told.loss - told.loss_before
    yield from _equation("loss before", [before], style)
    yield from _equation("loss after ", [after], style)
    yield from _equation("change", [f"{after} - {before}", figure(change)], style)
    yield from _equation("p(right) before", [figure(told.p_before)], style)
    yield from _equation("p(right) after ", [figure(told.p_right)], style)
    if change < 0:
        end = (
            "The loss went down. This text was alone in its batch, so the step could suit it well. "
            "Training repeats these eight parts with other pieces of text each time, several in a "
            "batch, whose slopes are averaged."
        )
    else:
        end = (
            "The loss did NOT go down. A step can be too long, and AdamW goes on in the direction "
            "of the steps before. Training takes many steps, each with several texts, so that such "
            "things even out."
        )
    yield from _say(end, style)
