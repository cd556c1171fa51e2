"""The one place that writes files: a reader finds the old content or the new, and never a half.

A temporary file beside the target is written, flushed to the disk, and renamed over it. What a
killed process left behind is removed by the next one that writes the same name.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Optional, Union


@contextmanager
def replacing(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Files to write, which take the places of these, in order, if all goes well.

    Raises OSError when one cannot be written; what stood at `paths` before is then untouched.
    """
    targets = [Path(os.path.realpath(path)) for path in paths]  # through links to the files
    temporaries = [_temporary(target) for target in targets]
    files: list[BinaryIO] = []
    try:
        for target, temporary in zip(targets, temporaries):
            _remove_left_behind(target)
            files.append(temporary.open("wb"))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for temporary, target in zip(temporaries, targets):
            temporary.replace(target)
    finally:
        for file, temporary in zip(files, temporaries):
            with suppress(OSError):  # such as that of a full disk, which was raised already
                file.close()
            _remove(temporary)
    _flush_folder(targets[0].parent)


def replace_file(path: Path, parts: Iterable[Union[bytes, memoryview]]) -> None:
    """Write these bytes to the file. Raises OSError; the old file is then untouched."""
    with replacing(path) as (file,):
        file.writelines(parts)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Within, nobody else is in here with the same path. Raises BlockingIOError if somebody is.

    The lock is the system's, so that it is gone with the process, whatever becomes of that. Where
    there is none of this kind (Windows), this does nothing.
    """
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:
        yield
        return
    path = Path(os.path.realpath(path))
    mark = path.with_name(f".{path.name}.lock")
    while True:
        with mark.open("ab") as file:
            flock(file, LOCK_EX | LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), mark.stat()):  # else: just removed
                    try:
                        yield
                    finally:
                        _remove(mark)
                    return


def keep_old(path: Path) -> Optional[Path]:
    """Copy the file at `path` to `path`.bak, which is returned; None if there is no such file.

    What was kept before stays: then it is `path`.bak2, .bak3 and so on, unless the newest of them
    holds the same already.
    """
    if not path.exists():
        return None
    newest, backup = backups(path)
    if newest and newest.is_file() and filecmp.cmp(path, newest, shallow=False):
        return newest
    copy_file(path, backup)
    return backup


def put_aside(path: Path) -> Optional[Path]:
    """As `keep_old`, and then there is no file at `path`; a link stays, and leads nowhere."""
    backup = keep_old(path)
    if backup:
        Path(os.path.realpath(path)).unlink()
    return backup


def backups(path: Path) -> tuple[Optional[Path], Path]:
    """The newest copy that was kept of a file, if there is one, and the name of the next."""
    newest, free, number = None, path.with_name(path.name + ".bak"), 1
    while os.path.lexists(free):
        newest, number = free, number + 1
        free = path.with_name(f"{path.name}.bak{number}")
    return newest, free


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that `target` is the old one or the whole copy. Raises OSError about it."""
    try:
        with replacing(target) as (file,), source.open("rb") as content:
            shutil.copyfileobj(content, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None


def check_writable(path: Path) -> None:
    """Make the folder of `path` and try to write there. Raises OSError with the reason if not."""
    for folder in path.parents:
        if os.path.lexists(folder) and not folder.is_dir():
            raise OSError(f"{folder} is no folder; rename it, or choose another place")
    path = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        path.stat()  # raises OSError for links that lead to themselves
    if path.is_dir():
        raise OSError("it is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = _temporary(path)
    probe.write_bytes(b"")
    _remove(probe)


def _temporary(path: Path) -> Path:
    """A hidden file in the same folder that no other process writes."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _remove_left_behind(path: Path) -> None:
    """Remove the temporary files of this name whose process is gone."""
    with suppress(OSError):
        for left in path.parent.iterdir():
            name, _, pid = left.name[: -len(".tmp")].rpartition(".")
            is_one = left.name.endswith(".tmp") and name == f".{path.name}" and pid.isdecimal()
            if is_one and not _is_running(int(pid)):
                _remove(left)


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # there is no harmless way to ask
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _flush_folder(folder: Path) -> None:
    """So that the renames last, too; not every system can flush a folder."""
    with suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
