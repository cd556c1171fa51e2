"""A server in threads of the test's own process."""

import threading
from contextlib import contextmanager

from tiny_llm.serve.batch import Batch
from tiny_llm.serve.server import Server, Settings


@contextmanager
def serving(run, running=4, waiting=8, batch=None, **settings):
    """A server in threads of this process: its port."""
    batch = batch or Batch(run.model, running, waiting)
    settings = Settings("m", **{"page": b"<p>page", **settings})
    server = Server(("127.0.0.1", 0), run, batch, settings)
    threads = [
        threading.Thread(target=loop, daemon=True) for loop in (batch.run, server.serve_forever)
    ]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.close_batch()
        server.server_close()
        threads[0].join(10)
