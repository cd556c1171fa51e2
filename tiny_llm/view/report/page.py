"""The page: plain data put into the skeleton, everything escaped.

    Report --a function for each section--> HTML  \\
    Reading --json_for_script--> data of page.js   > page.html with its style and scripts --> text
                                                  /
A prompt, a corpus, a name may hold anything, so every text becomes HTML through `html`, and JSON
through `json_for_script`, which leaves no character in it that could end the script element.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, Optional

from tiny_llm.view.attention_map import CAVEAT
from tiny_llm.view.curves import REWARDS, reward_curves
from tiny_llm.view.plot_picture import plot_svg
from tiny_llm.view.progress import measured_text
from tiny_llm.view.report.facts import (
    AttentionMaps,
    Choice,
    Curves,
    EmbeddingMap,
    Measured,
    Part,
    Prediction,
    Reading,
    Sampled,
)
from tiny_llm.view.report.pictures import Yardstick, bar, extremes, loss_curves, token_map
from tiny_llm.view.terminal import CONTROL_PICTURES, loss_text

# What a page may do: nothing comes from elsewhere.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'"
GENERATOR = "tiny-lm report"  # by which a report is known again
HEIGHT_OF_A_NAT, TALLEST = 5, 34  # pixels of the bar under a token
MOST_LISTED = 300  # tokens in the table beside the map
NO_ATTENTION = (
    "This model has no attention: its window is fixed, and every place in it has weights of its "
    "own, whatever the text. Rungs 2 and 3 have."
)
ATTENTION_FRAME = f"""<p>Each row is a place that reads, each column one that is read, and the
weights of a row add up to 1. The squares grow with the weight. Point at one, or go to it with the
arrow keys; a click or Enter locks its row, and once more or Escape releases it.</p>
<fieldset class="heads scroll" id="heads" hidden><legend>Layer and head</legend></fieldset>
<div class="beside"><div class="scroll" id="frame"></div>
<div class="panel" id="row"><p id="cell"></p><p id="lock" role="status"></p>
<ol id="ranking"></ol></div></div>
<p class="note">{CAVEAT}</p>"""


LEGEND = """<ul class="legend">
<li><svg class="swatch" aria-hidden="true"><path class="curve batches" d="M0 7H28"/></svg>
batches, as they were trained on</li>
<li><svg class="swatch" aria-hidden="true"><path class="curve train" d="M0 7H28"/>
<rect class="dot train" x="11" y="4" width="6.4" height="6.4"/></svg>
training text, mean since the last square</li>
<li><svg class="swatch" aria-hidden="true"><path class="curve val" d="M0 7H28"/>
<circle class="dot val" cx="14" cy="7" r="3.2"/></svg> held-out text</li>
<li><svg class="swatch" aria-hidden="true"><circle class="best" cx="14" cy="7" r="6"/></svg>
the best</li></ul>"""


class StageShown(NamedTuple):
    """A model on the way: its curves, if they are known, and its answers."""

    name: str
    command: str  # that made it
    curves: Optional[Curves]
    answers: list[str]


class Stages(NamedTuple):
    """What the models of all stages were asked, and the stages in order; none: nothing to show."""

    questions: list[str]
    shown: list[StageShown]


class Report(NamedTuple):
    """All that is on the page, as text and numbers; nothing in it is HTML yet."""

    title: str
    summary: str
    facts: list[tuple[str, str]]  # what, and how it is
    unit: str  # what a token is called
    curves: Optional[Curves]
    rewards: list[dict[str, Any]]  # what a run of preferences measured; none of another
    stages: Stages
    curves_note: str  # where the curves come from, or why there are none
    yardsticks: list[Yardstick]
    best: Optional[Measured]
    samples_note: str
    prompt: str
    lines: bool  # whether the model writes lines, each on its own
    samples: list[Sampled]
    passage_note: str  # what the passage is
    reading: Reading
    embeddings: EmbeddingMap
    parts: list[Part]


def render(report: Report) -> str:
    """The whole page. Equal reports give equal pages."""
    return Template(part_of_pages("page.html")).substitute(
        head=head(f"{report.title}: a report", part_of_pages("page.css"), POLICY, GENERATOR),
        title=html(report.title),
        js=part_of_pages("parts.js") + part_of_pages("page.js"),
        data=json_for_script(_data(report)),
        summary=html(report.summary),
        facts=_facts(report.facts),
        curves=_curves(report),
        stages=_stages(report.stages),
        to_stages='<a href="#stages">What each stage changed</a>\n' * bool(report.stages.shown),
        samples=_samples(report),
        passage=_passage(report),
        attention=_attention(report),
        embeddings=_embeddings(report.embeddings),
        parameters=_parameters(report.parts),
    )


def head(title: str, css: str, policy: str, generator: str = "") -> str:
    """What stands before the body of every page. generator: the command that made a file."""
    named = f'<meta name="generator" content="{html(generator)}">\n' if generator else ""
    return Template(part_of_pages("head.html")).substitute(
        generator=named, policy=policy, title=html(title), css=css
    )


def part_of_pages(name: str) -> str:
    """The text of a file beside this one."""
    return Path(__file__).with_name(name).read_text("utf-8")


def json_for_script(data: Any) -> str:
    """JSON that can stand inside a script element: ASCII, without <, > and &."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def html(text: str) -> str:
    """The text as HTML shows it, inside an element or a quoted attribute.

    What HTML cannot hold becomes a sign: control characters, and halves of a surrogate pair.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return escape(
        "".join(c if c >= " " or c in "\n\t" else chr(ord(CONTROL_PICTURES) + ord(c)) for c in text)
    )


def percent(share: float) -> str:
    """0.4567 -> 45.7%; what is not nothing does not look like it."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "<0.1%"


# --------------------------------------------------------------------------------- data for page.js


def _data(report: Report) -> dict[str, Any]:
    """What the page answers with, rounded to what it shows."""
    reading = report.reading
    return {
        "unit": report.unit,
        "labels": reading.labels,
        "predictions": [_prediction(p) for p in reading.predictions],
        "following": _choices(reading.following),
        "attention": reading.attention and weights_for_script(reading.attention),
    }


def _prediction(prediction: Prediction) -> list[Any]:
    nats, probability, rank, likeliest = prediction
    return [round(nats, 3), round(probability, 5), rank, _choices(likeliest)]


def _choices(choices: Iterable[Choice]) -> list[Any]:
    return [[choice.label, round(choice.probability, 5)] for choice in choices]


def weights_for_script(maps: AttentionMaps) -> dict[str, Any]:
    """Maps as parts.js draws them: weights as whole thousandths, which takes half the room."""
    return {
        "rows": maps.rows,
        "layers": [
            [[[round(1000 * w) for w in row] for row in head] for head in heads]
            for heads in maps.layers
        ],
    }


# ----------------------------------------------------------------------------------------- sections


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    items = (f"<div><dt>{html(term)}</dt><dd>{html(text)}</dd></div>" for term, text in facts)
    return f'<dl class="facts">{"".join(items)}</dl>'


def _curves(report: Report) -> str:
    note = f'<p class="note">{html(report.curves_note)}</p>'
    if not report.curves:
        return note
    curves, best = report.curves, report.best
    lowest = f"; lowest there {loss_text(best.loss)} at step {best.step:,}" if best else ""
    levels = ", ".join(f"{y.name} {y.loss:.3f}" for y in report.yardsticks)
    description = f"{_ends(curves)}{lowest}. To compare with: {levels}."
    per = "pair" if report.rewards else "token"
    picture = loss_curves(curves, report.yardsticks, best, description, per)
    return f"""<figure>{_scrolling("Loss curves", picture)}
<figcaption>{LEGEND}</figcaption></figure>
{note}{_evaluations(curves)}{_rewards(report.rewards)}"""


def _ends(curves: Curves) -> str:
    """Where the curves end."""
    ends = [f"{loss_text(curves.batches[-1].loss)} on the last batches"] if curves.batches else []
    ends += [f"{loss_text(curves.val[-1].loss)} on the held-out text"] if curves.val else []
    return f"Ends at {' and '.join(ends)}"


def _stages(stages: Stages) -> str:
    """The section that sets the stages side by side, or nothing."""
    if not stages.shown:
        return ""
    heading = ["question", *(f"{stage.command}: {stage.name}" for stage in stages.shown)]
    answers = (stage.answers for stage in stages.shown)
    figures = []
    for stage in stages.shown:
        if stage.curves:
            per = "pair" if stage.command == "dpo" else "token"
            picture = loss_curves(stage.curves, [], None, f"{_ends(stage.curves)}.", per)
            figures.append(
                f"<figure><figcaption>{html(stage.command)}: {html(stage.name)}</figcaption>"
                f"{_scrolling('Loss curves', picture)}</figure>"
            )
    return f"""<section id="stages" aria-labelledby="stages-title">
<h2 id="stages-title">What each stage changed</h2>
<p>The same questions to the model of each stage, with the likeliest answer. One that was not taught
to answer goes on with the text.</p>
<div class="scroll" tabindex="0" role="group" aria-label="Answers">
{_table(heading, zip(stages.questions, *answers))}</div>
{"".join(figures)}</section>"""


def _evaluations(curves: Curves) -> str:
    """The curves as a table."""
    train = dict(curves.train)
    rows = (
        (f"{step:,}", loss_text(train[step]) if step in train else "", loss_text(loss))
        for step, loss in curves.val
    )
    return _details("The numbers", _table(("step", "training text", "held-out text"), rows))


def _rewards(records: list[dict[str, Any]]) -> str:
    """What a run of preferences measured on the pairs held out: rewards as curves, all as a table.

    The picture is an image of its own, so that its style sheet is not that of the page.
    """
    if not records:
        return ""
    picture = plot_svg(reward_curves("rewards", records), subject=REWARDS)
    data = base64.b64encode(picture.encode("utf-8")).decode("ascii")
    rows = [
        (
            f"{record['step']:,}",
            *(f"{record[name]:.2f}" for name in ("chosen_reward", "rejected_reward", "margin")),
            f"{record['accuracy']:.0%}",
            *(f"{record[name]:.2f}" for name in ("kl", "chosen_loss")),
        )
        for record in records
    ]
    titles = ("step", "chosen reward", "rejected reward", "margin", "accuracy",
              "KL, nats an answer", "loss of chosen answers, nats per token")  # fmt: skip
    last = html(measured_text(records[-1]))
    return (
        f'<figure><img alt="Rewards: {last}" src="data:image/svg+xml;base64,{data}"></figure>'
        f'<p class="note">At the end: {last}.</p>'
        + _details("What was measured on the pairs held out", _table(titles, rows))
    )


def _samples(report: Report) -> str:
    figures, kind_of_text = [], "sample lines" if report.lines else "sample"
    for temperature, text, _ in report.samples:
        kind = " (always the likeliest)" if temperature == 0 else ""
        figures.append(
            f"<figure><figcaption>temperature {temperature:g}{kind}</figcaption>"
            f'<pre class="{kind_of_text}" dir="auto"><span class="prompt">{html(report.prompt)}'
            f"</span>{html(text)}</pre></figure>"
        )
    return f'<p class="note">{html(report.samples_note)}</p>{"".join(figures)}'


def _passage(report: Report) -> str:
    reading = report.reading
    options = [_token(reading.labels[0], None)]
    options += map(_token, reading.labels[1:], reading.predictions)
    mean = reading.mean_nats
    loss = "" if mean is None else f" On average: {mean:.3f} nats per {report.unit}."
    return f"""<p class="note">{html(report.passage_note + loss)}</p>
<div class="passage" id="passage" role="listbox" aria-label="The passage, {report.unit} by
{report.unit}" aria-orientation="horizontal" dir="ltr">{"".join(options)}<span role="option"
class="token next" aria-selected="false">?</span></div>
<div class="panel" id="surprise"><noscript>With JavaScript on, the likeliest {report.unit}s at each
place are listed here.</noscript></div>"""


def _token(label: str, prediction: Optional[Prediction]) -> str:
    """A token over a bar that is the longer, the more it surprised the model."""
    end = '<br role="presentation">' if label == "↵" else ""
    if prediction is None:
        attributes = 'title="the first: nothing stands before it"'
    else:
        nats, probability = prediction.nats, percent(prediction.probability)
        height = min(TALLEST, round(HEIGHT_OF_A_NAT * nats))
        attributes = f'title="{nats:.3f} nats, {html(probability)}" style="--n:{height}"'
    return (
        f'<span role="option" class="token" aria-selected="false" {attributes}>'
        f"{html(label)}</span>{end}"
    )


def _attention(report: Report) -> str:
    """The empty frame that parts.js fills, or why there is none."""
    maps = report.reading.attention
    if maps is None:
        return f"<p>{NO_ATTENTION}</p>"
    first, count = maps.rows[0].query, len(maps.rows)
    which = f"{count:,} {report.unit}{'s' if count > 1 else ''} of the passage above"
    where = f"The first {which}." if first == 0 else f"{which} from place {first} on."
    return f"""<p class="note">{html(where)}</p>
<noscript><p>The maps are drawn by JavaScript, which is off.</p></noscript>
{ATTENTION_FRAME}"""


def _embeddings(embeddings: EmbeddingMap) -> str:
    first, second = embeddings.shares
    tokens = embeddings.tokens
    kept = (
        f"The {embeddings.width} numbers of each vector in {embeddings.name}, seen from where they "
        f"differ most: the horizontal axis keeps {percent(first)} of the variance, the vertical "
        f"one {percent(second)}. What is near here may be far apart in the other dimensions."
    )
    left_out = embeddings.different - len(tokens)
    if left_out:
        kept += (
            f" {len(tokens):,} of {embeddings.different:,} tokens are shown, the most frequent of "
            f"the training text where it is known."
        )
    rows = ((t.label, f"{t.x:.2f}", f"{t.y:.2f}") for t in tokens[:MOST_LISTED])
    picture = token_map(embeddings, extremes(tokens))
    return f"""<p>{html(kept)}</p>
<figure class="square">{_scrolling("Map of the token embeddings", picture)}</figure>
{_details("The numbers", _table(("token", "horizontal", "vertical"), rows))}"""


def _parameters(parts: list[Part]) -> str:
    """A row for each part; a bar shows its share."""
    total = sum(part.numbers for part in parts)
    rows = []
    for part in parts:
        shapes = " + ".join(" × ".join(map(str, shape)) for shape in part.shapes)
        blocks = f", in each of {part.times} blocks" if part.times > 1 else ""
        what = f"{part.purpose}: {shapes}{blocks}" if part.purpose else f"{shapes}{blocks}"
        rows.append(
            f'<tr><th scope="row"><code>{html(part.name)}</code> '
            f'<span class="purpose">{html(what)}</span></th><td>{part.numbers:,}</td>'
            f"<td>{html(percent(part.numbers / total))}{bar(part.numbers / total)}</td></tr>"
        )
    return f"""<table class="parts"><thead><tr><th scope="col">part</th>
<th scope="col">numbers</th><th scope="col">share</th></tr></thead><tbody>{"".join(rows)}
<tr class="total"><th scope="row">all</th><td>{total:,}</td><td></td></tr></tbody></table>"""


def _scrolling(name: str, content: str) -> str:
    """What may be wider than a phone scrolls in a box of its own, from the keyboard, too."""
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{name}">{content}</div>'


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = "".join(f'<th scope="col">{html(name)}</th>' for name in heading)
    body = "".join(f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
