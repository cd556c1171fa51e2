"""The server: connections in threads of their own, and one thread that owns the model.

    socket --read, bounded--> request --> Asked --> batch.py --> events --> reply --> socket

It answers on the loopback alone unless it is told otherwise, and trusts nobody: a page of another
origin may not ask, nor one that made a name of its own point here (DNS rebinding); sizes are
checked before anything is read; who is slow or silent for half a minute is dropped; no path of a
request ever becomes the name of a file.
"""

from __future__ import annotations

import hmac
import io
import ipaddress
import json
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, SimpleQueue
from typing import Any, Callable, NamedTuple, Optional, Union, cast

from tiny_llm.files.foreign import parsed_object
from tiny_llm.run.saved import Run
from tiny_llm.serve import asked as requests
from tiny_llm.serve.asked import Asked, BadRequest
from tiny_llm.serve.batch import Batch, Busy, Closed, Text
from tiny_llm.serve.replicas import RemoteText, Replicas
from tiny_llm.serve.replies import Reply, piece_of
from tiny_llm.text.shown import shown

PATIENCE = 30.0  # seconds to wait for somebody
LOOK = 0.5  # seconds between two looks whether the client is still there
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
DONE = b"data: [DONE]\n\n"
MOST_DIGITS = 20  # of a number in a request: seeds have up to 64 bits
LINGER, MOST_UNREAD = 2.0, 2**26  # seconds and bytes of a body that nobody wants


class Settings(NamedTuple):
    """What a server is told. Nobody may send more than `most_bytes`, or see more connections."""

    name: str  # of the model
    page: bytes = b""  # at /
    attention: Optional[Callable[[list[int]], Any]] = None  # JSON of what is read from where
    api_key: str = ""
    origins: Collection[str] = ()  # that may ask beside its own
    most_bytes: int = 2**20
    most_connections: int = 256
    log: Callable[[str], None] = lambda line: None


class Server(ThreadingHTTPServer):
    """One model for many."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], run: Run, batch: Union[Batch, Replicas], settings: Settings
    ) -> None:
        self.run, self.batch, self.settings = run, batch, settings
        self.places = threading.BoundedSemaphore(settings.most_connections)
        self.answering, self.changed = 0, threading.Condition()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)
        host, port = self.server_address[:2]
        self.is_local = ipaddress.ip_address(str(host)).is_loopback
        names = {*LOOPBACK, str(host)}
        self.own_hosts = {f"{name}:{port}" for name in names} | names

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Within, somebody waits for an answer."""
        with self.changed:
            self.answering += 1
        try:
            yield
        finally:
            with self.changed:
                self.answering -= 1
                self.changed.notify_all()

    def close_batch(self, seconds: float = 5.0) -> None:
        """Tell all who wait for an answer that there is none, and wait until they know."""
        self.batch.close()
        with self.changed:
            self.changed.wait_for(lambda: not self.answering, seconds)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for it, if there is a place for one more."""
        if not self.places.acquire(blocking=False):
            with suppress(OSError):
                request.settimeout(1)
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self.places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As the standard library does, and then its place is free."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is nobody's fault; what else there is is told, in a line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.settings.log(shown(f"{type(error).__name__}: {error}", 200))


class Patient(io.RawIOBase):
    """What comes from a socket, before the deadline; then it is a timeout."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.deadline = connection, 0.0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As many bytes as are there."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("too slow")
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tiny-lm", ""

    @property
    def served(self) -> Server:
        """What it belongs to."""
        return cast(Server, self.server)

    def setup(self) -> None:
        """Read with a deadline."""
        super().setup()
        self.rfile.close()  # or it would hold the connection open
        self.patient = Patient(self.connection)
        self.rfile = io.BufferedReader(self.patient)

    def handle_one_request(self) -> None:
        """The next request, which must come as a whole before the deadline."""
        self.patient.deadline = time.monotonic() + PATIENCE
        self.has_begun = False
        try:
            super().handle_one_request()
        except (OSError, ValueError):
            self.close_connection = True

    # ------------------------------------------------------------ routes

    def _answer(self) -> None:
        with self.served.counted():
            try:
                self._reply()
            except OSError:
                self.close_connection = True  # the client has gone
            except Exception as error:
                self._send_error(_bad(error))

    def _reply(self) -> None:
        """Raises BadRequest and whatever else there may be."""
        self._check_sender()
        route = ROUTES.get(self.path.partition("?")[0])
        if route is None:
            raise BadRequest("there is nothing at this address", status=404, code="not_found")
        method, reply = route
        if self.command != "POST" and self.headers.get("Content-Length", "0") != "0":
            self.close_connection = True  # its body is no request
        if self.command != method and (self.command, method) != ("HEAD", "GET"):
            raise BadRequest(f"only {method} is answered here", status=405)
        reply(self)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _answer

    def do_OPTIONS(self) -> None:
        """May a page ask? (The preflight of a browser.)"""
        try:
            self._check_sender(is_preflight=True)
        except BadRequest as error:
            self._send_error(error)
            return
        self.send_response(204)
        self.send_header("Access-Control-Allow-Methods", "GET, POST")
        self.send_header("Access-Control-Allow-Headers", "Authorization, *")
        self._end(0)

    def _check_sender(self, is_preflight: bool = False) -> None:
        """Raises BadRequest for one that this server does not answer."""
        server, origin = self.served, self.headers.get("Origin")
        host = ",".join(self.headers.get_all("Host", [])).lower()  # two are none
        if server.is_local and host not in server.own_hosts:
            raise BadRequest(f"{shown(repr(host))} is not this server", status=403, code="host")
        own = {f"http://{name}" for name in server.own_hosts}
        if not server.is_local and is_own_name(host):
            own.add(f"http://{host}")
        if origin is not None and origin not in own | set(server.settings.origins):
            problem = f"pages of {shown(repr(origin))} may not ask; --allow-origin adds one"
            raise BadRequest(problem, status=403, code="origin")
        key, given = server.settings.api_key, self.headers.get("Authorization", "")
        is_open = self.path.partition("?")[0] in ("/", "/health")
        if key and not is_preflight and not is_open:
            right = f"Bearer {key}".encode()
            if not hmac.compare_digest(given.encode("utf-8", "replace"), right):
                raise BadRequest("the API key is missing or wrong", status=401, code="api_key")

    def _body(self) -> dict[str, Any]:
        """The JSON object that was sent. Raises BadRequest."""
        lengths, most = self.headers.get_all("Content-Length", []), self.served.settings.most_bytes
        if len(lengths) > 1 or (lengths and "Transfer-Encoding" in self.headers):
            self.close_connection = True
            raise BadRequest("there are several ways in which its length is told")
        length = lengths[0] if lengths else None
        if length is None:
            self.close_connection = True
            raise BadRequest("Content-Length is missing", status=411)
        if not (length.isascii() and length.isdigit() and len(length) < 16):
            self.close_connection = True
            raise BadRequest("Content-Length is no number of bytes")
        if int(length) > most:
            self.close_connection = True
            raise BadRequest(f"the body has {int(length)} bytes, and {most} at most", status=413)
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            self.close_connection = True
            raise BadRequest(f"the body ended after {len(content)} of {int(length)} bytes")
        try:
            return parsed_object(content.decode("utf-8"), MOST_DIGITS)
        except UnicodeDecodeError:
            raise BadRequest("the body is not UTF-8") from None
        except ValueError as error:
            raise BadRequest(f"the body is wrong: {shown(error, 200)}") from None

    def health(self) -> None:
        """It lives."""
        if not self.served.batch.is_alive:
            raise BadRequest("nothing writes any more", status=503)
        self._send({"status": "ok"})

    def models(self) -> None:
        """The one there is."""
        entry = {"id": self.served.settings.name, "object": "model", "created": 0}
        self._send({"object": "list", "data": [{**entry, "owned_by": "tiny-lm"}]})

    def page(self) -> None:
        """What people see, if there is something."""
        if not self.served.settings.page:
            raise BadRequest("there is no page here; see docs/serving.md", status=404)
        self._send_bytes(self.served.settings.page, "text/html; charset=utf-8")

    def tokenize(self) -> None:
        """A text or a conversation to ids, or to ids with the text of each."""
        body, run = self._body(), self.served.run
        tokens: list[Any] = requests.to_tokenize(body, run)
        if requests.flag(body, "with_pieces"):
            tokens = [{"id": token, "piece": piece_of(run.tokenizer, token)} for token in tokens]
        self._send({"tokens": tokens})

    def detokenize(self) -> None:
        """Ids to a text."""
        self._send({"content": self.served.run.tokenizer.decode(self._tokens())})

    def attention(self) -> None:
        """What each head reads from at each token."""
        look = self.served.settings.attention
        if not look:
            raise BadRequest("this server does not look into its model", status=404)
        tokens = self._tokens()
        if not tokens or len(tokens) > self.served.run.model.config.context_length:
            raise BadRequest("tokens must be some, and no more than the model reads", "tokens")
        self._send(self.served.batch.between_steps(lambda: look(tokens)))

    def _tokens(self) -> list[int]:
        tokens = self._body().get("tokens")
        if not isinstance(tokens, list):
            raise BadRequest("tokens must be a list of ids", "tokens")
        return requests.token_ids(tokens, self.served.run, "tokens")

    def completions(self) -> None:
        """Continue texts."""
        self._write(requests.completion(self._body(), self.served.run))

    def chat(self) -> None:
        """Answer a conversation."""
        self._write(requests.chat(self._body(), self.served.run))

    # ------------------------------------------------------------ writing

    def _write(self, asked: Asked) -> None:
        """Let the model write what is asked for, and send it."""
        server = self.served
        if len(asked.wishes) > server.batch.most:
            raise BadRequest(f"{len(asked.wishes)} texts at once, and {server.batch.most} at most")
        events: SimpleQueue[Any] = SimpleQueue()
        texts = server.batch.submit(asked.wishes, events)
        reply = Reply(asked, server.run.tokenizer, server.settings.name)
        try:
            pieces = self._pieces(reply, texts, events)
            if asked.streams:
                self._stream(reply, pieces)
            else:
                whole = [""] * len(texts)
                for number, piece in pieces:
                    whole[number] += piece
                self._send(reply.whole(whole))
        finally:
            for text in texts:
                text.cancel()

    def _pieces(
        self, reply: Reply, texts: Sequence[Union[Text, RemoteText]], events: SimpleQueue[Any]
    ) -> Iterator[tuple[int, str]]:
        """The pieces of all texts, as they come. Raises what went wrong, and ConnectionError if the
        client has gone."""
        while not reply.is_done:
            try:
                number, event = events.get(timeout=LOOK)
            except Empty:
                self._check_client()
                continue
            choice = reply.choices[number]
            if choice.finish:
                continue  # of a text that was stopped, and did not know it yet
            if isinstance(event, Exception):
                raise event
            piece = choice.take(event)
            if choice.finish:
                texts[number].cancel()  # so that its place is free when its client hears of it
            yield number, piece
            if not self.has_begun:
                self._check_client()

    def _check_client(self) -> None:
        """Raises ConnectionError if the client has gone."""
        ready, _, _ = select.select([self.connection], [], [], 0)
        if ready and not self.connection.recv(1, socket.MSG_PEEK):
            raise ConnectionError("the client has gone")

    def _stream(self, reply: Reply, pieces: Iterator[tuple[int, str]]) -> None:
        """Server-sent events, one for each piece."""
        self._begin(200, "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        try:
            for number, piece in pieces:
                for chunk in (reply.first(number), reply.chunk(number, piece)):
                    if chunk:
                        self._send_event(chunk)
        except OSError:
            raise
        except Exception as error:
            self._send_event(_error_body(_bad(error)))
        else:
            if reply.asked.with_usage:
                self._send_event(reply.last())
        self._put(DONE)

    def _send_event(self, values: dict[str, Any]) -> None:
        self._put(b"data: " + json.dumps(values).encode("ascii") + b"\n\n")

    # ------------------------------------------------------------ sending

    def _send(self, values: Any, status: int = 200) -> None:
        self._send_bytes(json.dumps(values).encode("ascii"), "application/json", status)

    def _send_bytes(self, content: bytes, kind: str, status: int = 200) -> None:
        self._begin(status, kind)
        if status == 429:
            self.send_header("Retry-After", "1")
        self._end(len(content))
        if self.command != "HEAD":
            self._put(content)

    def _begin(self, status: int, kind: str) -> None:
        self.has_begun = True
        self.request_version = self.protocol_version  # also for what was no HTTP at all
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Content-Type-Options", "nosniff")

    def _end(self, length: int) -> None:
        self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def end_headers(self) -> None:
        """With what a page of another origin needs, if it may ask."""
        origin = self.headers.get("Origin") if hasattr(self, "headers") else None
        if origin in set(self.served.settings.origins):
            self.send_header("Access-Control-Allow-Origin", origin)
            self.send_header("Vary", "Origin")
        self.connection.settimeout(PATIENCE)
        super().end_headers()

    def _put(self, content: bytes) -> None:
        self.connection.settimeout(PATIENCE)
        self.wfile.write(content)

    def _send_error(self, error: BadRequest) -> None:
        if self.has_begun:
            self.close_connection = True  # there is no taking back
            return
        with suppress(OSError):
            if error.status >= 400 and self.command == "POST":
                self.close_connection = True  # a body may still be coming
            self._send(_error_body(error), error.status)
            if self.close_connection:
                self._linger()

    def _linger(self) -> None:
        """Read what still comes, but not for long: whoever sends it would not hear the answer if
        the connection broke meanwhile."""
        self.connection.shutdown(socket.SHUT_WR)
        self.patient.deadline = time.monotonic() + LINGER
        for _ in range(MOST_UNREAD // 2**16):
            if not self.rfile.read(2**16):
                break

    def send_error(self, code: int, message: Optional[str] = None, explain: Any = None) -> None:
        """What the standard library finds wrong with a request, in the same shape."""
        self.close_connection = True
        self.has_begun = False
        with suppress(OSError):
            self._send(_error_body(BadRequest(shown(message or "bad request"), status=code)), code)

    def log_message(self, format: str, *args: Any) -> None:
        """A line, in which nothing of a request commands a terminal."""
        self.served.settings.log(shown(f"{self.address_string()} {format % args}", 200))


def is_own_name(host: str) -> bool:
    """Whether it is an address, or what this machine calls itself: a name that a stranger made
    point here (DNS rebinding) is neither."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name.strip("[]")))
    return name == socket.gethostname().lower()


def _bad(error: Exception) -> BadRequest:
    """What a client is told of an error."""
    if isinstance(error, BadRequest):
        return error
    if isinstance(error, Busy):
        return BadRequest("too many wait already; try again", status=429)
    if isinstance(error, Closed):
        return BadRequest(str(error), status=503)
    return BadRequest(f"{type(error).__name__}: {error}", status=500)


def _error_body(error: BadRequest) -> dict[str, Any]:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
             429: "rate_limit_error", 500: "server_error", 503: "server_error"}  # fmt: skip
    kind = kinds.get(error.status, "invalid_request_error")
    return {
        "error": {
            "message": error.message, "type": kind, "param": error.param, "code": error.code or None
        }
    }  # fmt: skip


ROUTES: dict[str, tuple[str, Callable[[Handler], None]]] = {
    "/": ("GET", Handler.page),
    "/health": ("GET", Handler.health),
    "/v1/models": ("GET", Handler.models),
    "/v1/completions": ("POST", Handler.completions),
    "/v1/chat/completions": ("POST", Handler.chat),
    "/tokenize": ("POST", Handler.tokenize),
    "/detokenize": ("POST", Handler.detokenize),
    "/attention": ("POST", Handler.attention),
}
