"""tiny-lm sft: from conversations to a model that answers, stopped, resumed, shown and refused."""

import json
from pathlib import Path

import pytest
from answering import TOKENIZER, base
from conftest import mlp

from tiny_llm.cli import main
from tiny_llm.files.portable import Chat
from tiny_llm.run.saved import load_run, save_run
from tiny_llm.text.bpe import BPETokenizer

SETTINGS = ["--steps", "6", "--batch-size", "3", "--lr", "0.01", "--eval-every", "2"]
FLAGS = ["--data", "talk.jsonl", "--val-fraction", "0.25", "--workers", "1", *SETTINGS]
QUESTIONS = ["who?", "who sleeps?", "sleeps who?", "the dog?", "the cat?", "who? who?"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run(Path("base.safetensors"), base())
    Path("talk.jsonl").write_text("\n".join(map(line, QUESTIONS * 2)), encoding="utf-8")


def line(question, answer="the cat."):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages})


def sft(*flags):
    return main(["sft", *flags])


def learn(out, *flags):
    return sft("-c", "base.safetensors", *FLAGS, "-o", out, *flags)


def test_it_learns_says_how_it_goes_and_what_it_now_answers(capsys):
    assert learn("m") == 0
    out, err = capsys.readouterr()
    assert "9 to learn from, 3 held out" in err and "learns its answers alone" in err
    assert err.count("val loss") >= 3 and "chat --checkpoint m" in err
    assert [text.split()[0] for text in out.splitlines()] == ["question", "now"] * 3
    assert "<|" not in out
    assert load_run(Path("m")).step == 6
    assert Path("m.metrics.jsonl").read_text("utf-8").count("\n") == 6


def test_a_stopped_run_says_how_to_go_on_and_ends_with_the_same_bytes(capsys):
    assert learn("whole") == 0
    assert learn("stopped", "--stop-after", "2") == 0
    assert "sft --resume stopped --data talk.jsonl" in capsys.readouterr().err
    assert sft("--resume", "stopped", "--data", "talk.jsonl") == 0
    assert Path("stopped").read_bytes() == Path("whole").read_bytes()


def test_what_it_says_to_type_names_all_of_its_data(capsys):
    flags = ["--cut", "--replay-data", "base.txt", "--replay", "1"]
    Path("base.txt").write_text("the cat sleeps. " * 40, encoding="utf-8")
    assert learn("m", *flags, "--stop-after", "2") == 0
    command = "sft --resume m --data talk.jsonl --replay-data base.txt --cut"
    assert command in " ".join(capsys.readouterr().err.replace("\\\n", "").split())
    assert sft("--resume", "m", "--data", "talk.jsonl", "--replay-data", "base.txt") == 1
    assert "learned from other data" in capsys.readouterr().err
    assert sft(*command.split()[1:]) == 0


def test_a_single_conversation_is_shown_though_none_is_held_out(capsys):
    Path("one.jsonl").write_text(line("who?"), encoding="utf-8")
    for show in ("--show-mask", "--show-step"):
        assert sft("-c", "base.safetensors", "--data", "one.jsonl", show) == 0
    capsys.readouterr()
    assert sft("-c", "base.safetensors", "--data", "one.jsonl") == 1
    err = capsys.readouterr().err
    assert "no conversation to hold out" in err and '"split": "val"' in err


def test_a_ruined_model_is_no_success(capsys):
    assert learn("m", "--lr", "50", "--grad-clip", "0", "--schedule", "constant") == 1
    assert Path("m").exists() and "is too high" in " ".join(capsys.readouterr().err.split())


def test_a_device_and_an_endless_line_are_refused(monkeypatch, capsys):
    assert sft("-c", "base.safetensors", "--data", "/dev/zero") == 1
    assert "is a device" in capsys.readouterr().err
    monkeypatch.setattr("tiny_llm.beyond.conversations.LONGEST_LINE", 50)
    assert learn("m") == 1
    assert "line 1: it is longer than any answer" in capsys.readouterr().err


def test_the_mask_is_shown_and_nothing_is_written(capsys):
    assert learn("m", "--show-mask") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("<|user|>who?<|end|><|assistant|>[") and "[<|end|>]" in shown
    assert "[<|user|>]" not in shown and "\x1b" not in shown
    assert not Path("m").exists()
    assert learn("m", "--show-mask", "--color", "always") == 0
    assert "\x1b[" in capsys.readouterr().out


def test_a_text_is_replayed_and_facts_come_along(capsys):
    mute = base()
    mute.tokenizer, mute.chat = BPETokenizer.train("language models guess. " * 9, 280, []), Chat()
    config = type(mute.model.config)(mute.tokenizer.vocab_size, 96, 8, 2, 1)
    mute.model = type(mute.model)(config, seed=1)
    save_run(Path("mute"), mute)
    own = ["-o", "m", "--steps", "1", "--workers", "1"]
    assert sft("-c", "mute", *own, "--replay", "1") == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "facts about the built-in text" in err and "1 window of the text in each batch" in err
    assert load_run(Path("m")).tokenizer.vocab_size == mute.tokenizer.vocab_size + 4


def test_too_long_conversations_are_named_or_cut(capsys):
    Path("talk.jsonl").write_text(
        "\n".join([line("who? " * 30), *map(line, QUESTIONS)]), encoding="utf-8"
    )
    assert learn("m") == 0
    assert "1 longer than the window of 24: line 1" in capsys.readouterr().err
    assert learn("n", "--cut") == 0
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["-c", "base.safetensors", "--data", "none.jsonl"], "there is no file none.jsonl"),
        (["-c", "base.safetensors", "--data", "bad.jsonl"], "bad.jsonl, line 2: it is not JSON"),
        (["-c", "base.safetensors", "--data", "talk.jsonl", "--batch-size", "0"], "--batch-size"),
        (["-c", "mlp", "--data", "talk.jsonl"], "rung 3"),
        (["--resume", "base.safetensors", "--data", "talk.jsonl"], "is no run of sft"),
        (["-c", "base.safetensors", *FLAGS, "-o", "base.safetensors"], "the model that learns"),
        (["-c", "base.safetensors", *FLAGS, "-o", "talk.jsonl"], "talk.jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_loses_nothing(flags, problem, capsys):
    Path("bad.jsonl").write_text(line("who?") + "\n{", encoding="utf-8")
    save_run(Path("mlp"), base(mlp(TOKENIZER.vocab_size)))
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert sft(*flags) in (1, 2)
    err = capsys.readouterr().err
    (error,) = [text for text in err.splitlines() if "error:" in text]
    assert problem in error and "Traceback" not in err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
