"""A little of the campaign of damage, and that it notices what it looks for."""

import sys
import time

import pytest

pytest.importorskip("resource")  # what takes too much memory is only noticed where this is

from benchmarks import damage

CASES = 40
NAMES = ["checkpoint", "int8", "metrics", "tokenizer", "tokens", "recipe", "text", "gguf", "hf"]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TINY_LM_MATMUL", raising=False)
        for name, value in {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "80"}.items():
            patch.setenv(name, value)
        yield damage.Campaign(tmp_path_factory.mktemp("damage"))


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_do_no_harm(campaign, name, monkeypatch):
    monkeypatch.setattr(damage, "SECONDS", 60.0)  # a test does not depend on how fast a machine is
    counts, problems, _ = damage.run_all(campaign, name, range(CASES))
    assert problems == []
    assert counts["accepted"] and counts["refused"]


def test_no_kind_is_left_out(campaign):
    assert list(campaign.kinds) == NAMES


def test_damage_is_damage_and_comes_again(campaign):
    for name, kind in campaign.kinds.items():
        files = kind.examples[0]
        for make in (
            lambda rng, files=files: damage.by_accident(next(iter(files.values())), rng),
            lambda rng, files=files, kind=kind: kind.by_malice(files, rng),
        ):
            seeds = [make(damage.random.Random(seed)) for seed in range(20)]
            assert seeds == [make(damage.random.Random(seed)) for seed in range(20)], name
            assert len({str(made) for made in seeds}) > 10, name


def raising(error):
    def main(words):
        raise error

    return main


def printing(text, code=0, stream="stderr"):
    def main(words):
        print(text, file=getattr(sys, stream))
        return code

    return main


def hanging(words):
    began = time.process_time()
    while time.process_time() - began < 30:
        pass
    return 0


def greedy(words):
    return len(bytes(10**9)) * 0


@pytest.mark.parametrize("main, problem", [
    (raising(RuntimeError("x")), "RuntimeError goes through main"),
    (printing("a\x9bb"), "prints '\\x9b'"),
    (printing("a\u202eb", stream="stdout"), "prints '\\u202e'"),
    (printing("Traceback (most recent call last):"), "Traceback"),
    (printing("tiny-lm: error: x; this is a fault of tiny-lm", 1), "fault of tiny-lm"),
    (printing("nothing"), ""),
    (printing("nothing", 1), "exit code 1 and 0 errors"),
    (printing("tiny-lm: error: x", 0), "exit code 0 and 1 errors"),
    (printing("tiny-lm: error: x\ntiny-lm: error: y", 1), "exit code 1 and 2 errors"),
    (printing("x" * 3000), "a line of 3000 characters"),
    (hanging, "takes longer than 0.2 s"),
])  # fmt: skip
def test_the_campaign_notices(main, problem, monkeypatch):
    monkeypatch.setattr(damage, "main", main)
    monkeypatch.setattr(damage, "SECONDS", 0.2 if main is hanging else 60.0)
    found = damage.watched([], 0).problem
    assert problem in found if problem else not found


@pytest.mark.skipif(
    sys.platform != "linux" or sys.implementation.name != "cpython",
    reason="nobody knows how much memory is in use, or a collector dies where it gets none",
)
def test_the_campaign_notices_what_takes_too_much_memory(monkeypatch):
    monkeypatch.setattr(damage, "main", greedy)
    assert damage.watched([], 0).problem.startswith("MemoryError goes through main")


def test_the_campaign_notices_what_changes_a_file(campaign, monkeypatch):
    def main(words):
        path = campaign.here / "r.txt"
        path.write_bytes(path.read_bytes() + b"#")
        return 0

    monkeypatch.setattr(damage, "main", main)
    assert campaign.case("recipe", 0).problem.endswith("r.txt was changed")


def test_the_campaign_notices_damage_that_goes_unnoticed(campaign, monkeypatch):
    monkeypatch.setattr(damage, "main", lambda words: 0)
    kind = campaign.kinds["recipe"]._replace(is_same=lambda old, new: False)
    monkeypatch.setitem(campaign.kinds, "recipe", kind)
    problems = [campaign.case("recipe", number).problem for number in range(10)]
    assert any(problem.endswith("damage went unnoticed") for problem in problems)
