"""tiny-lm serve: it says where it is, answers, ends with Ctrl-C, and says what is in its way."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
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


@pytest.mark.skipif(os.name != "posix", reason="sends a signal as a terminal does")
def test_it_serves_until_ctrl_c():
    words = [sys.executable, "-m", "tiny_llm", "serve", "-c", "m", "--port", "0", "--int8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        address = None
        while not address:
            line = process.stderr.readline()
            assert line, "it ended"
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
        body = json.dumps({"prompt": "the cat", "max_tokens": 3}).encode()
        with urllib.request.urlopen(f"{address[0]}/v1/completions", body, timeout=60) as answer:
            assert json.load(answer)["object"] == "text_completion"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address[0], timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "POST /v1/completions" in process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


def test_what_is_in_its_way_is_told_in_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["serve", "-c", "m", "--port", port]) == 1
    assert f"cannot listen at 127.0.0.1:{port}: " in capsys.readouterr().err
    for words, code, problem in (
        (["--port", "99999"], 1, "cannot listen at 127.0.0.1:99999"),
        (["--host", "no such host"], 1, "cannot listen at no such host:8080"),
        (["--port", "-1"], 2, "--port"),
        (["--workers", "2", "--port", "0"], 1, "--int8"),
    ):
        assert main(["serve", "-c", "m", *words]) == code
        err = capsys.readouterr().err
        assert problem in err and err.count("error") == 1
    assert main(["serve", "-c", "none"]) == 1
    assert "there is no checkpoint none" in capsys.readouterr().err
