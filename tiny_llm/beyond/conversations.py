"""Conversations as data: a JSON object a line, with what was said and by whom.

    {"messages": [{"role": "user", "content": "Who sleeps?"},
                  {"role": "assistant", "content": "The cat."}], "split": "train"}

This is the shape that such data usually has. Lines are read one after the other, so a file may be
of any size. "split" says which part a line belongs to: "train", "val", or "test", which nothing
here looks at, so that something is left for the last measurement. Of lines without it, some are
held out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional

from tiny_llm.beyond.builtin import ABOUT, conversations
from tiny_llm.beyond.chat import ROLES, Message
from tiny_llm.files.foreign import parsed_object
from tiny_llm.run.errors import UserError, problem_with_name
from tiny_llm.text.shown import LONGEST_MESSAGE, shown

LONGEST_LINE = 2**24  # bytes
SPLITS = {"train": False, "val": True, "validation": True}
TEST = "test"


class Spoken(NamedTuple):
    """One line: what was said."""

    line: int  # its number, from 1
    messages: list[Message]
    is_held_out: Optional[bool] = None  # None: the line does not say


class Lines:
    """The lines of a file of UTF-8, `-` for standard input; None for those that come along, by this
    name (builtin.py). None of them is kept. sha256 is that of the lines read so far.

    To iterate raises UserError for a file that cannot be read, or is no such text.
    """

    def __init__(self, path: Optional[str], builtin: str = "chat") -> None:
        self.path, self.builtin = path, builtin
        self.name = {None: ABOUT[builtin], "-": "standard input"}.get(path) or shown(path)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """A fingerprint by which a resumed run knows its data again."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[str]:
        problem = None if self.path is None else problem_with_name(self.path)
        if problem:
            raise UserError(f"{self.name} {problem}")
        number = 0
        try:
            with self._opened() as file:
                for number, data in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
                    if len(data) == LONGEST_LINE:
                        raise UserError(f"{self.name}, line {number}: it is longer than any answer")
                    self._digest.update(data)
                    yield data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.name}, line {number}: it is not UTF-8") from None
        except FileNotFoundError:
            raise UserError(
                f"there is no file {self.name}; give a file of JSON lines, one conversation each"
            ) from None
        except OSError as error:
            raise UserError(f"cannot read {self.name}: {error.strerror or error}") from None

    def _opened(self) -> IO[bytes]:
        if self.path is None:
            return io.BytesIO("".join(conversations(self.builtin)).encode("utf-8"))
        path = Path(self.path)
        if path.is_char_device() or path.is_block_device():
            raise UserError(f"{self.name} is a device, which may never end; give a file")
        return open(0 if self.path == "-" else self.path, "rb", closefd=self.path != "-")


def objects(lines: Iterable[str], name: str, read: Any) -> Iterator[Any]:
    """read(number, object) of every line that is not empty and is not kept for the test.

    Raises ValueError, with the file's name and the line's number, for a line that `read` refuses.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                values = parsed_object(line)
                if values.get("split") != TEST:
                    yield read(number, values)
            except ValueError as error:
                problem = shown(error, LONGEST_MESSAGE)
                raise ValueError(f"{name}, line {number}: {problem}") from None


def conversation_of(number: int, values: dict[str, Any]) -> Spoken:
    """What the object in a line says. Raises ValueError, with what is wrong and what to do."""
    if "messages" not in values:
        raise ValueError('it has no "messages"')
    messages = messages_of(values["messages"], '"messages"')
    if not any(message.role == "assistant" for message in messages):
        raise ValueError('its "messages" have no answer of the assistant to learn')
    return Spoken(number, messages, split_of(values))


def split_of(values: dict[str, Any]) -> Optional[bool]:
    """Whether the line is held out; None if it does not say. Raises ValueError for nonsense."""
    split = values.get("split")
    if split is None:
        return None
    if not isinstance(split, str) or split not in SPLITS:
        known = ", ".join([*SPLITS, TEST])
        raise ValueError(f'its "split" must be one of {known}, not {shown(repr(split), 40)}')
    return SPLITS[split]


def messages_of(value: Any, where: str) -> list[Message]:
    """A list of {"role", "content"}, at least one. Raises ValueError for anything else."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} must be a text or a list of messages that is not empty")
    return [_message(message, where) for message in value]


def _message(value: Any, where: str) -> Message:
    role, content = (value.get(k) if isinstance(value, dict) else None for k in Message._fields)
    if not isinstance(content, str) or role not in ROLES:
        raise ValueError(
            f'a message in {where} must have a "role", one of {", ".join(ROLES)}, '
            f'and a "content", a text'
        )
    if role == "assistant" and not content.strip():
        raise ValueError(f"an answer in {where} is empty")
    return Message(role, whole(content, where))


def whole(text: str, where: str) -> str:
    """The text. Raises ValueError for one with half a character, which JSON can write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"a text in {where} holds half a character") from None
    return text


class Parts:
    """Which part a line belongs to: what it says, or every k-th of those that do not say, where k
    is 1 / `val_fraction`, rounded."""

    def __init__(self, val_fraction: float) -> None:
        self.every, self.undecided = max(2, round(1 / val_fraction)), 0

    def is_held_out(self, said: Optional[bool]) -> bool:
        """Whether this one, the next in order, is held out."""
        if said is not None:
            return said
        self.undecided += 1
        return self.undecided % self.every == 0
