"""tiny-lm serve: one model for many, by the API that OpenAI's clients speak."""

from __future__ import annotations

import argparse
import os
import re
import threading
from contextlib import nullcontext
from functools import partial
from typing import ContextManager, NoReturn, Optional, Union

from tiny_llm.cli import options as flags
from tiny_llm.cli.generate import open_checkpoint
from tiny_llm.cli.introduce import count_parameters
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.signals import wait_for_signal
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.model import LanguageModel
from tiny_llm.run.errors import UsageError, UserError
from tiny_llm.run.saved import Run, newest_checkpoint
from tiny_llm.serve.batch import Batch
from tiny_llm.serve.replicas import Replicas
from tiny_llm.serve.server import Server, Settings
from tiny_llm.text.shown import shown
from tiny_llm.view.talk.page import Served, looked_into, page, why_no_attention
from tiny_llm.view.terminal import tell

PORT, RUNNING, WAITING = 8080, 8, 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `serve`."""
    parser.description = (
        "Serve a model until Ctrl-C, with OpenAI's API: /v1/completions, /v1/chat/completions, "
        "/v1/models, and /tokenize, /detokenize, /health, and with a page to talk to it. Those who "
        "ask at once write in one batch."
    )
    parser.set_defaults(command=run)
    flags.add_checkpoint(parser)
    flags.add_int8(parser)
    group = parser.add_argument_group("server")
    add, whole = group.add_argument, flags.whole_number
    add("--host", default="127.0.0.1", help="where it listens: this machine alone (%(default)s)")
    add("--port", type=whole(0), default=PORT, metavar="N", help="0: any (%(default)s)")
    add("--api-key", default=os.environ.get("TINY_LM_API_KEY", ""), metavar="TEXT",
        help="clients must send it ($TINY_LM_API_KEY, or none)")  # fmt: skip
    add("--allow-origin", action="append", default=[], metavar="URL", help="whose pages may ask")
    add("--running", type=whole(1), default=RUNNING, metavar="N",
        help="texts that are written at once (%(default)s)")  # fmt: skip
    add("--waiting", type=whole(0), default=WAITING, metavar="M",
        help="texts that may wait; others are told to try again (%(default)s)")  # fmt: skip
    add("--workers", type=whole(1), default=1, metavar="N",
        help="processes that write, each with the whole model (%(default)s)")  # fmt: skip
    add("--most-bytes", type=whole(1), default=2**20, metavar="N",
        help="of a request (%(default)s)")  # fmt: skip
    flags.add_display(parser, attention=False)


def run(args: argparse.Namespace) -> NoReturn:
    """Serve until a signal ends it. Raises Stopped then."""
    _check(args)
    args.checkpoint = flags.checkpoint_of(args) or newest_checkpoint()
    current = open_checkpoint(args)
    if args.int8:
        quantize(current.model)
    separator = current.tokenizer.encode("\n")[0] if current.options.lines else None
    with (
        _batch(args, current.model, separator) as batch,
        _server(args, current, batch, separator) as server,
    ):
        threads = [threading.Thread(target=t) for t in (batch.run, server.serve_forever)]
        for thread in threads:
            thread.daemon = True
            thread.start()
        host, port = str(server.server_address[0]), server.server_address[1]
        where = f"[{host}]" if ":" in host else host
        tell(f"serving {args.checkpoint} at http://{shown(where)}:{port}; Ctrl-C ends")
        if not server.is_local:
            key = "" if args.api_key else ", and without --api-key anybody there may use it"
            tell(f"warning: other machines can reach it{key}")
        try:
            wait_for_signal()
        finally:
            server.shutdown()
            server.close_batch()
            threads[0].join(10)


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError for what could never work."""
    if not re.fullmatch(r"[!-~]*", args.api_key):
        raise UsageError("--api-key must be of ASCII characters, without spaces")
    for origin in args.allow_origin:
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise UsageError(
                f"--allow-origin {shown(origin)} is no origin; http://HOST:PORT is one"
            )
    if args.workers > args.running:
        raise UsageError(f"--workers {args.workers} cannot share --running {args.running} texts")


def _batch(
    args: argparse.Namespace, model: LanguageModel, separator: Optional[int]
) -> ContextManager[Union[Batch, Replicas]]:
    """What writes. Raises UserError if its processes cannot be started."""
    if args.workers == 1:
        return nullcontext(Batch(model, args.running, args.waiting, separator))
    try:
        return Replicas(args.workers, model, args.running, args.waiting, separator)
    except WorkerDied as error:
        raise UserError(f"{error}; try fewer --workers") from None


def _server(
    args: argparse.Namespace,
    current: Run,
    batch: Union[Batch, Replicas],
    separator: Optional[int],
) -> Server:
    """Raises UserError where it cannot listen."""
    model, numbers = current.model, count_parameters(current)
    why_not = why_no_attention(model, numbers)
    served = Served(
        args.checkpoint.name,
        f"{current.rung}, {numbers:,} parameters; it reads {model.config.context_length} "
        "tokens at most.",
        model.config.context_length,
        bool(current.chat.template),
        bool(args.api_key),
        current.chat.ends,
        why_not,
    )
    settings = Settings(
        served.name,
        page(served).encode("utf-8"),
        None if why_not else partial(looked_into, model, current.tokenizer, separator),
        args.api_key,
        args.allow_origin,
        args.most_bytes,
        log=(lambda line: None) if args.quiet else tell,
    )
    try:
        return Server((args.host, args.port), current, batch, settings)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen at {args.host}:{args.port}: {reason}") from None
