"""Many at once, a third of them rude, and mutated requests; benchmarks/load.py does more of it."""

import random
import sys
from types import SimpleNamespace

import pytest
from answering import taught
from served import serving

from benchmarks import load
from tiny_llm.serve import batch as batches


@pytest.mark.slow
@pytest.mark.skipif(not load.Path("/proc/self/status").exists(), reason="reads /proc")
def test_no_text_changes_no_place_is_lost_and_no_memory_is_kept(tmp_path):
    with load.served(tmp_path) as (process, address, log):
        load.Load(address, 10, 100)
        load.broken(address, 100, seed=1)
        before = load.memory(process)
        found = load.Load(address, 40, 200)
        assert found.wrong == [] and found.counts["answered"] > 100 > 0 < found.counts["cut off"]
        counts, wrong = load.broken(address, 300)
        assert wrong == [] and {"200", "400", "403", "411"} <= {*counts}
        assert load.alone(address) == found.texts and load.all_places(address)
        if sys.implementation.name == "cpython":  # PyPy goes on to compile what it runs
            assert load.memory(process) < before + 10
        assert load.errors_in(log) == []


def test_a_text_that_depends_on_others_is_noticed(monkeypatch):
    one = random.Random(0)
    shared = SimpleNamespace(Random=lambda seed: one)
    monkeypatch.setattr(batches, "random", shared)
    with serving(taught("the cat.", context_length=64), running=8, waiting=64) as server:
        found = load.Load(server.server_address[:2], 4, 40)
    assert found.wrong and "alone" in found.wrong[0]


def test_a_lost_place_is_noticed(monkeypatch):
    monkeypatch.setattr(load, "PATIENCE", 0.3)
    with serving(taught("the cat.", context_length=64), running=8, waiting=63) as server:
        assert not load.all_places(server.server_address[:2])
    with serving(taught("the cat.", context_length=64), running=8, waiting=64) as server:
        monkeypatch.setattr(load, "PATIENCE", 60)
        assert load.all_places(server.server_address[:2])
