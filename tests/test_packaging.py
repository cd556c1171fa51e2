"""The package as others install it: itself alone, with its corpus, its types and its command."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

venv = pytest.importorskip("venv", reason="there is none in a browser")
ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    subprocess.run(words, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_its_corpus_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
        corpus = archive.read("tiny_llm/corpus.txt")
    assert corpus == (ROOT / "corpus.txt").read_bytes()
    assert "tiny_llm/py.typed" in names
    page = {f"tiny_llm/view/report/page.{kind}" for kind in ("html", "css", "js")}
    questions = {f"tiny_llm/beyond/data/{name}.jsonl" for name in ("facts", "unknowable")}
    assert page | questions <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tiny_llm", "tiny_llm_demo"}
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert all("extra ==" in line for line in required)


def test_the_installed_command_trains_in_an_empty_folder(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    install = [scripts / "python", "-m", "pip", "install", "--quiet", "--no-index", wheel]
    subprocess.run(install, check=True, timeout=300, env=environment)
    train = [scripts / "tiny-lm", "train", "--steps", "3", "-n", "20"]
    done = subprocess.run(
        train, cwd=empty, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("language models ")
    assert "    tiny-lm generate --checkpoint runs/mlp.safetensors" in done.stderr
    assert {path.name for path in (empty / "runs").iterdir()} == {
        "mlp.safetensors",
        "mlp.best.safetensors",
        "mlp.metrics.jsonl",
    }
