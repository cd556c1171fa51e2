"""A run as a folder for PyTorch, and back; and what cannot go there. Needs no PyTorch."""

import json
from pathlib import Path

import pytest

from tiny_llm.batches import Batches
from tiny_llm.cli import main
from tiny_llm.files import checkpoint
from tiny_llm.files.hugging_face import read as read_model
from tiny_llm.run import torch_folder
from tiny_llm.run.begin import batches_of, resume
from tiny_llm.run.errors import UserError
from tiny_llm.run.metrics import read_metrics
from tiny_llm.run.sources import read_source
from tiny_llm.text.orders import Shuffled

TEXT = "the cat sat on the mat. the dog sat on the log. a cat! " * 30
LINES = "".join(f"{first}{last}\n" for first in "abcdef" for last in ("nna", "lma", "ori", "tte"))
SIZES = ["--d-model", "8", "--n-heads", "2", "--n-layers", "1", "--context-length", "8"]
HOW = ["--batch-size", "4", "--steps", "12", "--eval-every", "4", "--quiet", "-n", "0"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("lines.txt").write_text(LINES, encoding="utf-8")


def trained(*flags, data="text.txt", stop="4"):
    words = ["train", "--model", "modern", "--data", data, "-o", "m", *SIZES, *HOW, *flags]
    assert main([*words, "--stop-after", stop]) in (0, 130)


def exported(*flags, data="text.txt"):
    return main(["export", "-c", "m", "--to", "torch", "-o", "f", "--data", data, *flags])


@pytest.mark.parametrize("flags", [[], ["--tokenizer", "bpe", "--vocab-size", "270"],
                                   ["--model", "llama", "--n-kv-heads", "1"], ["--lines"]],
                         ids=["char", "bpe", "llama", "lines"])  # fmt: skip
def test_there_and_back_a_run_is_the_same(flags):
    data = "lines.txt" if "--lines" in flags else "text.txt"
    trained(*flags, data=data)
    assert exported(data=data) == 0
    assert main(["import", "f", "-o", "back", "--quiet"]) == 0
    assert Path("back").read_bytes() == Path("m").read_bytes()
    assert read_metrics(Path("back.metrics.jsonl")) == read_metrics(Path("m.metrics.jsonl"))
    assert main(["train", "--resume", "back", "--data", data, "--quiet", "-n", "0"]) == 0
    assert main(["train", "--resume", "m", "--data", data, "--quiet", "-n", "0"]) == 0
    assert Path("back").read_bytes() == Path("m").read_bytes()


@pytest.mark.parametrize("lines", [False, True])
def test_what_is_read_is_what_the_run_had(lines):
    data = "lines.txt" if lines else "text.txt"
    trained(*["--lines"] * lines, data=data)
    assert exported(data=data) == 0
    found = torch_folder.read(Path("f"))
    assert (found.step, found.rung, found.options.steps) == (4, "modern", 12)
    saved = checkpoint.load(Path("m"))
    assert found.metadata == saved.metadata and {*found.tensors} == {*saved.tensors}
    run, material = resume(Path("m"), read_source(data))
    assert [*found.train.ids] == [*material.train.ids] and [*found.val.ids] == [*material.val.ids]
    theirs = Batches(found.train.examples(8, True), 4, found.options.seed, Shuffled)
    ours = batches_of(run, material)
    assert [theirs.batch(step) for step in range(9)] == [ours.batch(step) for step in range(9)]
    weights = {name: list(t.read()) for name, t in read_model(Path("f")).tensors.items()}
    assert weights["wte.weight"] == run.model.parameters["wte.weight"]


def test_a_token_file_that_there_is_is_not_copied():
    assert main(["prepare", "text.txt", "-o", "tokens.bin", "--quiet"]) == 0
    trained(data="tokens.bin")
    assert exported(data="tokens.bin") == 0
    assert not Path("f/tokens.bin").exists()
    assert json.loads(Path("f/data.json").read_text())["tokens"] == str(
        Path("tokens.bin").resolve()
    )
    found = torch_folder.read(Path("f"))
    Path("tokens.bin").rename("other.bin")
    Path("tokens.bin.json").rename("other.bin.json")
    with pytest.raises(UserError, match="--tokens"):
        torch_folder.read(Path("f"))
    assert [*torch_folder.read(Path("f"), Path("other.bin")).val.ids] == [*found.val.ids]


def test_another_tokenizer_and_a_file_that_changed_are_named():
    trained()
    assert exported() == 0
    assert main(["prepare", "lines.txt", "-o", "other.bin", "--quiet"]) == 0
    with pytest.raises(UserError, match="another tokenizer"):
        torch_folder.read(Path("f"), Path("other.bin"))
    torch_folder.verify(torch_folder.read(Path("f")))
    tokens = bytearray(Path("f/tokens.bin").read_bytes())
    tokens[10] ^= 1
    Path("f/tokens.bin").write_bytes(tokens)
    with pytest.raises(UserError, match="its bytes have changed"):
        torch_folder.verify(torch_folder.read(Path("f")))


def test_a_damaged_folder_is_one_line():
    trained()
    assert exported() == 0
    for name in ("run.safetensors", "data.json", "tokens.bin", "tokens.bin.json"):
        path = Path("f") / name
        content = path.read_bytes()
        path.unlink()
        for broken in (None, content[: len(content) // 2], b"", b"[1, {}]"):
            if broken is not None:
                path.write_bytes(broken)
            with pytest.raises(UserError) as found:
                torch_folder.read(Path("f"))
            assert "\n" not in str(found.value)
        path.write_bytes(content)
    assert torch_folder.read(Path("f")).step == 4


def test_what_cannot_go_on_there_is_refused(capsys):
    words = ["train", "--data", "text.txt", "-o", "m", "--steps", "2", "--quiet", "-n", "0"]
    for rung in ("mlp", "attention"):
        assert main([*words, "--model", rung]) == 0
        capsys.readouterr()
        assert exported() == 1
        assert f"the model is {rung}, which no other program has" in capsys.readouterr().err
    assert main(["train", "--task", "find", "--model", "modern", "--steps", "1", "--d-model", "8",
                 "-o", "m", "--quiet", "--n-layers", "1"]) == 0  # fmt: skip
    capsys.readouterr()
    assert exported() == 1
    assert "this one is of find" in capsys.readouterr().err
    trained()
    capsys.readouterr()
    assert exported(data="lines.txt") == 1
    assert "was trained on another text" in capsys.readouterr().err
    Path("f").mkdir(exist_ok=True)
    Path("f/mine").write_text("x")
    assert exported() == 1 and "holds other files" in capsys.readouterr().err
    assert main(["export", "-c", "m", "--to", "hf", "-o", "g", "--data", "text.txt"]) == 2
    assert main(["export", "-c", "m", "--to", "torch", "-o", "g", "--numbers", "f16"]) == 2
