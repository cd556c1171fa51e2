"""How many held-out cases of a task a model gets right, and some of them, with its answers."""

from __future__ import annotations

from tiny_llm.fast.tensors import check_finite
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.saved import Run
from tiny_llm.run.sources import Material
from tiny_llm.text.shown import shown
from tiny_llm.text.tasks import TASKS, accuracy, cases_of

SHOWN = 3  # cases


def task_prompt(task: str) -> str:
    """A held-out case up to the last letter that is asked for."""
    case = cases_of(task)[1][0]
    return case.text[: case.asked[-1]]


def print_task(run: Run, material: Material, changed: str = "") -> None:
    """The share of right answers to standard output, after some of them."""
    model = OnlyAsked(run.model) if run.model.predicts_every_token else run.model
    examples = material.val.examples(run.model.config.context_length, model.predicts_every_token)
    print(f"{'what it sees':<20}{'its answer':>12}{'right':>8}")
    for case in cases_of(run.options.task)[1][:SHOWN]:
        seen = case.text[: case.asked[0]]
        ids = run.tokenizer.encode(seen)[-run.model.config.context_length :]
        row = run.model.forward([ids])[0][-1]
        check_finite([row])
        answer = run.tokenizer.decode([row.index(max(row))])
        print(f"{seen:<20}{shown(answer):>12}{case.text[case.asked[0]]:>8}")
    about = TASKS[run.options.task].about
    share = accuracy(model, examples)
    print(f"{run.options.task} ({about}): {changed}{share:.1%} right", flush=True)
