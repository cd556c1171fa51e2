"""A pytest plugin for Python in a browser, which has no processes, threads or sockets: a test that
asks for one is skipped there, with what it asked for as the reason.

    node benchmarks/pyodide.mjs PYODIDE -m pytest -p wasm
"""

import socket
from pathlib import Path

import pytest

# What is about processes, the server, the machine's files, or the command as a process.
ELSEWHERE = [
    "cli", "docs", "serve", "fast/test_workers.py", "fast/test_pool.py", "fast/test_shared.py",
    "files/test_atomic.py", "files/test_documents.py", "files/test_token_file.py",
    "run/test_resume.py", "test_packaging.py", "test_try_it.py",
]  # fmt: skip
NOT_HERE = {  # tests by name, and what they need
    "test_a_device_is_never_replaced": "devices",
    "test_no_pipe_and_no_device_is_read": "pipes and devices",
    "test_workers_may_change_in_a_resumed_run": "processes",
    "test_a_batch_of_a_text_that_no_memory_could_hold": "64 bits",
}
MISSING = (
    "emscripten does not support processes",
    "emscripten does not support sockets",
    "can't start new thread",
    "No module named '_multiprocessing'",
    "This platform lacks a functioning sem_open implementation",
)


def pytest_ignore_collect(collection_path):
    here = Path(__file__).parent
    if collection_path in [here / name for name in ELSEWHERE]:
        return True
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        needed = NOT_HERE.get(item.originalname)
        if needed:
            item.add_marker(pytest.mark.skip(reason=f"no {needed} in a browser"))


def no_socket(*_, **__):
    raise OSError("emscripten does not support sockets")


socket.socket.bind = socket.socket.connect = no_socket


def skip_if_missing(error):
    """Raises Skipped if this error, or one behind it, says that a browser has no such thing."""
    while error is not None:
        for missing in MISSING:
            if missing in str(error):
                pytest.skip(missing)
        error = error.__cause__ or error.__context__


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    try:
        return (yield)
    except Exception as error:
        skip_if_missing(error)
        raise


pytest_runtest_call = pytest_runtest_setup
