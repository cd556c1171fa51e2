"""What several test files share: repeatable random examples, and one tiny model of each rung."""

from contextlib import contextmanager

import pytest
from hypothesis import settings

from tiny_llm import (
    AttentionConfig,
    AttentionLanguageModel,
    MLPConfig,
    MLPLanguageModel,
    ModernConfig,
    ModernLanguageModel,
)
from tiny_llm.fast.products import WAYS

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("repeatable")


def mlp(vocab_size=5, context_length=4, seed=0):
    return MLPLanguageModel(MLPConfig(vocab_size, context_length, d_embedding=3, d_hidden=4), seed)


def attention(vocab_size=5, context_length=4, seed=0):
    return AttentionLanguageModel(
        AttentionConfig(vocab_size, context_length, d_model=4, d_hidden=6), seed
    )


def modern(vocab_size=5, context_length=4, seed=0, tied=True):
    config = ModernConfig(vocab_size, context_length, 4, n_heads=2, n_layers=2, tie_embeddings=tied)
    return ModernLanguageModel(config, seed)


def modern_untied(vocab_size=5, context_length=4, seed=0):
    return modern(vocab_size, context_length, seed, tied=False)


@pytest.fixture(params=[mlp, attention, modern, modern_untied], ids=lambda build: build.__name__)
def build(request):
    """Every rung, as build(vocab_size=5, context_length=4, seed=0) -> a tiny model."""
    return request.param


@pytest.fixture(params=[mlp, attention, modern], ids=lambda build: build.__name__)
def build_rung(request):
    """As `build`, without the untied variant, for tests that take longer."""
    return request.param


@pytest.fixture
def products(monkeypatch):
    """The name of the way that each product takes from now on, one after the other."""
    names = []

    def watched(name, multiply):
        def product(rows, columns):
            names.append(name)
            return multiply(rows, columns)

        return product

    for name, multiply in WAYS.items():
        monkeypatch.setitem(WAYS, name, watched(name, multiply))
    return names


@contextmanager
def memory_below(limit):
    """Fails if what is within it has more bytes at once, where Python can tell (PyPy cannot)."""
    try:
        import tracemalloc
    except ImportError:
        yield
        return
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


CATS = "the cat sat on the mat. the dog sat on the log. " * 4


@pytest.fixture
def text_folder(tmp_path, monkeypatch):
    """An empty folder to work in but for CATS in text.txt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(CATS, encoding="utf-8")
    return tmp_path
