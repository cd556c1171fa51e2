"""tiny-lm chat: talk to a model that was taught to.

Standard output carries the answers alone, each with a newline at its end, so that a file of
questions, one a line, becomes a file of answers. The rest goes to standard error.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Callable, NamedTuple, cast

from tiny_llm.beyond.chat import Conversation, can_speak, template_of
from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint, sharing
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.signals import on_signals, stop
from tiny_llm.run.errors import UserError, to_type
from tiny_llm.run.saved import Run
from tiny_llm.sampling import Sampling
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.shown import shown
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
    flags.add_length(group, LONGEST_ANSWER)
    flags.add_drawing(group, TEMPERATURE, TOP_P)
    flags.add_seed(group)
    flags.add_sharing(parser)
    flags.add_display(parser, attention=False)


class Talk:
    """One conversation at a terminal, or through a pipe."""

    def __init__(self, current: Run, args: argparse.Namespace) -> None:
        self.args, self.style = args, style_for(sys.stderr, args.color)
        self.rng = random.Random(args.seed or 0)
        self.interrupted = False
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
        try:
            self.conversation.ask(question)
        except ValueError as error:
            self.say(str(error))
        else:
            self.answer()

    def answer(self) -> None:
        """The answer to the last question, token by token. Ctrl-C ends it, and nothing else."""
        args, began, count = self.args, time.monotonic(), 0
        stream = TextStream(self.tokenizer.token_bytes)
        sampling = Sampling(args.temperature, args.top_k, args.top_p)
        first = began
        with self._interruptible():
            for token in self.conversation.answer(sampling, self.rng, args.max_new_tokens):
                first = first if count else time.monotonic()
                count += 1
                _write(stream.add(token))
        _write(stream.end() + "\n")
        seconds = time.monotonic() - first
        speed = f"{(count - 1) / seconds:.1f} tokens/s, " if count > 1 and seconds else ""
        ended = "stopped, " if self.interrupted else ""
        if count == args.max_new_tokens:
            ended = f"cut after {count} tokens (--max-new-tokens), "
        self.say(f"{ended}{speed}first token after {first - began:.1f} s")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Within, the first Ctrl-C asks for an end, and the second one does not wait."""

        def handle(number: int, _: object) -> None:
            if number != signal.SIGINT or self.interrupted:
                stop(number)
            self.interrupted = True

        self.interrupted = False
        with on_signals(handle):
            yield

    def say(self, text: str) -> None:
        """A line that is no answer."""
        if not self.args.quiet:
            with suppress(OSError):
                print(paint(shown(text), DIM, self.style), file=sys.stderr, flush=True)

    # ------------------------------------------------------------ commands

    def reset(self, _: str) -> bool:
        """A new conversation under the same system message."""
        self.conversation.turns = []
        self.say("forgotten")
        return True

    def system(self, text: str) -> bool:
        """A new conversation with this system message; without one, as the model knows it."""
        self.conversation.start(text or None)
        self.say("forgotten; the model is now told something else first")
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
    current = open_checkpoint(args)
    _check_talks(current, args)
    if args.int8:
        quantize(current.model)
    talk = Talk(current, args)
    is_person = sys.stdin.isatty()
    if is_person:
        with suppress(ImportError):
            import readline  # noqa: F401  # lines can be edited, and called back
        talk.say("a question, or /help; Ctrl-C stops an answer, Ctrl-D ends")
    with sharing(current, args.workers):
        for line in _lines(is_person):
            if not talk.take(line):
                break
    return 0


def _check_talks(current: Run, args: argparse.Namespace) -> None:
    template = current.chat.template
    if not (template and can_speak(current.tokenizer, template_of(template))):
        continues = to_type("generate", {"--checkpoint": str(flags.checkpoint_of(args) or "")})
        raise UserError(
            f"the model was not taught to talk: it has no chat template, or no tokens that mark "
            f"who speaks; it continues a text with: {continues}"
        )


def _lines(is_person: bool) -> Iterator[str]:
    """What is asked, line by line, as it comes."""
    while True:
        try:
            line = input("> " if is_person else "")
        except EOFError:
            if is_person:
                print()
            return
        yield line


def _write(text: str) -> None:
    """A part of an answer; on a terminal what could do anything there is escaped."""
    print(shown(text, 0, keep="\n\t") if sys.stdout.isatty() else text, end="", flush=True)
