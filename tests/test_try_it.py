"""A reader who changes a layer is not lied to: three of the book's changes, made and looked at.

Each is a patch of at most 20 lines in at most two files. Afterwards `gradcheck` still passes, and
`trace` names what runs now, with random weights and after some training.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATCHES = ROOT / "tests" / "patches"
CHANGES = {  # patch -> (rung, what the display of its network has, what no display has any more)
    "relu": ("mlp", r"\d relu \S+ hidden = layers\.relu\(", r"\btanh\b|squash"),
    "distance_bias": ("attention", r'k, v, w\["distance\.bias"\]\)', r"\[query\], k, v\)"),
    "rms_norm": ("modern", r"\d rms_norm\b", r"layer_norm\b(?!\()|mean 0 and variance"),
}


def changed_lines(patch):
    """Lines that a patch adds, without empty ones, and the files that it touches."""
    lines = patch.splitlines()
    added = [line for line in lines if line.startswith("+") and not line.startswith("+++")]
    files = {line[6:] for line in lines if line.startswith("+++ b/")}
    return sum(bool(line[1:].strip()) for line in added), files


def apply(patch, folder):
    """What `patch -p1` does, for patches made of exact lines. Raises ValueError if one is not."""
    for part in re.split(r"^--- a/.*\n", patch, flags=re.MULTILINE)[1:]:
        name, _, hunks = part.partition("\n")
        path = folder / name[len("+++ b/") :]
        text = path.read_text("utf-8")
        for hunk in re.split(r"^@@.*\n", hunks, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] != "+")
            after = "".join(line[1:] for line in lines if line[0] != "-")
            if text.count(before) != 1:
                raise ValueError(f"{path.name} has no single place for:\n{before}")
            text = text.replace(before, after)
        path.write_text(text, "utf-8")


@pytest.fixture(params=CHANGES)
def changed(request, tmp_path):
    """The name of a change, and a copy of the package with it."""
    shutil.copytree(ROOT / "tiny_llm", tmp_path / "tiny_llm")
    shutil.copy(ROOT / "corpus.txt", tmp_path)
    apply((PATCHES / f"{request.param}.patch").read_text("utf-8"), tmp_path)
    return request.param, tmp_path


def tiny_lm(folder, *words):
    done = subprocess.run(
        [sys.executable, "-m", "tiny_llm", *words],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8")
    return done.stdout.decode("utf-8")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_small(name):
    lines, files = changed_lines((PATCHES / f"{name}.patch").read_text("utf-8"))
    assert 0 < lines <= 20
    assert len(files) <= 2 and all((ROOT / file).is_file() for file in files)


def test_there_is_a_patch_for_each_change():
    assert {path.stem for path in PATCHES.glob("*.patch")} == CHANGES.keys()


@pytest.mark.slow
def test_the_displays_follow_the_change(changed):
    name, folder = changed
    rung, there, gone = CHANGES[name]
    assert "slopes agree" in tiny_lm(folder, "gradcheck", "--model", rung)
    small = ["--model", rung, "--steps", "5", "--quiet", "-n", "0", "-o", "m"]
    traces = [tiny_lm(folder, "trace", "--full", "--model", rung)]
    tiny_lm(folder, "train", *small)
    traces.append(tiny_lm(folder, "trace", "--full", "-c", "m"))
    for told in traces:
        network = told.partition("3. through")[2].partition("4. logits")[0]
        assert re.search(there, " ".join(network.split()))
        assert not re.search(gone, told)
    tiny_lm(folder, "report", "-c", "m", "-o", "m.html", "--max-new-tokens", "3")
    page = (folder / "m.html").read_text("utf-8")
    assert not re.search(gone, page)
    shown = {"relu": "linear, relu", "distance_bias": "attention for mixture"}
    assert shown.get(name, "rms_norm for normed_1") in page


@pytest.mark.parametrize("rung", ["mlp", "attention", "modern"])
def test_without_a_change_they_say_what_goes(rung):
    told = tiny_lm(ROOT, "trace", "--full", "--model", rung)
    there, gone = next(words for (other, *words) in CHANGES.values() if other == rung)
    assert re.search(gone, told) and not re.search(there, " ".join(told.split()))


def test_a_wrong_change_is_noticed(tmp_path):
    shutil.copytree(ROOT / "tiny_llm", tmp_path / "tiny_llm")
    patch = (PATCHES / "relu.patch").read_text("utf-8")
    apply(patch.replace("d if value > 0 else 0.0", "d"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tiny_llm", "gradcheck", "--model", "mlp"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1 and b"WRONG" in done.stdout
