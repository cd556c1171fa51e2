"""tiny-lm generate: several samples, stop texts, and what comes when."""

import io
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest

from tiny_llm import CharTokenizer, ModernConfig, ModernLanguageModel
from tiny_llm.cli import generate as command
from tiny_llm.cli import main, sample
from tiny_llm.cli.sample import Piece, in_order
from tiny_llm.run.options import Options
from tiny_llm.run.saved import Run

ALPHABET = "\n abcdé"
FOLLOWING = dict(zip("\nabcdé ", "abcdé\na"))


class Alphabet:
    """Writes abcdé and a newline, again and again; it may need to be drawn, it never varies."""

    predicts_every_token = False
    config = SimpleNamespace(context_length=4)

    def __init__(self, tokenizer):
        self.parameters = {"none": [0.0]}
        self.tokenizer, self.batches = tokenizer, []

    def forward(self, contexts):
        self.batches.append(len(contexts))
        rows = []
        for context in contexts:
            after = FOLLOWING[self.tokenizer.itos[context[-1]]]
            rows.append([99.0 if c == after else -99.0 for c in self.tokenizer.itos])
        return rows, None


def use_model(monkeypatch, model, tokenizer, rung="mlp"):
    run = Run(rung, model, tokenizer, optimizer=None, options=Options())
    monkeypatch.setattr(command, "open_model", lambda path, to_train=False, int8=False: run)


@pytest.fixture
def alphabet(monkeypatch):
    tokenizer = CharTokenizer(ALPHABET)
    model = Alphabet(tokenizer)
    use_model(monkeypatch, model, tokenizer)
    return model


@pytest.fixture
def rung(build_rung, monkeypatch):
    """A random model of each rung."""
    tokenizer = CharTokenizer(ALPHABET)
    model = build_rung(vocab_size=tokenizer.vocab_size)
    use_model(monkeypatch, model, tokenizer)
    return model


def generated(capsys, *flags):
    """Standard output of a command that succeeds."""
    assert main(["generate", "-c", "file", "--quiet", *flags]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


# ------------------------------------------------------------------------------------- stop texts


@pytest.mark.parametrize(
    "stop, expected",
    [
        ("\n", "abcdé\n"),
        ("a", "abcdé\n\n"),
        ("d", "abc\n"),
        ("cd", "ab\n"),
        ("dé\nab", "abc\n"),
        ("é\na", "abcd\n"),
        ("é\nb", "abcdé\nabcdé\nab\n"),
        ("b", "a\n"),
    ],
)
def test_a_sample_ends_before_the_stop_text(alphabet, capsys, stop, expected):
    assert generated(capsys, "-p", "a", "-n", "13", "--stop", stop) == expected


def test_a_stop_text_in_the_prompt_stops_nothing(alphabet, capsys):
    assert generated(capsys, "-p", "abc", "-n", "2", "--stop", "b") == "abcdé\n"
    assert generated(capsys, "-p", "ab", "-n", "2", "--stop", "bc") == "abcd\n"


def test_nothing_is_computed_after_the_stop_text(alphabet, capsys):
    generated(capsys, "-p", "a", "-n", "99", "--stop", "é")
    assert len(alphabet.batches) == len("bcdé")


def test_a_stop_text_that_cannot_come_is_refused(alphabet, capsys):
    assert main(["generate", "-c", "file", "--quiet", "--stop", "aX"]) == 1
    assert "--stop can never come: the model does not know 'X'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, problem",
    [
        (["--stop", ""], "argument --stop: is empty; leave it out to stop nowhere"),
        (["--num-samples", "0"], "argument --num-samples: must be at least 1, not 0"),
        (["--num-samples", "x"], "argument --num-samples: 'x' is not a whole number"),
    ],
)
def test_flags_that_make_no_sense_are_refused(capsys, flags, problem):
    assert main(["generate", *flags]) == 2
    assert problem in capsys.readouterr().err


class Times(io.StringIO):
    """Standard output that notes what it was given each time it was flushed."""

    def __init__(self):
        super().__init__()
        self.flushed = [""]

    def flush(self):
        self.flushed.append(self.getvalue())


def test_text_comes_as_soon_as_it_is_certain(alphabet, monkeypatch):
    out = Times()
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["generate", "-c", "file", "--quiet", "-p", "a", "-n", "9", "--stop", "cda"]) == 0
    texts = sorted(set(out.flushed), key=len)
    assert texts == ["", "a", "ab", "abcdé", "abcdé\n", "abcdé\na", "abcdé\nab", "abcdé\nabcd\n"]


# ---------------------------------------------------------------------------------- several samples


def test_one_sample_a_line_when_a_newline_stops(rung, capsys):
    out = generated(capsys, "-p", "\n", "--stop", "\n", "--num-samples", "200", "-n", "5")
    assert out.count("\n") == 200
    assert out.endswith("\n")
    assert len(set(out.splitlines())) > 50


def test_an_empty_line_between_samples(alphabet, capsys):
    assert generated(capsys, "-p", "a", "-n", "2", "--num-samples", "3") == "abc\n\nabc\n\nabc\n"


def test_a_newline_that_begins_the_prompt_is_for_the_model_only(alphabet, capsys):
    assert generated(capsys, "-p", "\n", "-n", "3") == "abc\n"
    assert generated(capsys, "-p", "\n\na\n", "-n", "3") == "a\nabc\n"
    assert generated(capsys, "-p", " a", "-n", "1") == " ab\n"


@pytest.mark.parametrize("flags", [[], ["--no-kv-cache"], ["--stop", "ab"], ["--top-k", "3"]])
def test_a_sample_is_what_its_seed_writes_alone(rung, capsys, flags):
    words = ["-p", "ab", "-n", "12", "--temperature", "1", *flags]
    together = generated(capsys, *words, "--num-samples", "4", "--seed", "7")
    alone = [generated(capsys, *words, "--seed", str(seed)) for seed in range(7, 11)]
    assert together == "\n".join(alone)
    assert len(set(alone)) == 4


def test_no_kv_cache_writes_the_same_text(rung, capsys):
    words = ["-p", "ab", "-n", "30", "--num-samples", "3"]
    assert generated(capsys, *words) == generated(capsys, *words, "--no-kv-cache")


@pytest.mark.parametrize("flags, used", [([], True), (["--no-kv-cache"], False)])
def test_the_switch_reaches_the_model(monkeypatch, capsys, flags, used):
    sizes, forward = [], ModernLanguageModel.forward

    def counting(self, contexts):
        sizes.append(sum(map(len, contexts)))
        return forward(self, contexts)

    monkeypatch.setattr(ModernLanguageModel, "forward", counting)
    model = ModernLanguageModel(ModernConfig(len(ALPHABET)))
    use_model(monkeypatch, model, CharTokenizer(ALPHABET), "modern")
    generated(capsys, "-p", "a", "-n", "3", *flags)
    assert sizes == ([1, 1, 1] if used else [1, 2, 3])


def test_all_samples_are_in_one_batch(alphabet, capsys):
    generated(capsys, "-p", "a", "-n", "4", "--num-samples", "200")
    assert alphabet.batches == [200] * 4


def test_very_many_samples_are_written_in_several_batches(rung, capsys, monkeypatch):
    words = ["-p", "ab", "-n", "6", "--num-samples", "7"]
    at_once = generated(capsys, *words)
    monkeypatch.setattr(sample, "LARGEST_BATCH", 3)
    assert generated(capsys, *words) == at_once


def test_headings_go_to_standard_error(alphabet, capsys):
    assert main(["generate", "-c", "file", "-p", "a", "-n", "1", "--num-samples", "3"]) == 0
    out, err = capsys.readouterr()
    assert out == "ab\n\nab\n\nab\n"
    assert "3 samples, 1 more characters" in err
    assert err.index("sample 2, seed 1:") < err.index("sample 3, seed 2:")
    flags = ["-p", "a", "-n", "9", "--stop", "\n", "--num-samples", "3"]
    assert main(["generate", "-c", "file", *flags]) == 0
    assert "sample 2" not in capsys.readouterr().err


def pieces(*events):
    return [Piece(*event) for event in events]


def test_the_first_sample_that_has_not_ended_is_live_and_later_ones_wait():
    events = pieces(
        (0, "a", False), (1, "A", False), (2, "x", False),
        (0, "b", False), (1, "", False), (2, "y", True),
        (0, "c", True), (1, "B", False), (1, "C", True),
    )  # fmt: skip
    assert list(in_order(events)) == pieces(
        (0, "a", False), (0, "b", False), (0, "c", True),
        (1, "A", False), (1, "B", False), (1, "C", True), (2, "xy", True),
    )  # fmt: skip


def test_a_piece_is_shown_before_the_next_one_is_asked_for():
    taken = []

    def events():
        for event in pieces((0, "a", False), (1, "A", False), (0, "b", True), (1, "", True)):
            taken.append(event)
            yield event

    shown = in_order(events())
    assert next(shown) == Piece(0, "a", False)
    assert len(taken) == 1
    assert next(shown) == Piece(0, "b", True)
    assert len(taken) == 3
    assert list(shown) == pieces((1, "A", False), (1, "", True))


# ------------------------------------------------------------------------------------------- bytes


class Bytes:
    """A tokenizer of single bytes, of which a character takes one or several."""

    kind, unit = "bpe", "token"
    vocab_size = 256

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode("utf-8", "replace")

    def token_bytes(self, token):
        return bytes([token])


class Parrot:
    """Writes a given sequence of bytes; it knows how far it is by how often it was asked."""

    predicts_every_token = False
    config = SimpleNamespace(context_length=4)
    parameters: ClassVar[dict] = {}

    def __init__(self, data):
        self.data = iter(data)

    def forward(self, contexts):
        after = next(self.data)
        return [[99.0 if token == after else -99.0 for token in range(256)]], None


@pytest.mark.parametrize(
    "data, flags, expected",
    [
        ("日本\U0001f600é".encode(), [], "日本\U0001f600é"),
        (b"a\xe6\x97", [], "a\ufffd"),
        (b"a\xffb", [], "a\ufffdb"),
        ("日本é日".encode(), ["--stop", "é"], "日本"),
    ],
)
def test_a_character_of_several_tokens_comes_whole(monkeypatch, capsys, data, flags, expected):
    use_model(monkeypatch, Parrot(data), Bytes())
    assert generated(capsys, "-p", "é", "-n", str(len(data)), *flags) == f"é{expected}\n"
