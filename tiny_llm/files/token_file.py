"""Token ids as a file, so that a corpus may be far larger than memory.

    tokens.bin        ids of the training part | ids of the validation part
    tokens.bin.json   where the second part begins, the tokenizer, a fingerprint of tokens.bin

Each id takes two bytes, the lower one first, and there is nothing else in tokens.bin: the layout of
nanoGPT (Karpathy, 2022). Ids are read when somebody looks at them, so that it does not matter how
many there are; the system keeps in memory what is read often. (To map the file, `mmap`, would be
faster by a microsecond, but who cuts a file that is mapped kills whoever reads it.)

The split stands in the file, so whoever trains on it holds out the same tokens.
"""

from __future__ import annotations

import dataclasses
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Union

from tiny_llm.files.atomic import replacing
from tiny_llm.files.foreign import content_of, opened, parsed, text_of
from tiny_llm.text.shown import LONGEST_MESSAGE, shown

FORMAT = "tiny_llm tokens 1"
MOST_IDS = 2**16  # different ones that two bytes can tell apart
BLOCK = 2**20  # bytes that are hashed at a time


class TokenFileError(ValueError):
    """The file is no token file, or no longer what was written."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What the JSON beside the ids says: plain data, no paths and no dates."""

    tokens: int  # in both parts
    train_tokens: int
    documents: int  # in both parts
    val_documents: int  # 0: the end of the only document is held out
    tokenizer: dict[str, Any]  # its state
    sha256: str  # of the ids, all bytes of the file

    def __post_init__(self) -> None:
        """Raises TokenFileError for what no writer would have written."""
        counts = (self.tokens, self.train_tokens, self.documents, self.val_documents)
        if (
            not all(type(count) is int for count in counts)
            or not 2 <= self.train_tokens <= self.tokens - 2
            or not 0 <= self.val_documents < self.documents
            or not isinstance(self.tokenizer, dict)
            or not isinstance(self.sha256, str)
        ):
            raise TokenFileError("its numbers make no sense")


class FileIds(Sequence[int]):
    """Some of the ids in an open file. A slice is one, too; both read nothing until they are asked.

    Raises TokenFileError when the file has become shorter than it was.
    """

    def __init__(self, file: BinaryIO, places: range) -> None:
        self.file, self.places = file, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return FileIds(self.file, self.places[index])
        return self._read(self.places[index], 1)[0]

    def __iter__(self) -> Iterator[int]:
        for first in range(0, len(self), BLOCK):
            part = self.places[first : first + BLOCK]
            if part.step == 1:
                yield from self._read(part[0], len(part))
            else:
                yield from (self._read(place, 1)[0] for place in part)

    def _read(self, place: int, count: int) -> array[int]:
        self.file.seek(2 * place)
        content = self.file.read(2 * count)
        if len(content) < 2 * count:
            raise TokenFileError(
                f"{self.file.name} was cut while it was in use; make it anew with tiny-lm prepare"
            )
        return array("H", content)


class TokenFile(NamedTuple):
    """An opened file."""

    train: FileIds
    val: FileIds
    description: Description
    path: Path

    @property
    def tokenizer(self) -> dict[str, Any]:
        """The state of the tokenizer that made the ids."""
        return self.description.tokenizer

    @property
    def sha256(self) -> str:
        """By which a resumed run knows its text again; as written, not computed anew."""
        return self.description.sha256

    def verify(self) -> None:
        """Read all of the file. Raises TokenFileError unless its bytes are those once written."""
        if _fingerprint(self.path) != self.sha256:
            raise TokenFileError(
                f"{self.path} is not what {description_path(self.path).name} describes: its bytes "
                f"have changed; make both anew with tiny-lm prepare"
            )


def _fingerprint(path: Path) -> str:
    import hashlib  # only here and below: it makes `import tiny_llm` 50 ms longer on PyPy

    digest = hashlib.sha256()
    with opened(path) as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def packed(ids: Iterable[int]) -> bytes:
    """The ids as the file has them. Raises ValueError for one that needs more than two bytes."""
    try:
        numbers = array("H", ids)
    except OverflowError:
        raise ValueError(f"an id of {MOST_IDS:,} or more does not fit in two bytes") from None
    return numbers.tobytes()


def description_path(path: Path) -> Path:
    """Where the JSON of this token file is."""
    return Path(f"{path}.json")


def write_tokens(
    path: Path,
    train: Iterable[bytes],
    val: Iterable[bytes],
    tokenizer: dict[str, Any],
    documents: int = 1,
    val_documents: int = 0,
) -> Description:
    """Write both parts, which come in blocks of `packed` ids, and the JSON beside them.

    A crash at any moment leaves the old pair or the new one: the new JSON stands ready under a name
    of its own before the ids take their place, and `open_tokens` puts it beside them if need be.
    Raises ValueError when either part has no pair of tokens, and OSError when a file cannot be
    written; what stood there before is then untouched.
    """
    import hashlib

    path = Path(os.path.realpath(path))  # through a link to the file that it stands for
    digest, counts = hashlib.sha256(), []
    with replacing(_ready(path), path) as (beside, ids):
        for name, blocks in (("training", train), ("validation", val)):
            size = 0
            for block in blocks:
                ids.write(block)
                digest.update(block)
                size += len(block) // 2
            if size < 2:
                raise ValueError(
                    f"the {name} part has {size} tokens, and 2 are the least (one to see, one to "
                    f"predict); use a longer text or another validation fraction"
                )
            counts.append(size)
        description = Description(
            sum(counts), counts[0], documents, val_documents, tokenizer, digest.hexdigest()
        )
        content = {"format": FORMAT, **dataclasses.asdict(description)}
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(content[key])}" for key in content)
        beside.write(f"{{\n{lines}\n}}\n".encode("ascii"))
    _ready(path).replace(description_path(path))
    return description


def _ready(path: Path) -> Path:
    """Where the JSON stands that belongs to the ids which are about to be replaced."""
    return path.with_name(f".{path.name}.json.next")


def _finish(path: Path) -> None:
    """If a crash came between the ids and their JSON, put that in its place, too."""
    path = Path(os.path.realpath(path))
    with suppress(TokenFileError, OSError):  # such as that there is none
        if _described_by(_ready(path), path).sha256 == _fingerprint(path):
            _ready(path).replace(description_path(path))


def _existing_description(path: Path) -> Path:
    """The JSON beside this token file, or beside the file that a link stands for."""
    beside = description_path(path)
    return beside if beside.exists() else description_path(Path(os.path.realpath(path)))


def read_description(path: Path) -> Description:
    """What the JSON beside the token file `path` says.

    Raises TokenFileError, with what to do, if there is none or it is none, and OSError if it cannot
    be read.
    """
    return _described_by(_existing_description(path), path)


def _described_by(beside: Path, path: Path) -> Description:
    try:
        content = parsed(text_of(content_of(beside)))
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise TokenFileError(f"its format is not {FORMAT!r}")
        return Description(**content)
    except FileNotFoundError:
        raise TokenFileError(
            f"{path} has no {beside.name} beside it, which says where its validation part begins "
            f"and what its ids mean; make both from the text with tiny-lm prepare"
        ) from None
    except (ValueError, TypeError) as error:
        problem = shown(error, LONGEST_MESSAGE // 2)
        raise TokenFileError(
            f"{beside} is damaged, or not from tiny-lm prepare: {problem}; make it anew"
        ) from None


def is_token_file(path: Union[str, Path]) -> bool:
    """Whether `open_tokens` is the way to read this: it ends in .bin, or has its JSON beside it."""
    path = Path(path)
    if path.suffix == ".bin":
        return True
    try:
        with opened(_existing_description(path)) as file:
            return FORMAT.encode("ascii") in file.read(100)
    except (OSError, ValueError):  # ValueError: for a name with a character of value 0
        return False


def open_tokens(path: Union[str, Path]) -> TokenFile:
    """The token file `path`, opened. Its JSON and its size are checked, its content is not read.

    Raises TokenFileError, with what to do, if it is none, and OSError if it cannot be read.
    """
    path = Path(path)
    _finish(path)
    file = opened(path, buffering=0)  # contexts lie anywhere, so what is beside one is not needed
    try:
        description = read_description(path)
        size = os.fstat(file.fileno()).st_size
        if size != 2 * description.tokens:
            raise TokenFileError(
                f"{path} has {size:,} bytes, and by {description_path(path).name} it should have "
                f"{2 * description.tokens:,}: one of the two was replaced or cut; make both anew "
                f"with tiny-lm prepare"
            )
    except BaseException:
        file.close()
        raise
    ids = FileIds(file, range(description.tokens))
    boundary = description.train_tokens
    return TokenFile(ids[:boundary], ids[boundary:], description, path)
