"""From --data to tokens: characters or longer ones, a running text, lines, or a file of ids."""

from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.files import checkpoint
from tiny_llm.text.bpe import BPETokenizer

TEXT = "the cat sat on the mat. the dog sat on the log. " * 20
NAMES = [f"{a}{b}{c}" for a in "abcd" for b in "nml" for c in "ao"]
RUNGS = ["mlp", "attention", "modern"]
SMALL = ["--context-length", "6", "--steps", "6", "--eval-every", "3", "-n", "3", "--quiet"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return tmp_path


def train(*flags, data="text.txt", out="m"):
    return main(["train", "--data", data, *SMALL, "--out", out, *flags])


def resumed(*flags, data="text.txt"):
    """Whether a run that was stopped and resumed ends with the bytes of the whole one."""
    assert train(*flags, data=data, out="whole") == 0
    assert train(*flags, "--stop-after", "4", data=data, out="stopped") == 0
    assert main(["train", "--data", data, "--resume", "stopped", "-n", "0", "--quiet"]) == 0
    return Path("stopped").read_bytes() == Path("whole").read_bytes()


def error_of(capsys):
    return capsys.readouterr().err


# ------------------------------------------------------------------------------------ longer tokens

BPE = ["--tokenizer", "bpe", "--vocab-size", "270"]


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_trains_on_longer_tokens_and_takes_them_along(rung, capsys):
    assert resumed("--model", rung, *BPE)
    metadata = checkpoint.load(Path("whole")).metadata
    tokenizer = BPETokenizer.from_state(metadata["tokenizer"])
    assert metadata["config"]["vocab_size"] == tokenizer.vocab_size == 270
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2
    capsys.readouterr()
    assert main(["generate", "-c", "whole", "-p", "any prompt, ä", "-n", "5", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("any prompt, ä")


def test_longer_tokens_are_learned_from_the_training_part_alone():
    Path("text.txt").write_text(TEXT + "xyzxyzxyz" * 9, encoding="utf-8")  # xyz: held out
    assert train("--val-fraction", "0.09", "--tokenizer", "bpe") == 0
    state = checkpoint.load(Path("m")).metadata["tokenizer"]
    assert not any("x" in merge for merge in state["merges"])


def test_eval_counts_tokens_and_bits_of_characters(capsys):
    assert train(*BPE) == 0
    capsys.readouterr()
    assert main(["eval", "-c", "m", "--data", "text.txt", "--quiet"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "tokens" in rows[0]
    (guessing,) = [row.split() for row in rows if row.startswith("guessing")]
    nats, bits = float(guessing[1]), float(guessing[3])
    assert nats == pytest.approx(5.598, abs=1e-3)  # ln 270
    assert bits < nats / 0.6931 / 2  # a token stands for more than two characters


def test_a_tokenizer_made_before_is_taken_from_its_file():
    assert (
        main(["tokenizer", "train", "--data", "text.txt", "--vocab-size", "262", "-o", "t.json"])
        == 0
    )
    assert train("--tokenizer-file", "t.json") == 0
    state = checkpoint.load(Path("m")).metadata["tokenizer"]
    assert BPETokenizer.from_state(state).vocab_size == 262


@pytest.mark.parametrize(
    "flags, code, problem",
    [
        (["--vocab-size", "300"], 2, "leave it out"),
        (["--tokenizer", "bpe", "--vocab-size", "200"], 2, "must be at least 257"),
        (["--tokenizer-file", "none.json"], 1, "there is no none.json"),
    ],
)
def test_a_tokenizer_that_cannot_be_is_refused(flags, code, problem, capsys):
    assert train(*flags) == code
    assert problem in error_of(capsys)


def test_the_tokenizer_of_a_run_does_not_change(capsys):
    assert train("--stop-after", "3") == 0
    words = ["train", "--data", "text.txt", "--resume", "m", "--tokenizer", "bpe"]
    assert main(words) == 2
    assert "--tokenizer cannot change" in error_of(capsys)


def test_a_part_of_a_single_token_is_too_short(capsys):
    Path("text.txt").write_text("ab" * 10, encoding="utf-8")  # "ab" is held out, which is a token
    flags = ["--tokenizer", "bpe", "--vocab-size", "258", "--context-length", "1"]
    assert train(*flags) == 1
    assert "the held-out part is a single token" in error_of(capsys)
    assert not list(Path().glob("m*"))
    assert train(*flags, "--val-fraction", "0.2") == 0


@pytest.mark.parametrize("rung", RUNGS)
def test_a_context_that_is_longer_than_the_text_is_refused_before_a_model_is_made(
    rung, monkeypatch, capsys
):
    monkeypatch.setattr("tiny_llm.model.draw", None)  # calling it would fail
    assert train("--model", rung, "--context-length", "1000000") == 1
    assert "too few for a context of 1000000" in error_of(capsys)


# -------------------------------------------------------------------------------------------- lines


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("tokenizer", [[], BPE])
def test_every_rung_trains_on_lines(rung, tokenizer, capsys):
    assert resumed("--model", rung, "--lines", *tokenizer, data="names.txt")
    capsys.readouterr()
    words = ["generate", "-c", "whole", "--stop", "\n", "--num-samples", "4", "-n", "9", "--quiet"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("\n") == 4
    assert main(["eval", "-c", "whole", "--data", "names.txt"]) == 0
    validation = [row for row in capsys.readouterr().out.splitlines() if "validation" in row]
    if not tokenizer:  # every tenth of 24 names: two of three letters and three newlines
        assert validation[0].split()[2] == str(1 + 2 * 4)


@pytest.mark.slow
def test_a_model_of_lines_begins_anew_behind_each(capsys):
    assert train("--model", "modern", "--lines", "--steps", "200", "--lr", "0.02",
                 "--batch-size", "16", data="names.txt") == 0  # fmt: skip
    capsys.readouterr()
    words = ["generate", "-c", "m", "-n", "200", "--temperature", "0.3", "--quiet"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()[:-1]  # the last may be cut
    assert len(lines) > 40
    assert sum(line in NAMES for line in lines) > 0.9 * len(lines)


# ------------------------------------------------------------------------------------ token files


@pytest.fixture(params=["char", "bpe"])
def tokens(request):
    words = ["prepare", "text.txt", "--tokenizer", request.param, "--out", "tokens.bin", "--quiet"]
    assert main(words + ["--vocab-size", "270"] * (request.param == "bpe")) == 0
    return request.param


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_trains_on_a_token_file(rung, tokens, capsys):
    assert resumed("--model", rung, data="tokens.bin")
    metadata = checkpoint.load(Path("whole")).metadata
    assert metadata["tokenizer"]["kind"] == tokens
    capsys.readouterr()
    assert main(["eval", "-c", "whole", "--data", "tokens.bin"]) == 0
    assert "validation part" in capsys.readouterr().out
    assert main(["eval", "-c", "whole", "--data", "text.txt"]) == 0  # another text, same tokens
    assert "text.txt" in capsys.readouterr().out


def test_the_tokens_of_a_file_are_those_of_its_text():
    assert main(["prepare", "text.txt", "--out", "tokens.bin", "--quiet"]) == 0
    assert train(data="text.txt", out="a") == train(data="tokens.bin", out="b") == 0
    assert checkpoint.load(Path("a")).tensors == checkpoint.load(Path("b")).tensors


@pytest.mark.parametrize(
    "flags",
    [["--val-fraction", "0.5"], ["--lines"], ["--tokenizer", "char"], ["--vocab-size", "300"]],
)
def test_what_was_settled_in_a_token_file_is_refused(flags, capsys):
    assert main(["prepare", "text.txt", "--out", "tokens.bin", "--quiet"]) == 0
    assert train(*flags, data="tokens.bin") == 2
    assert f"{flags[0]} was settled when tokens.bin was prepared" in error_of(capsys)


def test_another_token_file_is_another_text(capsys):
    assert main(["prepare", "text.txt", "--out", "tokens.bin", "--quiet"]) == 0
    assert train("--stop-after", "3", data="tokens.bin") == 0
    assert main(["prepare", "names.txt", "--out", "tokens.bin", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "m", "--data", "tokens.bin"]) == 1
    assert "give the same text again" in error_of(capsys)
    assert main(["eval", "-c", "m", "--data", "tokens.bin"]) == 1
    assert "another tokenizer" in error_of(capsys)


def test_ids_without_their_description_are_refused(capsys):
    Path("tokens.bin").write_bytes(bytes(100))
    assert train(data="tokens.bin") == 1
    assert "tiny-lm prepare" in error_of(capsys)


def test_a_token_file_in_which_a_byte_has_changed_is_refused(capsys):
    assert main(["prepare", "text.txt", "--out", "tokens.bin", "--quiet"]) == 0
    content = bytearray(Path("tokens.bin").read_bytes())
    content[10] ^= 1
    Path("tokens.bin").write_bytes(content)
    assert train(data="tokens.bin") == 1
    assert "its bytes have changed" in error_of(capsys)
