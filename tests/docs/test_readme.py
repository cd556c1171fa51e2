"""README.md says what is true: its figures were measured, its commands run, its names exist."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import recipes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
FREE_TEXT = re.compile(r"^prompt .*?(?=^saved |^\[\.\.\.\]|^weights |\Z)", re.MULTILINE | re.DOTALL)


def ladder():
    spec = importlib.util.spec_from_file_location("ladder", ROOT / "benchmarks" / "ladder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results():
    return json.loads((ROOT / "benchmarks" / "ladder.json").read_text("utf-8"))


def listings():
    """(command, what README.md says that it prints) in order."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = entry.partition("\n")
            yield command, output


def form(text):
    """The lines without their numbers and without what a model wrote."""
    lines = FREE_TEXT.sub("", text).splitlines()
    numberless = [re.sub(r"[-+]?[\d.,:]+(e-?\d+)?", "#", line).split() for line in lines]
    return [words for words in numberless if words]


def test_the_figures_are_the_measured_ones():
    assert ladder().rendered(README, results()) == README


def test_what_was_measured_is_what_the_project_claims():
    rungs = results()["rungs"]
    limits = {"mlp": 30, "attention": 60, "modern": 60}
    for name, figure in rungs.items():
        assert figure["best_val_loss"] < figure["counting_pairs"]
        assert figure["seconds"] < limits[name]
        assert figure["share_seed_0"] >= 0.5
    assert rungs["mlp"]["different_seed_0"] >= 15
    for rung_1 in results()["equal_time"].values():
        assert rung_1["seconds"] == pytest.approx(rungs["modern"]["seconds"], rel=0.25)
        assert rungs["modern"]["best_val_loss"] < rung_1["best_val_loss"]


def test_the_recipes_are_the_measured_ones():
    measured = json.loads((ROOT / "benchmarks" / "recipes.json").read_text("utf-8"))
    assert ladder().renewed(README, recipes.sections(measured)) == README
    assert measured["shakespeare"]["val_loss"] <= 1.75
    assert measured["shakespeare"]["seconds"] < 60 * 60
    assert measured["names"]["val_loss"] <= 2.05
    assert measured["names"]["seconds"] <= 15 * 60


@pytest.mark.slow
def test_every_command_runs_and_prints_what_is_listed(tmp_path):
    """In order, in a fresh copy; figures may differ a little from machine to machine."""
    shutil.copytree(ROOT / "tiny_llm", tmp_path / "tiny_llm")
    shutil.copy(ROOT / "corpus.txt", tmp_path)
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


def test_the_example_in_python_runs_and_learns():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["loss"] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").iterdir()))
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
        assert "it does not explain" in out or "entropy" in out
    if script == "tiny_modern_lm.py":
        assert "before training" in out and "after 5 steps of training" in out


def test_every_name_in_the_table_is_where_it_is_said_to_be():
    rows = re.findall(r"\| `((?:tiny_llm/|corpus)\S+)` `([^`]+)` \|$", README, re.MULTILINE)
    assert len(rows) >= 15
    for path, name in rows:
        assert name in (ROOT / path).read_text("utf-8"), (path, name)


def test_every_place_that_the_ten_ideas_name_exists():
    package = {path.stem: path.read_text("utf-8") for path in (ROOT / "tiny_llm").glob("*.py")}
    named = re.findall(r"`(\w+)\.(\w+)`", README)
    places = [(file, name) for file, name in named if file in package and name != "py"]
    assert len(places) >= 11
    for file, name in places:
        assert re.search(rf"^(def|class) {name}\b", package[file], re.MULTILINE), (file, name)


def test_the_file_tree_is_complete_and_true():
    (tree,) = re.findall(r"```\n(corpus\.txt .*?)```", README, re.DOTALL)
    listed, folders = set(), {0: Path()}
    for line in tree.splitlines():
        depth, entry = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth + 1] = folders[depth] / entry.rstrip("/")
        if not entry.endswith("/"):
            listed.add(folders[depth] / entry)
    missing = {path for path in listed if not (ROOT / path).is_file()}
    assert not missing
    shown = ("tiny_llm", "scripts", "docs", "benchmarks")
    existing = {
        path.relative_to(ROOT)
        for folder in shown
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    existing.discard(Path("tiny_llm/view/__init__.py"))
    existing.discard(Path("tiny_llm/view/report/__init__.py"))
    existing.discard(Path("tiny_llm/cli/__init__.py"))
    assert existing <= listed, existing - listed


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_command_of_the_readme():
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"<!-- test command -->\n```sh\n.*pytest\n```", README)
