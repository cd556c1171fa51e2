"""A token file gives back what was written, and anything else is refused with what to do."""

import gc
import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm import Batches, CharTokenizer, Windows
from tiny_llm.files.token_file import (
    MOST_IDS,
    TokenFileError,
    description_path,
    is_token_file,
    open_tokens,
    packed,
    write_tokens,
)

STATE = CharTokenizer("abc").state()
TRAIN, VAL = [0, 1, 2, 256, 65535, 1], [2, 1, 0]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.bin"


@pytest.fixture
def written(path):
    """A token file of TRAIN and VAL."""
    write_tokens(path, [packed(TRAIN[:4]), b"", packed(TRAIN[4:])], [packed(VAL)], STATE, 7, 2)
    return path


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_what_was_written_is_read(written):
    tokens = open_tokens(written)
    assert (list(tokens.train), list(tokens.val)) == (TRAIN, VAL)
    assert tokens.tokenizer == STATE
    assert tokens.description.documents == 7
    assert tokens.description.val_documents == 2
    tokens.verify()


def test_the_file_is_bare_ids_of_two_bytes_the_lower_one_first(written):
    assert written.read_bytes() == struct.pack("<9H", *TRAIN, *VAL)


def test_the_description_is_plain_json_without_paths_or_dates(written):
    content = json.loads(description_path(written).read_text("utf-8"))
    assert content == {
        "format": "tiny_llm tokens 1",
        "tokens": 9,
        "train_tokens": 6,
        "documents": 7,
        "val_documents": 2,
        "tokenizer": STATE,
        "sha256": hashlib.sha256(written.read_bytes()).hexdigest(),
    }


def test_equal_content_gives_equal_bytes(written, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_tokens(other / "tokens.bin", [packed(TRAIN)], [packed(VAL)], STATE, 7, 2)
    assert files(other) == files(tmp_path)


@given(st.lists(st.integers(0, MOST_IDS - 1)))
def test_packed_ids_are_two_bytes_each(ids):
    assert packed(ids) == struct.pack(f"<{len(ids)}H", *ids)


@pytest.mark.parametrize("bad", [MOST_IDS, -1, 10**9])
def test_an_id_that_needs_more_is_refused(bad):
    with pytest.raises(ValueError, match="does not fit in two bytes"):
        packed([1, bad])


def test_slices_cost_no_copy_and_suit_batches(written):
    train = open_tokens(written).train
    assert isinstance(train[2:4], type(train))
    assert list(train[2:4]) == list(train)[2:4] == TRAIN[2:4]
    assert list(train[1:][:-1][::2]) == TRAIN[1:-1:2]
    assert (train[-1], len(train[1:3]), list(train[3:3])) == (TRAIN[-1], 2, [])
    with pytest.raises(IndexError):
        train[len(train)]
    assert Batches(Windows(train, 3), 1).batch(0)[0][0] in (TRAIN[:3], TRAIN[1:4], TRAIN[2:5])


def test_the_ids_outlive_the_opened_file(written):
    views = [open_tokens(written).val for _ in range(20)]
    gc.collect()
    assert [list(view) for view in views] == [VAL] * 20


@pytest.mark.skipif(os.name == "nt", reason="the file would take 8 GB there")
def test_the_file_is_not_read(path):
    """A sparse file of 8 GB opens at once."""
    with path.open("wb") as file:
        file.truncate(2**33)
    count = 2**32
    write_description(path, tokens=count, train_tokens=count - 10)
    tokens = open_tokens(path)
    assert len(tokens.train) == count - 10
    assert tokens.train[count // 2] == tokens.val[9] == 0


@pytest.mark.skipif(os.name == "nt", reason="an opened file cannot be cut there")
def test_a_file_that_is_cut_while_it_is_in_use_is_named(written):
    """Mapped into memory, it would kill the process."""
    tokens = open_tokens(written)
    os.truncate(written, 2 * len(TRAIN) - 2)
    assert list(tokens.train[:-1]) == TRAIN[:-1]
    for look in (lambda: tokens.val[0], lambda: list(tokens.train), lambda: list(tokens.val[1:])):
        with pytest.raises(TokenFileError, match="was cut while it was in use"):
            look()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked, to end in the midst")
@pytest.mark.parametrize("link", [False, True])
def test_a_crash_between_any_two_renames_leaves_the_old_pair_or_the_new_one(tmp_path, link):
    path, name = tmp_path / "t.bin", tmp_path / ("link" if link else "t.bin")
    new, seen = [TRAIN[::-1], VAL[::-1]], []  # as long as the old ones
    for crash in range(4):
        write_tokens(path, [packed(TRAIN)], [packed(VAL)], STATE)
        if link and not crash:
            name.symlink_to(path)
        child = os.fork()
        if not child:
            moves, replace = [], Path.replace

            def until(self, target, moves=moves, replace=replace, crash=crash):
                moves.append(self)
                os._exit(7) if len(moves) > crash else None
                return replace(self, target)

            Path.replace = until
            write_tokens(path, [packed(new[0])], [packed(new[1])], STATE)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == (7 << 8 if crash < 3 else 0)
        tokens = open_tokens(name)
        tokens.verify()
        seen.append([list(tokens.train), list(tokens.val)])
    assert seen == [[TRAIN, VAL], [TRAIN, VAL], new, new]


# ------------------------------------------------------------------------------- what is no pair


def write_description(path, **changes):
    """The JSON beside the file with some of its entries changed, or left out (None)."""
    content = {
        "format": "tiny_llm tokens 1",
        "tokens": 9,
        "train_tokens": 6,
        "documents": 1,
        "val_documents": 0,
        "tokenizer": STATE,
        "sha256": "0" * 64,
    }
    content.update(changes)
    text = json.dumps({name: value for name, value in content.items() if value is not None})
    description_path(path).write_text(text, "utf-8")


def test_a_file_of_another_tool_has_no_description(path):
    path.write_bytes(packed(TRAIN))
    with pytest.raises(TokenFileError, match=r"has no tokens\.bin\.json .* with tiny-lm prepare$"):
        open_tokens(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "tiny_llm tokens 2"},
        {"format": None},
        {"tokens": None},
        {"tokens": "9"},
        {"tokens": True},
        {"train_tokens": 1},
        {"train_tokens": 8},
        {"train_tokens": -4},
        {"train_tokens": 6.0},
        {"documents": 0},
        {"val_documents": 1},
        {"tokenizer": ["a"]},
        {"sha256": 5},
        {"more": 1},
    ],
)
def test_a_damaged_description_is_refused(written, changes):
    write_description(written, **changes)
    with pytest.raises(TokenFileError, match=r"json is damaged, or not from tiny-lm prepare"):
        open_tokens(written)


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_description_that_is_none_is_refused(written, content):
    description_path(written).write_bytes(content)
    with pytest.raises(TokenFileError, match=r"json is damaged, or not from tiny-lm prepare"):
        open_tokens(written)


@pytest.mark.parametrize("size", [0, 1, 16, 17, 19, 20])
def test_a_file_of_another_size_is_refused(written, size):
    written.write_bytes(bytes(size))
    with pytest.raises(TokenFileError, match=f"has {size} bytes, and by .* should have 18"):
        open_tokens(written)


def test_changed_bytes_are_found_by_reading_them_all(written):
    content = bytearray(written.read_bytes())
    content[-1] ^= 1
    written.write_bytes(content)
    tokens = open_tokens(written)
    with pytest.raises(TokenFileError, match="its bytes have changed"):
        tokens.verify()


def test_a_missing_file_is_an_os_error(path):
    with pytest.raises(FileNotFoundError):
        open_tokens(path)


def test_what_is_a_token_file(written, tmp_path):
    assert is_token_file(written)
    assert is_token_file(str(tmp_path / "none.bin"))  # to be opened, and refused with what to do
    other = tmp_path / "tokens"
    write_tokens(other, [packed(TRAIN)], [packed(VAL)], STATE)
    assert is_token_file(other)
    text = tmp_path / "text.txt"
    text.write_text("text", "utf-8")
    description_path(text).write_text("{}", "utf-8")
    assert not is_token_file(text)
    description_path(text).write_bytes(description_path(other).read_bytes()[:60])
    assert is_token_file(text)  # damaged, as `open_tokens` will say
    assert not is_token_file("-")


# ------------------------------------------------------------------------------- writing that fails


@pytest.mark.parametrize(
    "train, val, part", [([1], [1, 2], "training"), ([1, 2], [], "validation")]
)
def test_a_part_without_a_pair_is_refused_and_nothing_changes(written, train, val, part):
    before = files(written.parent)
    with pytest.raises(ValueError, match=f"the {part} part has . tokens, and 2 are the least"):
        write_tokens(written, [packed(train)], [packed(val)], STATE)
    assert files(written.parent) == before


def test_an_error_or_ctrl_c_in_the_middle_changes_nothing(written):
    before = files(written.parent)

    def blocks(error):
        yield packed([1, 2, 3])
        raise error

    for error in (ValueError("no text"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write_tokens(written, blocks(error), [packed(VAL)], STATE)
        assert files(written.parent) == before


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_disk_that_fails_at_the_end_changes_nothing(written, monkeypatch, failing):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = files(written.parent)
    monkeypatch.setattr(*((Path, "replace") if failing == "replace" else (os, "fsync")), fail)
    with pytest.raises(OSError, match="No space left"):
        write_tokens(written, [packed(TRAIN)], [packed(TRAIN)], STATE)
    monkeypatch.undo()
    assert files(written.parent) == before


def test_a_link_is_written_through(written, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = folder / "link.bin"
    try:
        link.symlink_to(written)
    except OSError:
        pytest.skip("no links here")
    write_tokens(link, [packed([5, 5, 5])], [packed(VAL)], STATE)
    assert link.is_symlink()
    assert list(open_tokens(written).train) == [5, 5, 5]
    assert list(open_tokens(link).train) == [5, 5, 5]
