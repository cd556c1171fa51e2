"""A pytest plugin for Python in a browser, which has no processes, threads or sockets: a test that
asks for one is skipped there, with what it asked for as the reason.

    node benchmarks/pyodide.mjs PYODIDE -m pytest -p wasm
"""

import socket

import pytest

MISSING = (
    "emscripten does not support processes",
    "emscripten does not support sockets",
    "can't start new thread",
    "No module named '_multiprocessing'",
    "This platform lacks a functioning sem_open implementation",
)


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except Exception as error:
        skip_if_missing(error)
        raise
