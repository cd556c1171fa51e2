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
    """Some lines through a pipe, or typed by a person -> what is said on both streams."""

    def ask(text, *flags, code=0, is_person=False):
        stdin = io.StringIO(text)
        stdin.isatty = lambda: is_person
        monkeypatch.setattr("sys.stdin", stdin)
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
    one = asked("what?\n", "--quiet").out
    for flags in ([], ["--quiet"]):  # an error is told in any case
        both = asked("x" * 1000 + "\nwhat?\n", *flags, code=1)
        assert "the model reads 400 at most" in both.err
        assert both.out == "\n" + one  # answers stay in step with questions
    person = asked("x" * 1000 + "\nwhat?\n", is_person=True)
    assert "the model reads 400 at most" in person.err


def test_a_system_message_that_is_too_long_is_refused_and_the_one_before_stays(asked):
    fresh = asked("what?\n", "--quiet").out
    said = asked("/system " + "x" * 1000 + "\nwhat?\n", code=1)
    assert "the system message has" in said.err and said.out == fresh
    assert "the system message has" in asked("what?\n", "--system", "x" * 1000, code=1).err


def test_bytes_that_are_no_text_are_refused(asked):
    for line in ("\udcff", "/system \udcff"):
        said = asked(line + "\nwhat?\n", code=1)
        assert "stands for a byte that is no UTF-8" in said.err
        assert said.out.endswith(asked("what?\n", "--quiet").out)


def test_each_question_may_stand_alone(asked):
    greedy = ["--quiet", "--temperature", "0"]
    one, other = (asked(f"{question}\n", *greedy).out for question in ("what?", "and then?"))
    both = "what?\nand then?\n"
    assert asked(both, *greedy, "--forget").out == one + other
    long = ["-n", "60", "--temperature", "2", "--top-p", "1"]
    assert "forgotten" not in asked("what?\n" * 20, *long, "--forget").err
    assert asked("what?\n/regenerate\n", *greedy, "--forget").out == one * 2


def test_what_had_no_room_is_told(asked):
    said = asked("what?\n" * 20, "-n", "60", "--temperature", "2", "--top-p", "1").err
    assert "questions forgotten for want of room" in said
    cut = asked("x" * 330 + "\n", "-n", "200", "--temperature", "2", "--top-p", "1").err
    assert "cut at the end of what the model can read" in cut


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C at these tokens -> the tokens that came."""

    def at(*numbers):
        add, tokens = chat.TextStream.add, []

        def interrupting(self, token):
            tokens.append(token)
            if len(tokens) in numbers:
                signal.raise_signal(signal.SIGINT)
            return add(self, token)

        monkeypatch.setattr(chat.TextStream, "add", interrupting)
        return tokens

    return at


def test_a_persons_ctrl_c_ends_an_answer_and_the_conversation_goes_on(asked, interrupted):
    tokens = interrupted(3)
    said = asked("what?\nand then?\n", is_person=True)
    assert len(tokens) == 3 + 6
    assert said.err.count("stopped (") == 1 and said.err.count("cut after 6") == 1
    assert said.out.count("\n") >= 2


def test_ctrl_c_ends_a_pipe(asked, interrupted):
    tokens = interrupted(3)
    asked("what?\nand then?\n", code=130)
    assert len(tokens) == 3


def test_ctrl_c_at_the_prompt_empties_the_line(asked, monkeypatch):
    lines = iter(["what?", "", "and then?"])

    def typed(prompt):
        line = next(lines, None)
        if line is None:
            raise EOFError
        if not line:
            signal.raise_signal(signal.SIGINT)
        return line

    monkeypatch.setattr("builtins.input", typed)
    assert asked("", is_person=True).err.count("cut after 6") == 2


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
