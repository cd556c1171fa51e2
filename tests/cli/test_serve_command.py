"""tiny-lm serve: it says where it is, answers, ends with Ctrl-C, and says what is in its way."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from answering import base

from tiny_llm.cli import main
from tiny_llm.run.saved import save_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "m", base())


@contextmanager
def served(*flags):
    """The process of a server, and its address."""
    words = [sys.executable, "-m", "tiny_llm", "serve", "-c", "m", "--port", "0", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = None
        while not address:
            line = process.stderr.readline()
            assert line, "it ended"
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
        yield process, address[0]
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def opened(address, **body):
    return urllib.request.urlopen(
        f"{address}/v1/completions", json.dumps(body).encode(), timeout=60
    )


@pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal does")
def test_it_serves_until_ctrl_c():
    with served("--int8") as (process, address):
        with opened(address, prompt="the cat", max_tokens=3) as answer:
            assert json.load(answer)["object"] == "text_completion"
        with urllib.request.urlopen(address, timeout=60) as page:
            assert b"<title>m: a model to talk to</title>" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "POST /v1/completions" in process.stderr.read()


@pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal does")
def test_whoever_listens_is_told_that_it_stops():
    with served() as (process, address):
        endless = {"prompt": "the cat", "max_tokens": 10**6, "temperature": 0, "stream": True}
        with opened(address, **endless) as stream:
            assert stream.readline().startswith(b"data: {")
            process.send_signal(signal.SIGTERM)
            *_, error, _, done, _, _ = stream.read().decode().split("\n")
        assert json.loads(error[len("data: ") :])["error"]["message"] == "the server is stopping"
        assert done == "data: [DONE]"
        assert process.wait(60) == 143


def test_what_is_in_its_way_is_told_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "-c", "m", "--port", port]) == 1
    assert f"cannot listen at 127.0.0.1:{port}: " in capsys.readouterr().err
    for words, code, problem in (
        (["--port", "99999"], 1, "cannot listen at 127.0.0.1:99999"),
        (["--host", "no such host"], 1, "cannot listen at no such host:8080"),
        (["--port", "-1"], 2, "--port"),
        (["--workers", "0"], 2, "--workers"),
        (["--workers", "3", "--running", "2"], 2, "--workers"),
        (["--api-key", "ключ"], 2, "--api-key"),
        (["--allow-origin", "*"], 2, "--allow-origin"),
        (["--allow-origin", "http://x/"], 2, "--allow-origin"),
    ):
        assert main(["serve", "-c", "m", *words]) == code
        err = capsys.readouterr().err
        assert problem in err and err.count("error") == 1
    assert main(["serve", "-c", "none"]) == 1
    assert "there is no checkpoint none" in capsys.readouterr().err
