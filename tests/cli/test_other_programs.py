"""tiny-lm import and export, and commands that read another program's files as they are."""

import json
from pathlib import Path

import pytest

from tiny_llm.beyond.chat import OWN
from tiny_llm.beyond.models import plug_in
from tiny_llm.cli import main
from tiny_llm.files.portable import Chat
from tiny_llm.run import models
from tiny_llm.run.saved import is_packed, load_run, save_run
from tiny_llm.text.bpe import BPETokenizer

TRAIN = ["train", "--data", "text.txt", "--context-length", "8", "--steps", "2", "-n", "0"]
KINDS = {
    "modern": ["--d-model", "32", "--n-heads", "2", "--tokenizer", "bpe", "--vocab-size", "260"],
    "llama": ["--d-model", "32", "--n-heads", "2", "--n-kv-heads", "1", "--d-hidden", "32"],
}


@pytest.fixture(params=KINDS, autouse=True)
def kind(request, text_folder, capsys):
    plug_in()
    name = request.param
    assert main([*TRAIN, "--model", name, *KINDS[name], "-o", "m", "--quiet"]) == 0
    capsys.readouterr()
    return name


def said(capsys, *words, code=0):
    assert main(list(words)) == code, capsys.readouterr().err
    return capsys.readouterr()


def numbers(path):
    return load_run(Path(path)).model.parameters


def to_float32(parameters):
    from array import array

    def rounded(tensor):
        if isinstance(tensor[0], list):
            return [rounded(row) for row in tensor]
        return array("f", tensor).tolist()

    return {name: rounded(tensor) for name, tensor in parameters.items()}


@pytest.mark.parametrize("to, target", [("hf", "folder"), ("gguf", "m.gguf")])
def test_there_and_back(capsys, kind, to, target):
    assert "saved " in said(capsys, "export", "-c", "m", "--to", to, "-o", target).err
    err = said(capsys, "import", target, "-o", "back.safetensors").err
    assert f"saved back.safetensors: {kind}, float64 weights" in err and "generate" in err
    back, first = load_run(Path("back.safetensors")), load_run(Path("m"))
    assert back.model.config == first.model.config
    assert back.model.parameters == to_float32(first.model.parameters)
    assert back.tokenizer.state() == first.tokenizer.state()
    said(capsys, "import", target, "-o", "back.safetensors", "--int8")  # in place of the first
    assert is_packed(load_run(Path("back.safetensors")).model)
    assert Path("back.safetensors.bak").exists()


@pytest.mark.parametrize("to, target", [("hf", "folder"), ("gguf", "m.gguf")])
def test_every_command_that_only_reads_takes_the_source_itself(capsys, to, target):
    said(capsys, "export", "-c", "m", "--to", to, "-o", target)
    name = {"hf": "Hugging Face", "gguf": "GGUF"}[to]
    for words in (
        ["generate", "-n", "5", "--show-attention"],
        ["generate", "-n", "5", "--int8", "--workers", "2"],
        ["eval", "--data", "text.txt"],
        ["attention", "-p", "the cat"],
        ["report", "-n", "5", "-o", "r.html"],
    ):
        assert f"from {name}" in said(capsys, *words, "-c", target).err
    assert "import" in said(capsys, "trace", "-c", target, code=1).err


@pytest.mark.parametrize("to, target", [("hf", "new/folder"), ("gguf", "new/m.gguf")])
def test_what_was_there_is_kept(capsys, to, target):
    write = ["export", "-c", "m", "--to", to, "-o", target]
    assert "kept" not in said(capsys, *write).err
    files = [Path(target)] if to == "gguf" else sorted(Path(target).iterdir())
    before = {file: file.read_bytes() for file in files}
    # its own source, written over itself in other numbers
    err = said(capsys, "export", "-c", target, "--to", to, "-o", target, "--numbers", "f16").err
    for file, content in before.items():
        assert Path(f"{file}.bak").read_bytes() == content
        assert f"kept: the older {file} is now {file}.bak" in err
    said(capsys, "generate", "-c", target, "-n", "3")


def test_two_processes_write_the_same(capsys):
    words = ["generate", "-c", "m", "--int8", "-n", "20", "--quiet"]
    one = said(capsys, *words).out
    assert said(capsys, *words, "--workers", "2").out == one
    err = said(capsys, "generate", "-c", "m", "--workers", "2", code=1).err
    assert "--workers share int8 weights" in err


def test_how_it_talks_goes_along(capsys, kind):
    run = load_run(Path("m"))
    names = ["<|endoftext|>", *sorted(OWN.markers)]
    run.tokenizer = BPETokenizer.from_merges([], names)
    run.model.config = type(run.model.config)(
        **{**run.model.config.__dict__, "vocab_size": run.tokenizer.vocab_size}
    )
    table = "wte.weight" if kind == "modern" else "embed_tokens.weight"
    run.model.parameters[table] = [[0.5] * 32 for _ in range(run.tokenizer.vocab_size)]
    end = run.tokenizer.special_tokens["<|end|>"]
    run.chat = Chat(OWN.jinja, (end,))
    save_run(Path("talks"), run)
    for to in "hf", "gguf":
        said(capsys, "export", "-c", "talks", "--to", to, "-o", f"out.{to}")
        assert "chat" in said(capsys, "import", f"out.{to}", "-o", f"back-{to}").err
        chat = load_run(Path(f"back-{to}")).chat
        assert chat.template == OWN.jinja and end in chat.ends


@pytest.mark.parametrize(
    "words, code, problem",
    [
        (["import", "text.txt", "-o", "x"], 1, "neither a folder with a config.json nor a GGUF"),
        (["import", "nowhere", "-o", "x"], 1, "there is no nowhere"),
        (["import", ".", "-o", "x"], 1, "a folder without a config.json"),
        (["import", "m", "-o", "x"], 1, "a checkpoint of this program"),
        (["import", "nowhere", "-o", "x.gguf"], 1, "x.gguf would be no GGUF file"),
        (["generate", "-c", "nowhere.gguf"], 1, "give the path of one that is"),
        (["export", "-c", "m", "--to", "gguf", "-o", "text.txt"], 2, "end in .gguf"),
        (["export", "-c", "m", "--to", "gguf", "-o", "text.gguf"], 1, "is no GGUF file"),
        (["export", "-c", "m", "--to", "hf", "-o", "text.txt/a"], 1, "text.txt is no folder"),
        (["export", "-c", "m", "--to", "hf", "-o", "text.txt"], 1, "text.txt"),
        (["export", "-c", "m", "--to", "hf", "-o", "."], 1, "holds other files"),
        (["export", "-c", "m", "--to", "hf", "-o", "x", "--numbers", "q8_0"], 2, "f32 or f16"),
        (["import", "m.gguf", "-o", "m"], 1, "was not imported"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(capsys, words, code, problem):
    Path("text.gguf").write_text("no model", encoding="utf-8")
    said(capsys, "export", "-c", "m", "--to", "gguf", "-o", "m.gguf")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    err = said(capsys, *words, code=code).err
    assert problem in err and err.count("\n") <= 2
    assert before == {path: path.read_bytes() for path in before}
    assert not Path("x").exists()


def test_rungs_that_no_other_program_has_stay_here(capsys):
    said(capsys, *TRAIN, "--model", "mlp", "-o", "first")
    err = said(capsys, "export", "-c", "first", "--to", "gguf", "-o", "x.gguf", code=1).err
    assert "no other program has" in err and not Path("x.gguf").exists()


def test_a_model_larger_than_memory_is_refused_with_figures(capsys, monkeypatch):
    said(capsys, "export", "-c", "m", "--to", "gguf", "-o", "m.gguf")
    monkeypatch.setattr(models, "free_memory", lambda: 100_000)
    err = said(capsys, "generate", "-c", "m.gguf", code=1).err
    count = sum(
        len(row) for x in numbers("m").values() for row in (x if type(x[0]) is list else [x])
    )
    assert f"{count:,} numbers" in err and "0.0 GB are free" in err


def test_a_damaged_folder_is_one_line(capsys, kind):
    said(capsys, "export", "-c", "m", "--to", "hf", "-o", "folder")
    config = Path("folder/config.json")
    values = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**values, "model_type": "\x1b[31mbert"}), "utf-8")
    err = said(capsys, "generate", "-c", "folder", code=1).err
    assert err.count("\n") == 1 and "\\u001b[31mbert" in err and "\x1b" not in err
