"""Many clients at once, a third of them rude, and mutated requests: what a server makes of them.

    python3 benchmarks/load.py [CLIENTS REQUESTS MUTATED]     200 clients, 2,000 requests, 10,000

Every client asks, one request after the other, for a text that is known from when the server was
idle, and whoever is told to try again does. A third of the requests are cut off at a random moment:
in the midst of the request, or of the answer. Some bodies come slowly. Then valid requests are
mutated: bytes changed, left out, doubled, cut off. In the end no text may have come out otherwise
than alone, no place may be lost, no error may be in the log, and the server's memory be as before.
"""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.performance import python_name  # noqa: E402

RUNNING, WAITING = 8, 64
PATIENCE = 60.0  # seconds until a silent server has hung
TEXTS = 20  # different ones that are asked for
CUT, SLOW = 1 / 3, 1 / 20  # shares of the requests
AGAIN = (429, 503)
VALUES = ["null", "-1", "1e999", "[]", "{}", '"\\ud800"', "true", "9" * 400, "[" * 200, '""']

Address = tuple[str, int]


def body_of(number: int, streams: bool) -> dict[str, Any]:
    """One of the texts that are asked for."""
    return {
        "prompt": ["the cat", "the dog", "who sleeps?"][number % 3], "max_tokens": 4 + number % 9,
        "seed": number, "temperature": 1.5, "stream": streams,
    }  # fmt: skip


def request_of(body: dict[str, Any], path: str = "/v1/completions") -> bytes:
    """A request as bytes, after which the connection closes."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + content


def exchanged(address: Address, request: bytes, cut: Optional[random.Random] = None) -> bytes:
    """What the server answers, read to its end; or until a random moment, with `cut`."""
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        if cut and cut.random() < 0.5:
            connection.sendall(request[: cut.randrange(len(request))])
            return b""
        connection.sendall(request)
        answer, most = b"", cut.randrange(2000) if cut else 10**9
        while len(answer) < most:
            part = connection.recv(65536)
            if not part:
                break
            answer += part
        return answer


def slowly(address: Address, request: bytes) -> bytes:
    """The same for a client that sends a piece now and then."""
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        for first in range(0, len(request), 40):
            connection.sendall(request[first : first + 40])
            time.sleep(0.02)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def status_of(answer: bytes) -> int:
    """That of an answer; 0: there is none."""
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(found[1]) if found else 0


def text_of(answer: bytes) -> str:
    """The text in an answer, streamed or whole."""
    content = answer.partition(b"\r\n\r\n")[2].decode()
    if not content.startswith("data: "):
        return str(json.loads(content)["choices"][0]["text"])
    lines = content.strip().split("\n\n")
    assert lines.pop() == "data: [DONE]", content[-200:]
    chunks = [json.loads(line[len("data: ") :]) for line in lines]
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


def alone(address: Address) -> list[str]:
    """The texts, one after the other."""
    return [text_of(exchanged(address, request_of(body_of(n, False)))) for n in range(TEXTS)]


class Load:
    """Clients that ask at once. `counts`: what became of their requests; `wrong`: what should not
    have."""

    def __init__(self, address: Address, clients: int, requests: int) -> None:
        self.address, self.texts = address, alone(address)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        threads = [
            threading.Thread(target=self._client, args=(seed, requests // clients))
            for seed in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, seed: int, requests: int) -> None:
        rng = random.Random(seed)
        for _ in range(requests):
            number = rng.randrange(TEXTS)
            request = request_of(body_of(number, rng.random() < 0.5))
            try:
                if rng.random() < CUT:
                    with suppress(ConnectionError):
                        exchanged(self.address, request, cut=rng)
                    self.counts["cut off"] += 1
                else:
                    self._whole(rng, request, number)
            except Exception as error:
                self.wrong.append(f"{type(error).__name__}: {error}")

    def _whole(self, rng: random.Random, request: bytes, number: int) -> None:
        send = slowly if rng.random() < SLOW else exchanged
        while True:
            try:
                answer = send(self.address, request)
            except ConnectionError:  # turned away while it still sent
                answer = b"HTTP/1.1 503 "
            if status_of(answer) not in AGAIN:
                break
            self.counts["told to try again"] += 1
            time.sleep(rng.random() / 5)
        text = text_of(answer)
        self.counts["answered"] += 1
        if text != self.texts[number]:
            self.wrong.append(f"text {number} is {text!r}, alone {self.texts[number]!r}")


# -------------------------------------------------------------------------------- mutated requests


def mutated(rng: random.Random) -> bytes:
    """A request, changed in a few places: its JSON, or its bytes."""
    talk = {"messages": [{"role": "user", "content": "who sleeps?"}], "max_tokens": 2}
    paths = {
        "/v1/completions": {**body_of(rng.randrange(TEXTS), rng.random() < 0.5), "max_tokens": 2},
        "/v1/chat/completions": talk,
        "/tokenize": {"content": "the cat"},
        "/detokenize": {"tokens": [1, 2]},
        "/attention": {"tokens": [1, 2]},
    }
    path = rng.choice(list(paths))
    request = request_of(paths[path], path)
    if rng.random() < 0.5:
        content = json.dumps({**paths[path], rng.choice(FIELDS): 0})
        content = re.sub(r": 0}$", lambda _: f": {rng.choice(VALUES)}}}", content)
        length = b"Content-Length: %d" % len(content.encode())
        return (
            re.sub(rb"Content-Length: \d+", length, request.partition(b"{")[0]) + content.encode()
        )
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(request))
        until = min(len(request), at + rng.randint(1, 30))
        part = request[at:until]
        new = [b"", part + part, bytes(rng.randrange(256) for _ in part), part[::-1], b"\r\n"]
        request = request[:at] + rng.choice(new) + request[until:]
    return request[: rng.randrange(1, len(request) + 1)] if rng.random() < 0.1 else request


FIELDS = ["prompt", "messages", "max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed",
          "stream", "stream_options", "logprobs", "echo", "tokens", "content", "with_pieces",
          "max_completion_tokens", "top_logprobs"]  # fmt: skip


def broken(address: Address, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """What the server answers to mutated requests, counted, and what it should not have."""
    rng, counts, wrong = random.Random(seed), Counter[str](), list[str]()
    for number in range(count):
        request = mutated(rng)
        answer = b""
        with socket.create_connection(address, timeout=PATIENCE) as connection:
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
            except ConnectionError:
                pass  # it had seen enough
            except TimeoutError:
                wrong.append(f"request {number} hangs")
        status = status_of(answer)
        counts[str(status) if status else "no answer"] += 1
        if (answer and not status) or status == 500:
            wrong.append(f"request {number}: {answer[:200]!r}")
    return counts, wrong


def all_places(address: Address) -> bool:
    """Whether as many texts fit at once as the server has places."""
    body = {"prompt": "the cat", "max_tokens": 1, "n": RUNNING + WAITING}
    deadline = time.monotonic() + PATIENCE
    while status_of(exchanged(address, request_of(body))) != 200:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


# ---------------------------------------------------------------------------------------- together


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Address, Path]]:
    """A server of a small model that talks: its process, its address, its log."""
    text = "who sleeps? the cat sleeps. the dog does not. " * 20
    (folder / "text.txt").write_text(text, "utf-8")
    said = [{"role": "user", "content": "who sleeps?"}, {"role": "assistant", "content": "the cat"}]
    lines = [{"messages": said, "split": split} for split in ("train", "val")]
    (folder / "said.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    tiny_lm = [sys.executable, "-m", "tiny_llm"]
    sizes = ["--d-model", "16", "--n-heads", "2", "--n-layers", "1", "--context-length", "48"]
    bpe = ["--model", "modern", "--tokenizer", "bpe", "--vocab-size", "280", *sizes]
    for words in (
        ["train", "--data", "text.txt", *bpe, "--steps", "5", "-o", "base.safetensors", "-n", "0"],
        ["sft", "-c", "base.safetensors", "--data", "said.jsonl", "-o", "m.safetensors"],
    ):
        subprocess.run([*tiny_lm, *words, "--quiet"], cwd=folder, check=True, env=ENVIRONMENT,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    log = folder / "log.txt"
    places = ["--running", str(RUNNING), "--waiting", str(WAITING)]
    with log.open("wb") as out:
        words = [*tiny_lm, "serve", "-c", "m.safetensors", "--port", "0", *places]
        process = subprocess.Popen(words, cwd=folder, stderr=out, env=ENVIRONMENT)
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text("utf-8"))):
            assert process.poll() is None, log.read_text("utf-8")
            time.sleep(0.05)
        yield process, ("127.0.0.1", int(found[1])), log
    finally:
        process.terminate()
        process.wait()


def errors_in(log: Path) -> list[str]:
    """Lines of a log that are neither a request nor the server's own words."""
    usual = re.compile(r'127\.0\.0\.1 "|serving |tiny-lm: stopped|\S+: modern, |$')
    return [line for line in log.read_text("utf-8").splitlines() if not usual.match(line)]


def memory(process: subprocess.Popen[bytes]) -> float:
    """Of a process, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1024


def main() -> None:
    """Measure, and print what there is to say. The exit code is 1 if something went wrong."""
    clients, requests, count = map(int, sys.argv[1:] or ("200", "2000", "10000"))
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (process, address, log):
        Load(address, 20, 200)
        broken(address, 500, seed=1)
        before, began = memory(process), time.monotonic()
        load = Load(address, clients, requests)
        print(f"{python_name()}: {clients} clients, {requests} requests in "
              f"{time.monotonic() - began:.0f} s: {dict(load.counts)}")  # fmt: skip
        counts, wrong = broken(address, count)
        print(f"{count} mutated requests: {dict(sorted(counts.items()))}")
        same, places = alone(address) == load.texts, all_places(address)
        print(f"memory {before:.1f} MB -> {memory(process):.1f} MB; all places free: {places}")
        wrong += load.wrong + errors_in(log)
        wrong += ["a text is another one"] * (not same) + ["a place is lost"] * (not places)
    print(f"wrong: {len(wrong)}", *wrong[:20], sep="\n  ")
    sys.exit(bool(wrong))


ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}

if __name__ == "__main__":
    main()
