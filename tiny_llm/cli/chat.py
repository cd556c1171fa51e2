"""tiny-lm chat: talk to a model that was taught to.

Standard output carries the answers alone, each with a newline at its end; one of several lines
stays so. A question in a pipe that cannot be answered gets an empty one, and exit code 1 in the
end. The rest goes to standard error.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, NamedTuple, cast

from tiny_llm.beyond.chat import Conversation, can_speak, template_of
from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint, sharing
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.signals import Stopped, on_signals, stop
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.run.errors import UserError, to_type
from tiny_llm.run.saved import Run, newest_checkpoint
from tiny_llm.sampling import Sampling
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.shown import LONGEST_MESSAGE, shown
from tiny_llm.text.stream import TextStream
from tiny_llm.view.terminal import paint, style_for

LONGEST_ANSWER = 400
# As the makers of small chat models advise: what is likely is rarely wrong, the rest often is.
TEMPERATURE, TOP_P = 0.2, 0.9
DIM = "2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `chat`."""
    parser.description = (
        "Talk to a model that was taught to. A line is a question; piped, each gets its answer. "
        "In a line of its own: " + "; ".join(f"{name} {does.about}" for name, does in SAYS.items())
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    flags.add_int8(parser)
    group = parser.add_argument_group("conversation")
    group.add_argument("--system", metavar="TEXT", help="what the model is told first (its own)")
    group.add_argument(
        "--forget",
        action="store_true",
        help="each question alone, for a model that was taught no more than one at a time",
    )
    flags.add_length(group, LONGEST_ANSWER)
    flags.add_drawing(group, TEMPERATURE, TOP_P)
    flags.add_seed(group)
    flags.add_sharing(parser)
    flags.add_display(parser, attention=False)


class Talk:
    """One conversation at a terminal, or through a pipe."""

    def __init__(self, current: Run, args: argparse.Namespace, is_person: bool) -> None:
        self.args, self.style = args, style_for(sys.stderr, args.color)
        self.rng = random.Random(args.seed or 0)
        self.is_person = is_person
        self.interrupted = False  # the answer, by Ctrl-C
        self.is_over = False  # the conversation, by a signal in the midst of an answer
        self.code = 0
        self.tokenizer = cast(BPETokenizer, current.tokenizer)
        self.conversation = Conversation(
            current.model, self.tokenizer, template_of(current.chat.template), current.chat.ends,
            args.system, lambda: self.interrupted,
        )  # fmt: skip

    def take(self, line: str) -> bool:
        """A question or a command; False: that was the last."""
        name, _, rest = line.strip().partition(" ")
        if not name:
            return True
        if name.startswith("/"):
            if name not in SAYS:
                self.say(f"{shown(name)} is none of {', '.join(SAYS)}")
                return True
            return SAYS[name].do(self, rest.strip())
        self.ask(line.strip())
        return True

    def ask(self, question: str) -> None:
        """A question, and its answer as it comes."""
        if self.args.forget:
            self.conversation.turns = []
        try:
            self.conversation.ask(question)
        except ValueError as error:
            self.refuse(error)
            if not self.is_person:
                print(flush=True)  # so that answers stay in step with questions
        else:
            self.answer()

    def answer(self) -> None:
        """The answer to the last question, token by token. Ctrl-C ends it, and nothing else."""
        args, began, count = self.args, time.monotonic(), 0
        turns = len(self.conversation.turns)
        stream = TextStream(self.tokenizer.token_bytes)
        sampling = Sampling(args.temperature, args.top_k, args.top_p)
        first = began
        try:
            with self._interruptible():
                for token in self.conversation.answer(sampling, self.rng, args.max_new_tokens):
                    first = first if count else time.monotonic()
                    count += 1
                    _write(stream.add(token))
        except WorkerDied:
            _write("\n")  # the error stands in a line of its own
            raise
        _write(stream.end() + "\n")
        seconds, said = time.monotonic() - first, self._how_it_ended(turns, count)
        if count > 1 and seconds:
            said.append(f"{(count - 1) / seconds:.1f} tokens/s")
        said.append(f"first token after {first - began:.1f} s" if count else "no token")
        self.say(", ".join(said))

    def _how_it_ended(self, turns: int, count: int) -> list[str]:
        """What is to be said of an answer of so many tokens to the last of so many questions."""
        gone = turns - len(self.conversation.turns)
        said = [f"the first {gone} of {turns} questions forgotten for want of room"] * bool(gone)
        if self.interrupted:
            said.append("stopped (what was said stays said)" if count else "stopped")
        elif count == self.args.max_new_tokens:
            said.append(f"cut after {count} tokens (--max-new-tokens)")
        elif self.conversation.is_full:
            said.append("cut at the end of what the model can read (/reset makes room)")
        return said

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within, a person's first Ctrl-C asks for an end, and the second one does not wait."""

        def handle(number: int, _: object) -> None:
            if number != signal.SIGINT or self.interrupted or not self.is_person:
                self.is_over = True
                stop(number)
            self.interrupted = True

        self.interrupted = False
        with on_signals(handle):
            yield

    def say(self, text: str) -> None:
        """A line that is no answer."""
        if not self.args.quiet:
            self._tell(text)

    def refuse(self, error: ValueError) -> None:
        """Why something cannot be. A person may say it otherwise."""
        self._tell(str(error))
        self.code = 0 if self.is_person else 1

    def _tell(self, text: str) -> None:
        with suppress(OSError):
            line = paint(shown(text, LONGEST_MESSAGE), DIM, self.style)
            print(line, file=sys.stderr, flush=True)

    # ------------------------------------------------------------ commands

    def reset(self, _: str) -> bool:
        """A new conversation under the same system message."""
        self.conversation.turns = []
        self.say("forgotten")
        return True

    def system(self, text: str) -> bool:
        """A new conversation with this system message; without one, as the model knows it."""
        try:
            self.conversation.start(text or None)
        except ValueError as error:
            self.refuse(error)
        else:
            what = "this" if text else "what it is used to"
            self.say(f"forgotten; the model is now told {what} first")
        return True

    def regenerate(self, _: str) -> bool:
        """Another answer to the last question."""
        if self.conversation.turns:
            self.answer()
        else:
            self.say("nothing was asked yet")
        return True

    def help(self, _: str) -> bool:
        """What can be said beside questions."""
        for name, does in SAYS.items():
            self.say(f"{name:<12} {does.about}")
        return True

    def leave(self, _: str) -> bool:
        """The end."""
        return False


class Says(NamedTuple):
    """A command in a conversation."""

    about: str
    do: Callable[[Talk, str], bool]


SAYS = {
    "/reset": Says("forgets what was said", Talk.reset),
    "/system": Says("TEXT forgets it, and tells the model TEXT first", Talk.system),
    "/regenerate": Says("answers the last question again", Talk.regenerate),
    "/help": Says("shows this", Talk.help),
    "/exit": Says("ends it, as Ctrl-D does", Talk.leave),
}


def run(args: argparse.Namespace) -> int:
    """Question, answer, question, until the questions end."""
    args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
    current = open_checkpoint(args)
    _check_talks(current, args.checkpoint)
    if args.int8:
        quantize(current.model)
    is_person = sys.stdin.isatty()
    talk = Talk(current, args, is_person)
    if is_person:
        with suppress(ImportError):
            import readline  # noqa: F401  # lines can be edited, and called back
        talk.say("a question, or /help; Ctrl-C stops an answer, Ctrl-D ends")
    with sharing(current, args.workers):
        while _goes_on(talk):
            pass
    return talk.code


def _goes_on(talk: Talk) -> bool:
    """Take one more line; False: that was the last. A person's Ctrl-C empties it."""
    try:
        return talk.take(input("> " if talk.is_person else ""))
    except EOFError:
        if talk.is_person:
            print()
        return False
    except Stopped as stopped:
        if not talk.is_person or talk.is_over or stopped.number != signal.SIGINT:
            raise
        print()
        return True


def _check_talks(current: Run, path: Path) -> None:
    template = current.chat.template
    if not (template and can_speak(current.tokenizer, template_of(template))):
        given = {"--checkpoint": str(path)}
        raise UserError(
            f"the model was not taught to talk: it has no chat template, or no tokens that mark "
            f"who speaks; it continues a text with: {to_type('generate', given)}; one that talks "
            f"is made by: {to_type('recipe', {'chat': ''})}"
        )


def _write(text: str) -> None:
    """A part of an answer; on a terminal what could do anything there is escaped."""
    print(shown(text, 0, keep="\n\t") if sys.stdout.isatty() else text, end="", flush=True)
