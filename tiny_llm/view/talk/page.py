"""The page of a served model, and what it may ask beside the API: where the heads read from.

Served --page--> HTML, which asks /tokenize and /v1/completions --tokens--> looked_into --> JSON
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, Optional

from tiny_llm.model import LanguageModel
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.view.heads import has_attention
from tiny_llm.view.report.facts import read_passage, token_label
from tiny_llm.view.report.page import (
    ATTENTION_FRAME,
    NO_ATTENTION,
    POLICY,
    head,
    html,
    json_for_script,
    part_of_pages,
    weights_for_script,
)

MOST_LOOKED_AT = 64  # tokens of an attention map
LARGE = 10_000_000  # numbers of a model that takes seconds to read them


class Served(NamedTuple):
    """What the page says of the model."""

    name: str
    about: str  # its rung and size
    context_length: int
    can_talk: bool
    asks_for_key: bool
    ends: Sequence[int]  # tokens of which each ends a text
    attention: Optional[str]  # why it is not shown; None: it is


def page(served: Served) -> str:
    """The whole page. It asks nobody but the server that it comes from."""
    css = part_of_pages("page.css") + Path(__file__).with_name("talk.css").read_text("utf-8")
    return Template(Path(__file__).with_name("talk.html").read_text("utf-8")).substitute(
        name=html(served.name),
        about=html(served.about),
        head=head(f"{served.name}: a model to talk to", css, f"{POLICY}; connect-src 'self'"),
        js=part_of_pages("parts.js") + Path(__file__).with_name("talk.js").read_text("utf-8"),
        data=json_for_script(
            {
                "context": served.context_length,
                "talks": served.can_talk,
                "key": served.asks_for_key,
                "ends": list(served.ends),
                "most": MOST_LOOKED_AT,
            }
        ),
        attention=_attention(served.attention),
    )


def _attention(why_not: Optional[str]) -> str:
    if why_not:
        return f'<p id="no-attention">{html(why_not)}</p>'
    return f"""<p><button type="button" id="look" disabled>Look at the text so far</button></p>
<div id="maps" hidden>{ATTENTION_FRAME}</div>"""


def why_no_attention(model: LanguageModel, numbers: int) -> Optional[str]:
    """The reason why a server does not show the attention of its model, or None."""
    if not has_attention(model):
        return NO_ATTENTION
    if numbers > LARGE:
        return (
            "This model is too large to be looked into while others wait; tiny-lm attention does "
            "it in a terminal."
        )
    return None


def looked_into(
    model: LanguageModel, tokenizer: Tokenizer, separator: Optional[int], tokens: Sequence[int]
) -> dict[str, Any]:
    """Labels of the last tokens, and the maps of every layer and head, as parts.js draws them.

    A model of single lines, which begins anew at each `separator`, reads the longest of them.
    """
    last = tokens[-MOST_LOOKED_AT:]
    maps = read_passage(model, tokenizer, last, separator).attention
    labels = [token_label(tokenizer, token) for token in last]
    return {"labels": labels, "attention": maps and weights_for_script(maps)}
