"""tiny-lm chat: what a person types, and what a pipe carries."""

import io
import signal

import pytest

from tiny_llm.beyond.chat import CHATML
from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.beyond.models import plug_in
from tiny_llm.cli import chat, main
from tiny_llm.files.portable import Chat
from tiny_llm.run.options import Options
from tiny_llm.run.rungs import build_optimizer
from tiny_llm.run.saved import Run, load_run, save_run
from tiny_llm.text.bpe import BPETokenizer

NAMES = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


KIND = CHATML._replace(default_system="be kind").jinja


def run_with(template=KIND, tokenizer=None):
    tokenizer = tokenizer or BPETokenizer.train("the user and the system", 270, NAMES)
    config = LlamaConfig(tokenizer.vocab_size, 400, 16, 2, 1, n_layers=1, d_hidden=24)
    model = LlamaLanguageModel(config, seed=1)
    options = Options()
    ends = (tokenizer.vocab_size - 1,)
    return Run(
        "llama", model, tokenizer, build_optimizer(options), options, chat=Chat(template, ends)
    )


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plug_in()
    save_run(tmp_path / "m", run_with())


@pytest.fixture
def asked(monkeypatch, capsys):
    """Some lines through a pipe -> what is said on both streams."""

    def ask(text, *flags, code=0):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert main(["chat", "-c", "m", "-n", "6", *flags]) == code, capsys.readouterr().err
        return capsys.readouterr()

    return ask


def test_each_line_gets_its_answer(asked):
    one = asked("what?\n", "--quiet")
    two = asked("what?\n\n  \nand then?\n", "--quiet")
    assert one.err == two.err == ""
    assert two.out.startswith(one.out) and len(two.out) > len(one.out)
    assert one.out.endswith("\n")
    assert asked("what?\nand then?", "--quiet").out == two.out  # the last line needs no end


def test_the_seed_and_the_flags_of_drawing_count(asked):
    def drawn(*flags):
        return asked("what?\n", "--quiet", "--temperature", "3", "--top-p", "1", *flags).out

    assert drawn() == drawn("--seed", "0") != drawn("--seed", "1")
    greedy = {asked("what?\n", "--quiet", "--temperature", "0", "--seed", s).out for s in "012"}
    assert len(greedy) == 1


def test_it_says_how_fast_it_was(asked):
    err = asked("what?\n").err
    assert "m: llama, step 0" in err
    assert "cut after 6 tokens" in err and " tokens/s, first token after " in err


def test_commands(asked):
    fresh = asked("what?\n", "--quiet").out
    again = asked("what?\nand then?\n/reset\nwhat?\n", "--quiet", "--temperature", "0").out
    greedy = asked("what?\n", "--quiet", "--temperature", "0").out
    assert again.startswith(greedy) and again.endswith(greedy)
    other = asked("/system be unkind\nwhat?\n", "--quiet", "--temperature", "0").out
    assert other == asked("what?\n", "--quiet", "--temperature", "0", "--system", "be unkind").out
    twice = asked("what?\n/regenerate\n", "--quiet", "--temperature", "0").out
    assert twice == greedy * 2
    assert asked("what?\n/exit\nwhat?\n", "--quiet").out == fresh
    said = asked("/help\n/regenerate\n/dance\n").err
    assert "forgets what was said" in said and "nothing was asked yet" in said
    assert "/dance is none of /reset, " in said


def test_a_question_that_is_too_long_is_refused_and_the_next_is_answered(asked):
    both = asked("x" * 1000 + "\nwhat?\n")
    assert "the model reads 400 at most" in both.err
    assert both.out == asked("what?\n", "--quiet").out


def test_ctrl_c_ends_an_answer_and_the_conversation_goes_on(asked, monkeypatch):
    add = chat.TextStream.add
    tokens = []

    def interrupting(self, token):
        tokens.append(token)
        if len(tokens) == 3:
            signal.raise_signal(signal.SIGINT)
        return add(self, token)

    monkeypatch.setattr(chat.TextStream, "add", interrupting)
    said = asked("what?\nand then?\n")
    assert len(tokens) == 3 + 6
    assert said.err.count("stopped, ") == 1 and said.err.count("cut after 6") == 1
    assert said.out.count("\n") >= 2


def test_sigterm_ends_it(asked, monkeypatch):
    monkeypatch.setattr(
        chat.TextStream, "add", lambda self, token: signal.raise_signal(signal.SIGTERM) or ""
    )
    asked("what?\n", code=143)


@pytest.mark.parametrize(
    "run, problem",
    [
        (run_with(template=""), "was not taught to talk"),
        (run_with(tokenizer=BPETokenizer.train("the user", 260)), "no tokens that mark"),
        (run_with(template="{{ bos_token }}"), "not ChatML"),
    ],
    ids=["no template", "no markers", "another template"],
)
def test_a_model_that_cannot_talk_is_refused_with_advice(asked, tmp_path, run, problem):
    save_run(tmp_path / "m", run)
    said = asked("what?\n", code=1)
    assert problem in said.err and "generate" in said.err and said.out == ""


def test_how_it_talks_is_part_of_the_file(tmp_path):
    run = load_run(tmp_path / "m")
    assert run.chat == Chat(KIND, (run.tokenizer.vocab_size - 1,))
