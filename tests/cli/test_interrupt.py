"""Ctrl-C, SIGTERM and SIGHUP end a command soon, with its own code and nothing half-written."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tiny_llm.cli import main, prepare
from tiny_llm.files import checkpoint, documents
from tiny_llm.run import keeping

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
TEXT = "the cat sat on the mat. the dog sat on the log. " * 20
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")


@pytest.mark.parametrize("number, code", CODES)
def test_a_run_is_saved_and_says_how_to_go_on(number, code, monkeypatch, capsys):
    keep = keeping.Keeper.keep

    def keep_and_signal(self, step, is_last):
        keep(self, step, is_last)
        if step.number == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(keeping.Keeper, "keep", keep_and_signal)
    before = [signal.getsignal(n) for n, _ in CODES]
    words = ["train", "--data", "text.txt", "--context-length", "4", "--steps", "30", "-o", "m"]
    assert main(words) == code
    assert "--resume m" in capsys.readouterr().err
    assert checkpoint.load(Path("m")).metadata["step"] == 4
    assert [signal.getsignal(n) for n, _ in CODES] == before


def test_what_is_ignored_stays_so(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it
    try:
        write = prepare._write

        def hang_up_and_write(*words):
            signal.raise_signal(signal.SIGHUP)
            return write(*words)

        monkeypatch.setattr(prepare, "_write", hang_up_and_write)
        assert main(["prepare", "text.txt", "--quiet"]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("program, is_command", [
    ("-m", True), ("/usr/bin/tiny-lm", True), ("-c", False), ("app.py", False), ("", False),
])  # fmt: skip
def test_ctrl_c_while_a_command_is_loaded_leaves_no_traceback(program, is_command):
    code = (
        f"import signal, sys; sys.argv = [{program!r}]; import tiny_llm\n"
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        # A shell's background job ignores Ctrl-C, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.stdout == f"{is_command}\n"


def slow(*_):
    threading.Event().wait(60)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="a function of this file")
@pytest.mark.parametrize("number, code", CODES)
def test_prepare_does_not_wait_for_learning(number, code, monkeypatch):
    monkeypatch.setattr(documents, "_learn", slow)
    main_thread = threading.main_thread().ident
    timer = threading.Timer(0.5, signal.pthread_kill, [main_thread, number])
    timer.start()
    words = ["prepare", "text.txt", "--tokenizer", "bpe", "--workers", "2", "--quiet", "-o", "t"]
    assert main(words) == code
    timer.join()
    assert not multiprocessing.active_children()
    assert [path.name for path in Path().iterdir()] == ["text.txt"]


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="a process is forked")
def test_a_process_that_cannot_start_is_named_and_leaves_none(monkeypatch, capsys):
    start, started = multiprocessing.Process.start, []

    def once(self):
        if started:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(self)
        start(self)

    monkeypatch.setattr(multiprocessing.Process, "start", once)
    monkeypatch.setattr(documents, "BLOCK", 100)
    assert main(["prepare", "text.txt", "--workers", "2", "--quiet", "-o", "t"]) == 1
    assert "cannot start a worker process: Resource temp" in capsys.readouterr().err
    assert not multiprocessing.active_children()
    assert [path.name for path in Path().iterdir()] == ["text.txt"]
