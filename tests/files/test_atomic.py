"""Files are whole, old or new; and what a killed process left behind goes."""

import os
import subprocess
import sys

import pytest

from tiny_llm.files.atomic import copy_file, keep_old, replace_file, replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_files_and_nothing_else(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(one, two) as (first, second):
        first.write(b"new")
        second.write(b"new")
        raise ZeroDivisionError
    assert names(tmp_path) == ["one"]
    assert one.read_bytes() == b"old"


def test_both_files_are_new_when_all_goes_well(tmp_path):
    with replacing(tmp_path / "one", tmp_path / "two") as (first, second):
        first.write(b"1")
        second.write(b"2")
    assert [(tmp_path / name).read_bytes() for name in names(tmp_path)] == [b"1", b"2"]


def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nobody is asked")
def test_what_a_killed_process_left_is_removed_by_the_next_of_that_name(tmp_path):
    left, other = tmp_path / f".m.{gone()}.tmp", tmp_path / f".n.{gone()}.tmp"
    running = tmp_path / f".m.{os.getppid()}.tmp"
    foreign = tmp_path / ".m.notes.tmp"
    for path in (left, other, running, foreign):
        path.write_bytes(b"half")
    replace_file(tmp_path / "m", [b"whole"])
    assert names(tmp_path) == sorted(["m", other.name, running.name, foreign.name])


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    replace_file(tmp_path / "link", [b"new"])
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"


def test_a_copy_that_fails_names_its_target(tmp_path):
    with pytest.raises(OSError, match="target"):
        copy_file(tmp_path / "none", tmp_path / "target")
    assert names(tmp_path) == []
    assert keep_old(tmp_path / "none") is None


def test_what_was_kept_stays_kept(tmp_path):
    path = tmp_path / "m"
    for content in (b"good", b"accident", b"accident", b"another"):
        path.write_bytes(content)
        keep_old(path)
    kept = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    backups = {"m.bak": b"good", "m.bak2": b"accident", "m.bak3": b"another"}
    assert kept == {"m": b"another", **backups}
