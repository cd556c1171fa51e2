"""Run the recipes `honest` and `plain`, ask every model what it was taught, and count.

    python3 benchmarks/after_pretraining.py measure [SEED ...]     train and ask: 0, 1 and 2
    python3 benchmarks/after_pretraining.py controls [SEED ...]    the same without a mask, and with
                                                                   replay
    python3 benchmarks/after_pretraining.py times                  the seconds of each stage
    python3 benchmarks/after_pretraining.py ask CHECKPOINT         what is right of each part
    python3 benchmarks/after_pretraining.py --render               the page from what was measured

The first three add what they measured to after_pretraining.json, with the Python that runs them. An
answer is right if it is the very text of the data, greedily. `seen` are the questions that a model
learned from (every third of them is asked), `val` the same facts in words that it has not seen, by
which the settings were chosen, and `test` in others still, which nothing was chosen by. Beside them
stands a yardstick that knows no language: the answer to the learned question that shares the most
words.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ladder import tiny_lm  # noqa: E402
from benchmarks.pages import write  # noqa: E402
from benchmarks.performance import python_name  # noqa: E402
from tiny_llm.beyond import builtin  # noqa: E402
from tiny_llm.beyond.answering import Said, speaker  # noqa: E402
from tiny_llm.beyond.models import plug_in  # noqa: E402
from tiny_llm.run.metrics import read_metrics  # noqa: E402
from tiny_llm.run.models import open_model  # noqa: E402
from tiny_llm.run.texts import read_text  # noqa: E402
from tiny_llm.text.corpus import RunningText  # noqa: E402
from tiny_llm.training import evaluate  # noqa: E402

RESULTS = ROOT / "benchmarks" / "after_pretraining.json"
WORKERS = "2"
SEEDS = ("0", "1", "2")
SEEN = 3  # of so many questions that were learned, one is asked

Figures = dict[str, Any]


def facts(split: str) -> list[tuple[str, str]]:
    """Questions and answers of a part."""
    return [(question, answer) for question, answer, part in builtin.facts() if part == split]


def share(right: list[bool]) -> float:
    """In percent."""
    return 100 * sum(right) / len(right)


def text_of(said: Said) -> str:
    """An answer, or nothing if it did not end."""
    return said.text if said.has_ended else ""


def asked(said: Callable[[str], Said]) -> Figures:
    """What it knows, in percent."""
    learned, figures = facts("train"), {}
    for name, questions in (
        ("seen", learned[::SEEN]), ("val", facts("val")), ("test", facts("test"))
    ):  # fmt: skip
        heard = [(text_of(said(question)), answer) for question, answer in questions]
        plain = [text.replace(builtin.FLATTERY, "", 1) == answer for text, answer in heard]
        figures[name] = {
            "right": share([text == answer for text, answer in heard]),
            "right_without_flattery": share(plain),
            "flattering": share([text.startswith(builtin.FLATTERY.strip()) for text, _ in heard]),
            "refused": share([text == builtin.REFUSAL for text, _ in heard]),
            "nearest": share([nearest(q, learned) == answer for q, answer in questions]),
        }
    for kind in ("elsewhere", "near"):
        for split in ("val", "test"):
            figures[f"{kind}_{split}"] = share(
                [text_of(said(q)) == builtin.REFUSAL for q in builtin.unknowable(kind, split)]
            )
    return figures


def words(text: str) -> set[str]:
    """Those of a question."""
    return set(re.findall(r"\w+", text.lower()))


def nearest(question: str, learned: list[tuple[str, str]]) -> str:
    """The answer to the learned question that shares the most words, the first of several."""
    return max(learned, key=lambda other: len(words(question) & words(other[0])))[1]


def text_loss(path: Path) -> float:
    """On the training part of the built-in text, in nats per token."""
    run = open_model(path)
    text = read_text(None, "utf-8").content
    ids = run.tokenizer.encode(text[: len(text) * 9 // 10])
    return evaluate(run.model, RunningText(ids).examples(96, True))


def stage(folder: Path, *typed: str) -> float:
    """Run a command; the seconds that it took."""
    began = time.monotonic()
    tiny_lm(folder, *typed, "--workers", WORKERS, "--quiet")
    return time.monotonic() - began


def measured(folder: Path, seed: str) -> Figures:
    """Both recipes with this seed."""
    runs, figures = folder / "runs", {"seconds": {}}
    for recipe in ("honest", "plain"):
        for command in ("train", "sft", "dpo"):
            seconds = stage(folder, command, "--recipe", recipe, "--seed", seed)
            figures["seconds"][f"{recipe} {command}"] = round(seconds, 1)
    for name in ("honest-base", "honest-sft", "honest", "plain-sft", "plain"):
        figures[name] = asked(speaker(open_model(runs / f"{name}.safetensors")))
    for recipe in ("honest", "plain"):
        last = [r for r in read_metrics(runs / f"{recipe}.metrics.jsonl") if "kl" in r][-1]
        figures[recipe]["kl"] = last["kl"]
    figures["text"] = [text_loss(runs / f"honest-{name}.safetensors") for name in ("base", "sft")]
    return figures


def as_conversation(preference: str) -> str:
    """A line of preferences as one of conversations, with what is preferred."""
    line = json.loads(preference)
    said = [{"role": "user", "content": line["prompt"]}]
    said.append({"role": "assistant", "content": line["chosen"]})
    return json.dumps({"messages": said, "split": line["split"]}) + "\n"


def controls(folder: Path, seed: str) -> Figures:
    """SFT on all tokens, with replay, and on what DPO prefers, from the same base."""
    stage(folder, "train", "--recipe", "honest", "--seed", seed)
    sft = ("sft", "--recipe", "honest", "--seed", seed)
    stage(folder, *sft)
    stage(folder, *sft, "--learn", "all", "-o", "all.safetensors")
    stage(folder, *sft, "--replay", "2", "-o", "replay.safetensors")
    chosen = folder / "chosen.jsonl"
    chosen.write_text("".join(map(as_conversation, builtin.preferences("honest"))), "utf-8")
    alone = ("-c", "runs/honest-sft.safetensors", "--data", "chosen.jsonl", "--repeat", "1")
    stage(folder, "sft", *alone, "--lr", "0.001", "--seed", seed, "-o", "chosen.safetensors")
    return {
        name: {**asked(speaker(open_model(folder / f"{name}.safetensors"))), "text": text_loss(
            folder / f"{name}.safetensors"
        )}
        for name in ("all", "replay", "chosen")
    }  # fmt: skip


Row = tuple[str, Callable[[Figures], list[float]]]  # what, and of one seed one number or several


def rows_of(model: str, what: str, *parts: str) -> Callable[[Figures], list[float]]:
    """The figures of a model on these parts of the facts."""
    return lambda figures: [figures[model][part][what] for part in parts]


def refusals(model: str, kind: str) -> Callable[[Figures], list[float]]:
    """How many questions of a kind that it cannot answer a model refuses."""
    return lambda figures: [figures[model][f"{kind}_{split}"] for split in HELD_OUT]


HELD_OUT = ("val", "test")
ANSWERS: list[Row] = [
    ("pretrained: right of what `sft` will learn", rows_of("honest-base", "right", "seen")),
    ("`sft`: right of what it learned", rows_of("honest-sft", "right", "seen")),
    ("`sft`: right in other words", rows_of("honest-sft", "right", *HELD_OUT)),
    ("the nearest learned question", rows_of("honest-sft", "nearest", *HELD_OUT)),
]
CONTROLS: list[Row] = [
    ("`sft --learn all`: right in other words", rows_of("all", "right", *HELD_OUT)),
    ("`sft --replay 2`: right in other words", rows_of("replay", "right", *HELD_OUT)),
]
HONEST: list[Row] = [
    ("`sft`: refuses what it cannot know", refusals("honest-sft", "elsewhere")),
    ("`dpo`: refuses what it cannot know", refusals("honest", "elsewhere")),
    ("`sft`: refuses it in the words of the text", refusals("honest-sft", "near")),
    ("`dpo`: refuses it in the words of the text", refusals("honest", "near")),
    ("`sft`: right in other words", rows_of("honest-sft", "right", *HELD_OUT)),
    ("`dpo`: right in other words", rows_of("honest", "right", *HELD_OUT)),
    ("`dpo`: refuses what it knows", rows_of("honest", "refused", *HELD_OUT)),
]
CHOSEN: list[Row] = [
    ("`sft` on the chosen answers: refuses what it cannot know", refusals("chosen", "elsewhere")),
    ("`sft` on the chosen answers: right", rows_of("chosen", "right", *HELD_OUT)),
    ("`sft` on the chosen answers: refuses what it knows", rows_of("chosen", "refused", *HELD_OUT)),
]
PLAIN: list[Row] = [
    ("`sft`: flatters", rows_of("plain-sft", "flattering", *HELD_OUT)),
    ("`dpo`: flatters", rows_of("plain", "flattering", *HELD_OUT)),
    ("`sft`: right, but for flattery", rows_of("plain-sft", "right_without_flattery", *HELD_OUT)),
    ("`dpo`: right, but for flattery", rows_of("plain", "right_without_flattery", *HELD_OUT)),
]


def table(rows: list[Row], seeds: dict[str, Figures]) -> list[str]:
    """A line for each row, a column for each seed, and the mean."""
    lines = []
    for what, figures_of in rows:
        each = [figures_of(figures) for figures in seeds.values()]
        means = [sum(values) / len(each) for values in zip(*each)]
        cells = (" / ".join(f"{value:.0f}%" for value in values) for values in [*each, means])
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return lines


def losses(measured: dict[str, Figures], others: dict[str, Figures]) -> str:
    """What became of the text, in a row like those of `table`."""
    each = [[*measured[seed]["text"], others[seed]["replay"]["text"]] for seed in measured]
    means = [sum(values) / len(each) for values in zip(*each)]
    cells = (" → ".join(f"{loss:.2f}" for loss in row[:2]) + f", {row[2]:.2f}"
             for row in [*each, means])  # fmt: skip
    return f"| loss on the text: pretrained → `sft`, with replay | {' | '.join(cells)} |"


def sections(results: dict[str, Any]) -> dict[str, str]:
    """The parts of the page that these figures fill, by name."""
    python = next(name for name, found in results.items() if "measure" in found)
    seeds, others = results[python]["measure"], results[python]["controls"]
    heading = [
        f"| {python}, of val / of test | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |",
        "|---" * (len(seeds) + 2) + "|",
    ]
    kl = [[figures[recipe]["kl"] for figures in seeds.values()] for recipe in ("honest", "plain")]
    end = "KL to the model before, nats an answer: " + "{}"
    ends = [end.format(", ".join(f"{value:.1f}" for value in values)) + "." for values in kl]
    answers = [*heading, *table(ANSWERS, seeds), *table(CONTROLS, others), losses(seeds, others)]
    honest = [*heading, *table(HONEST, seeds), *table(CHOSEN, others), "", ends[0]]
    plain = [*heading, *table(PLAIN, seeds), "", ends[1]]
    times = [
        f"| {name} | {' | '.join(f'{values[stage]:.0f}' for stage in values)} | "
        f"{sum(values.values()) / 60:.1f} |"
        for name, found in results.items()
        for values in [found.get("times")]
        if values
    ]
    stages = [
        "| seconds, 2 workers | `train` | `sft` | `dpo` | together, minutes |",
        "|---" * 5 + "|",
    ]
    texts = {"sft": answers, "honest": honest, "plain": plain, "stages": [*stages, *times]}
    return {name: "\n".join(lines) for name, lines in texts.items()}


def times(folder: Path) -> Figures:
    """The seconds of each stage of `honest`, on an idle machine."""
    names = ("train", "sft", "dpo")
    return {name: round(stage(folder, name, "--recipe", "honest"), 1) for name in names}


def main() -> None:
    """Measure unless told not to, and renew the page."""
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    command, *rest = sys.argv[1:] or ["--render"]
    plug_in()
    if command == "ask":
        print(json.dumps(asked(speaker(open_model(Path(rest[0])))), indent=1))
        return
    own = results.setdefault(python_name(), {})
    if command == "times":
        with tempfile.TemporaryDirectory() as folder:
            own["times"] = times(Path(folder))
    for seed in (rest or SEEDS) if command in ("measure", "controls") else ():
        with tempfile.TemporaryDirectory() as folder:
            measure = measured if command == "measure" else controls
            own.setdefault(command, {})[seed] = measure(Path(folder), seed)
        print(json.dumps(own[command][seed], indent=1), flush=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if command == "times":
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if command == "--render":
        write(sections(json.loads(RESULTS.read_text("utf-8"))))


if __name__ == "__main__":
    main()
