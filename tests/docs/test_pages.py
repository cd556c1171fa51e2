"""README.md says what is true: its figures were measured, its commands run, its names exist."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import (
    after_pretraining,
    browser,
    ladder,
    performance,
    precision,
    real_model,
    recipes,
    scaling,
    serving,
)
from benchmarks.pages import is_current, pages
from tiny_llm.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
FREE_TEXT = re.compile(r"^prompt .*?(?=^saved |^\[\.\.\.\]|^weights |\Z)", re.MULTILINE | re.DOTALL)


def results():
    return json.loads((ROOT / "benchmarks" / "ladder.json").read_text("utf-8"))


def listings():
    """(command, what the page says that it prints) in order: README.md, then docs/."""
    for block in re.findall(r"```console\n(.*?)```", "\n".join(pages().values()), re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = entry.partition("\n")
            yield command, output


def form(text):
    """The lines without their numbers and without what a model wrote."""
    lines = FREE_TEXT.sub("", text).splitlines()
    numberless = [re.sub(r"[-+]?[\d.,:]+(e-?\d+)?", "#", line).split() for line in lines]
    return [words for words in numberless if words]


def test_the_figures_are_the_measured_ones():
    assert is_current(ladder.sections(results()))
    measured = json.loads((ROOT / "benchmarks" / "performance.json").read_text("utf-8"))
    tables = {
        "performance": performance.section(measured),
        "ways": performance.ways_table(measured),
    }
    assert is_current(tables)
    measured = json.loads((ROOT / "benchmarks" / "precision.json").read_text("utf-8"))
    assert is_current({"precision": precision.section(measured)})
    measured = json.loads((ROOT / "benchmarks" / "real_model.json").read_text("utf-8"))
    assert is_current({"real_model": real_model.section(measured)})


def test_rounding_costs_next_to_nothing():
    measured = json.loads((ROOT / "benchmarks" / "precision.json").read_text("utf-8"))
    for name in ("mlp", "attention", "modern", "names"):
        exact, rounded = measured[name]["float64"], measured[name]["auto"]
        assert len(exact) == len(rounded) == (1 if name == "names" else 3)
        assert abs(sum(rounded) - sum(exact)) / len(exact) < 0.01
    assert abs(measured["int8"]["rounded"] - measured["int8"]["exact"]) < 0.01


def mean(runs, name):
    assert len(runs) == 3
    return sum(run[name] for run in runs) / 3


def test_what_was_measured_is_what_the_project_claims():
    rungs = results()["rungs"]
    losses = [mean(rungs[rung], "full_window_loss") for rung in ("mlp", "attention", "modern")]
    counting = rungs["mlp"][0]["counting_pairs"]
    assert losses[2] + 0.15 <= losses[1] and losses[1] + 0.15 <= losses[0] < counting
    assert mean(results()["short"], "full_window_loss") < losses[1]
    assert mean(rungs["modern"], "real_words") >= 0.75
    right = {
        task: [mean(models[rung], "right") for rung in ("mlp", "attention", "modern")]
        for task, models in results()["tasks"].items()
    }
    assert min(right["place"]) > 99
    assert right["find"][0] < 20 and min(right["find"][1:]) > 95
    assert max(right["recall"][:2]) < 80 and right["recall"][2] > 99


def test_the_recipes_are_the_measured_ones():
    measured = json.loads((ROOT / "benchmarks" / "recipes.json").read_text("utf-8"))
    assert is_current(recipes.sections(measured))
    assert measured["shakespeare"]["val_loss"] <= 1.75
    assert measured["shakespeare"]["seconds"] < 60 * 60
    assert measured["names"]["val_loss"] <= 2.05
    assert measured["names"]["seconds"] <= 15 * 60


def test_the_figures_of_later_stages_and_of_the_server_are_those_of_the_last_run():
    for script in (after_pretraining, serving, scaling, browser):
        name = script.__name__.rpartition(".")[2]
        measured = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text("utf-8"))
        assert is_current(script.sections(measured))


@pytest.mark.slow
@pytest.mark.listings
def test_every_command_runs_and_prints_what_is_listed(tmp_path):
    """In order, in a fresh copy; figures may differ a little from machine to machine."""
    shutil.copytree(ROOT / "tiny_llm", tmp_path / "tiny_llm")
    shutil.copy(ROOT / "corpus.txt", tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for command, listed in listings():
        done = subprocess.run(
            command.replace("python3", f"'{sys.executable}'"),
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=300,
        )
        printed = done.stdout.decode("utf-8")
        assert done.returncode == 0, (command, printed)
        if "[...]" in listed:
            assert "entropy" in listed and "entropy" in printed
        elif listed.strip():
            assert form(printed) == form(listed), command
        for pattern in (r"val loss (\S+)", r"best validation loss (\S+)", r"counting pairs (\S+)"):
            ours, theirs = re.findall(pattern, printed), re.findall(pattern, listed)
            if theirs:
                assert [float(x) for x in ours] == pytest.approx(
                    [float(x) for x in theirs], abs=0.1
                )


@pytest.mark.slow
def test_every_command_of_a_page_finds_what_those_before_it_made(tmp_path, monkeypatch, capsys):
    """README.md, then docs/commands.md, each in an empty folder; training is cut to a few steps."""
    monkeypatch.setenv("COLUMNS", "80")
    for page in (ROOT / "README.md", ROOT / "docs" / "commands.md"):
        folder = tmp_path / page.stem
        folder.mkdir()
        shutil.copy(ROOT / "corpus.txt", folder)
        monkeypatch.chdir(folder)
        typed = re.findall(r"^(?:\$ )?(.*python3 -m tiny_llm .*)$", fenced(page), re.MULTILINE)
        assert len(typed) >= 3
        for line in typed:
            before, _, words = line.partition("python3 -m tiny_llm ")
            words = shlex.split(words)
            if before:
                assert before == "cat corpus.txt | "
                words[words.index("-")] = "corpus.txt"
            if words[0] == "train" and "--resume" not in words:
                steps = ["--steps", "12" if "--stop-after" in words else "2"]
                words = without(without(words, "--repeat"), "--steps") + steps
            if words[0] == "chat":  # with a model that has to be downloaded: test_real_model.py
                continue
            assert main(words) == 0, (line, capsys.readouterr().err)
    capsys.readouterr()


def fenced(page):
    """What a page shows as typed, without what was printed in answer."""
    blocks = re.findall(r"```(sh|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    lines = [(kind, line) for kind, block in blocks for line in block.splitlines()]
    return "\n".join(line for kind, line in lines if kind == "sh" or line.startswith("$ "))


def without(words, flag):
    """The words without this flag and its value."""
    if flag not in words:
        return words
    place = words.index(flag)
    return words[:place] + words[place + 2 :]


@pytest.mark.slow
def test_the_example_in_python_runs_learns_and_prints(capsys):
    blocks = re.findall(r"```python\n(.*?)```", "\n".join(pages().values()), re.DOTALL)
    (code,) = [block for block in blocks if "tiny_llm" in block]
    names = {}
    exec(code, names)
    assert names["loss"] < 0.5
    assert str(names["loss"]) in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", sorted(path.name for path in (ROOT / "scripts").glob("tiny_*.py"))
)
def test_the_scripts_are_one_command(script, tmp_path):
    flags = ["--prompt", "The model ", "--sample-length", "20", "--seed", "3", "--steps", "5"]
    if script != "tiny_lm.py":
        flags.append("--show-attention")
    if script == "tiny_modern_lm.py":
        flags += ["--train", "--n-layers", "1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode("utf-8")
    assert "The model " in out
    if script != "tiny_lm.py":
        assert "it does not explain" in out or "entropy" in out or "key by key" in out
    if script == "tiny_modern_lm.py":
        assert "before training" in out and "after training" in out


def test_every_name_in_the_table_is_where_it_is_said_to_be():
    rows = re.findall(r"\| `((?:tiny_llm/|corpus)\S+)` `([^`]+)` \|$", README, re.MULTILINE)
    assert len(rows) >= 15
    for path, name in rows:
        assert name in (ROOT / path).read_text("utf-8"), (path, name)


def test_every_place_that_the_ten_ideas_name_exists():
    package = {path.stem: path.read_text("utf-8") for path in (ROOT / "tiny_llm").glob("*.py")}
    named = re.findall(r"`(\w+)\.(\w+)`", README)
    places = [(file, name) for file, name in named if file in package and name != "py"]
    assert len(places) >= 10
    for file, name in places:
        assert re.search(rf"^(def|class) {name}\b", package[file], re.MULTILINE), (file, name)


def test_the_list_of_the_rooms_is_complete_and_true():
    page = (ROOT / "docs" / "rooms.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(\S+)` \|", page, re.MULTILINE))
    package = ROOT / "tiny_llm"
    there = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.*")
        if path.suffix in (".py", ".js", ".css", ".html", ".jsonl")
        and path.parent != package
        and path.name != "__init__.py"
        and "__pycache__" not in path.parts
    }
    assert listed == there


def test_readme_is_short_and_begins_with_what_matters():
    lines = README.splitlines()
    assert len(lines) <= 350
    first_screen = "\n".join(lines[:24])
    assert "](docs/" in first_screen and first_screen.count("```sh") == 2


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for path in (ROOT / "docs").iterdir():
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def test_links_lead_somewhere():
    for path, page in pages().items():
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page):
            assert (path.parent / target).exists(), (path.name, target)


def test_ci_runs_the_command_of_the_readme():
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"<!-- test command -->\n```sh\n.*pytest\n```", README)
