"""Several processes compute what one does, and none of them outlives the run, however it ends."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from copy import deepcopy
from pathlib import Path

import pytest
from pytest import approx

from tiny_llm import SGD, Batches, Examples, Windows, train
from tiny_llm.cli import main
from tiny_llm.fast import workers
from tiny_llm.fast.products import use
from tiny_llm.fast.signals import Stopped, on_signals, stop
from tiny_llm.fast.workers import WorkerDied, Workers, cores, default_count, shares
from tiny_llm.files import checkpoint
from tiny_llm.mlp_lm import MLPConfig, MLPLanguageModel
from tiny_llm.model import rows_of
from tiny_llm.run import begin
from tiny_llm.run.sources import read_source
from tiny_llm.training import Diverged, loss_and_gradients

ROOT = Path(__file__).parents[2]
METHODS = [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]
CONTEXTS = [[0, 1, 2, 3], [4], [1, 1], [2, 0, 4, 4], [3, 2, 1], [0, 4, 0, 4], [2]]
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    assert multiprocessing.active_children() == []


def targets_for(model, contexts):
    count = sum(map(len, contexts)) if model.predicts_every_token else len(contexts)
    return [(3 * i) % 5 for i in range(count)]


def assert_close(ours, reference):
    """To 1e-12, or 1e-12 of the largest: some, such as a key's bias, are nothing but rounding."""
    assert ours.keys() == reference.keys()
    vectors = [row for tensor in reference.values() for row in rows_of(tensor)]
    largest = max(abs(value) for row in vectors for value in row)
    for name, tensor in reference.items():
        for row, expected in zip(rows_of(ours[name]), rows_of(tensor)):
            assert row == approx(expected, rel=1e-12, abs=1e-12 * largest)


# ---------------------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_one_process(build, method):
    model = build()
    for count in (2, 3):
        with Workers(model, count, start_method=method) as workers:
            for size in (len(CONTEXTS), 1, 2, 3):  # uneven shares, and fewer contexts than workers
                contexts = CONTEXTS[:size]
                targets = targets_for(model, contexts)
                loss, gradients = workers.gradients(contexts, targets)
                expected_loss, expected = loss_and_gradients(model, contexts, targets)
                assert loss == approx(expected_loss, rel=1e-12)
                assert_close(gradients, expected)
                for tensor in model.parameters.values():  # the next round sees other weights
                    for row in rows_of(tensor):
                        row[:] = [0.9 * value for value in row]


@pytest.mark.parametrize("way", ["loops", "lanes"])
def test_every_process_multiplies_in_the_way_that_was_asked_for(build, way):
    """To the last bit, so that neither share can have gone another way."""
    model = build()
    targets = targets_for(model, CONTEXTS)
    with Workers(model, 2, way) as workers:
        loss, gradients = workers.gradients(CONTEXTS, targets)
    with use(way):
        parts = [
            (loss_and_gradients(model, part.contexts, part.targets), part.weight)
            for part in shares(CONTEXTS, targets, model.predicts_every_token, 2)
        ]
    (first, weight), (second, other) = parts
    assert loss == weight * first[0] + other * second[0]
    for name, tensor in gradients.items():
        for row, a, b in zip(rows_of(tensor), rows_of(first[1][name]), rows_of(second[1][name])):
            assert row == [weight * x + other * y for x, y in zip(a, b)]


def test_one_worker_is_no_process_and_the_very_same_numbers(build):
    model = build()
    targets = targets_for(model, CONTEXTS)
    with Workers(model, 1) as workers:
        assert multiprocessing.active_children() == []
        assert workers.gradients(CONTEXTS, targets) == loss_and_gradients(model, CONTEXTS, targets)


@pytest.mark.parametrize("count", range(1, 10))
@pytest.mark.parametrize("every_token", [False, True])
def test_shares_are_the_batch_in_order(count, every_token):
    sizes = [len(context) if every_token else 1 for context in CONTEXTS]
    targets = list(range(sum(sizes)))
    parts = shares(CONTEXTS, targets, every_token, count)
    assert len(parts) == min(count, len(CONTEXTS))
    assert [context for part in parts for context in part.contexts] == CONTEXTS
    assert [target for part in parts for target in part.targets] == targets
    lengths = [len(part.contexts) for part in parts]
    assert min(lengths) >= 1 and max(lengths) - min(lengths) <= 1
    assert [part.weight for part in parts] == [len(part.targets) / len(targets) for part in parts]


@pytest.mark.parametrize("targets", [[], [1], [1, 2, 3]])
def test_a_wrong_number_of_targets_is_refused(targets):
    with pytest.raises(ValueError, match=f"ask for 2 targets, not {len(targets)}"):
        shares([[1], [2]], targets, False, 2)


def test_a_loss_that_is_not_finite_has_no_gradient_and_ends_training(build_rung):
    model = build_rung()
    for tensor in model.parameters.values():
        for row in rows_of(tensor):
            row[:] = [math.nan] * len(row)
    examples = (Windows if model.predicts_every_token else Examples)([0, 1, 2, 3, 4] * 4, 4)
    batches = Batches(examples, 4)
    with Workers(model, 2) as workers:
        loss, gradients = workers.gradients(CONTEXTS, targets_for(model, CONTEXTS))
        assert math.isnan(loss) and gradients == {}
        with pytest.raises(Diverged, match="step 1 has a loss of nan"):
            next(
                train(model, SGD(), lambda step: workers.gradients(*batches.batch(step)), 1, float)
            )


# ------------------------------------------------------------------------------ what can go wrong


@pytest.fixture
def model():
    return MLPLanguageModel(MLPConfig(5, 4, d_embedding=3, d_hidden=4))


@posix
@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_was_killed_is_noticed(model, method):
    targets = targets_for(model, CONTEXTS)
    with Workers(model, 3, start_method=method) as workers:
        workers.gradients(CONTEXTS, targets)
        os.kill(workers.workers[1].process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"^a worker process died \(by signal 9\)$"):
            workers.gradients(CONTEXTS, targets)
        assert multiprocessing.active_children() == []
        with pytest.raises(WorkerDied, match="were closed"):
            workers.gradients(CONTEXTS, targets)


def test_what_goes_wrong_in_a_worker_is_told(model):
    contexts = [*CONTEXTS[:-1], [99]]
    with Workers(model, 2) as workers, pytest.raises(WorkerDied) as died:
        workers.gradients(contexts, targets_for(model, contexts))
    message = "ValueError: token id 99 is outside the vocabulary of 5 tokens"
    assert str(died.value) == f"a worker process failed ({message})"


def test_what_goes_wrong_in_the_main_process_is_raised_as_ever(model):
    contexts = [[99], *CONTEXTS]
    with Workers(model, 2) as workers:
        with pytest.raises(ValueError, match=r"^token id 99 is outside"):
            workers.gradients(contexts, targets_for(model, contexts))
        with pytest.raises(WorkerDied, match="were closed"):
            workers.gradients(CONTEXTS, targets_for(model, CONTEXTS))


def test_a_worker_that_cannot_start_leaves_none_behind(model, monkeypatch):
    start, started = Workers._start, []

    def second_fails(self, context):
        if started:
            raise OSError("no more processes")
        started.append(start(self, context))
        return started[0]

    monkeypatch.setattr(Workers, "_start", second_fails)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="no more processes"):
        Workers(model, 3)
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGINT) is on_ctrl_c


def test_parameters_of_another_size_are_refused_before_they_overwrite_memory(model):
    with Workers(model, 2) as workers:
        model.parameters["output.bias"] = deepcopy(model.parameters["output.bias"]) * 2
        with pytest.raises(ValueError, match="there is room for"):
            workers.gradients(CONTEXTS, targets_for(model, CONTEXTS))


# ------------------------------------------------------------------------------- the command line

TEXT = "the cat sat on the mat. the dog sat on the log. " * 8
SIZES = {
    "mlp": ["--context-length", "4", "--d-embedding", "3", "--d-hidden", "6"],
    "attention": ["--context-length", "4", "--d-model", "6"],
    "modern": ["--context-length", "4", "--d-model", "4", "--n-heads", "2", "--n-layers", "2"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def command(rung, *flags, steps=12, workers=2):
    return ["train", "--model", rung, "--data", "text.txt", "--steps", str(steps), "-n", "1",
            "--batch-size", "5", "--workers", str(workers), *SIZES[rung], *flags]  # fmt: skip


def resume(*flags):
    return ["train", "--resume", "stopped", "--data", "text.txt", "-n", "1", *flags]


def bytes_of(path):
    return Path(path).read_bytes()


@pytest.mark.parametrize("rung", SIZES)
def test_the_same_number_of_workers_gives_the_same_bytes(folder, rung, capsys):
    assert main(command(rung, "--out", "a")) == 0
    assert main(command(rung, "--out", "b")) == 0
    assert "2 workers" in capsys.readouterr().err
    assert main(command(rung, "--out", "stopped", "--stop-after", "5")) == 0
    assert main(resume()) == 0
    assert bytes_of("a") == bytes_of("b") == bytes_of("stopped")
    assert checkpoint.load(Path("a")).metadata["training"]["workers"] == 2


def test_another_number_of_workers_in_a_resumed_run_is_said_to_change_the_last_bits(folder, capsys):
    main(command("mlp", "--out", "stopped", "--stop-after", "5"))
    capsys.readouterr()
    assert main(resume("--workers", "3", "--stop-after", "7")) == 0
    assert "3 instead of 2: the last bits" in " ".join(capsys.readouterr().err.split())
    assert main(resume()) == 0
    assert "last bits" not in capsys.readouterr().err
    assert checkpoint.load(Path("stopped")).metadata["training"]["workers"] == 3


def test_a_resumed_run_starts_no_more_workers_than_the_machine_can_use(folder, monkeypatch):
    main(command("mlp", "--out", "stopped", "--stop-after", "5"))
    tensors, metadata = checkpoint.load(Path("stopped"))
    metadata["training"]["workers"] = 400
    checkpoint.save(Path("stopped"), tensors, metadata)
    monkeypatch.setattr(begin, "cores", lambda: 2)
    run, _ = begin.resume(Path("stopped"), read_source("text.txt"))
    assert run.options.workers == begin.MOST_IDLE


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(number, capsys):
    assert main(["train", "--workers", number]) == 2
    assert "--workers" in capsys.readouterr().err


@posix
def test_a_worker_that_dies_ends_the_run_with_one_line(folder, monkeypatch, capsys):
    calls, gradients = [], Workers.gradients

    def dying(self, *batch):
        calls.append(batch)
        if len(calls) == 8:
            os.kill(self.workers[0].process.pid, signal.SIGKILL)
        return gradients(self, *batch)

    monkeypatch.setattr(Workers, "gradients", dying)
    flags = ["--out", "stopped", "--save-every", "3"]
    assert main(command("modern", *flags, "--quiet")) == 1
    assert capsys.readouterr().err == (
        "tiny-lm: error: a worker process died (by signal 9); stopped holds step 6\n"
    )
    assert multiprocessing.active_children() == []
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(resume()) == 0
    assert main(command("modern", "--out", "whole")) == 0
    assert bytes_of("stopped") == bytes_of("whole")


def test_the_default_is_one_worker_for_little_work_and_every_core_for_much(model, monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 4)
    numbers = sum(len(row) for tensor in model.parameters.values() for row in rows_of(tensor))
    assert default_count(model, 16) == 1
    enough = math.ceil(workers.PAYS / (3 * numbers))
    assert default_count(model, enough - 1) == 1
    assert default_count(model, enough) == 4
    monkeypatch.setattr(workers, "PAYS", 1)
    assert default_count(model, 3) == 3  # no more than there are contexts
    assert default_count(model, 1) == 1


def test_the_built_in_text_is_little_work_for_every_rung(tmp_path, monkeypatch):
    """So that the figures in README.md do not depend on the number of cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "cores", lambda: 4)
    for rung in SIZES:
        assert main(["train", "--model", rung, "--stop-after", "1", "--quiet", "-o", rung]) == 0
        assert checkpoint.load(Path(rung)).metadata["training"]["workers"] == 1


def test_there_is_a_core():
    assert 1 <= cores() <= os.cpu_count()


# ------------------------------------------------------------------- processes of other processes

AS_COMMAND = "import sys; from tiny_llm.cli import main; sys.exit(main(sys.argv[1:]))"
AS_MODULE = "import runpy; runpy.run_module('tiny_llm', run_name='__main__', alter_sys=True)"
AS_SCRIPT = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def start(method, words, how=AS_COMMAND):
    """A command in a session of its own, as in a terminal, with workers of that start method."""
    setup = f"import multiprocessing; multiprocessing.set_start_method({method!r}); "
    return subprocess.Popen(
        [sys.executable, "-c", setup + how, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def begun(process):
    """Wait until the first step is done. Standard error up to there."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith("first loss"):
            break
    return "".join(seen)


def rest(process):
    """Standard error up to its end, which it reaches when no process holds it any more."""
    return process.communicate(timeout=20)[1]


@posix
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_saves_and_leaves_no_process(folder, method):
    process = start(method, command("modern", "--out", "stopped", steps=100_000, workers=3))
    begun(process)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to every process
    err = rest(process)
    assert process.returncode == 130, err
    assert "train --resume stopped --data text.txt" in err
    assert "Traceback" not in err
    step = checkpoint.load(Path("stopped")).metadata["step"]
    assert step > 0
    assert main(resume("--stop-after", str(step + 3))) == 0
    assert main(command("modern", "--out", "whole", "--stop-after", str(step + 3), steps=100_000,
                        workers=3)) == 0  # fmt: skip
    assert bytes_of("stopped") == bytes_of("whole")


@posix
@pytest.mark.parametrize("method", METHODS)
def test_a_second_ctrl_c_leaves_no_process_either(folder, method):
    sizes = ["--context-length", "32", "--d-model", "32", "--batch-size", "24"]
    process = start(method, command("modern", *sizes, steps=100_000, workers=3))
    begun(process)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.03)
    err = rest(process)
    assert process.returncode in (130, -signal.SIGINT), err  # the latter if it was about to end


@posix
@pytest.mark.parametrize("method", METHODS)
def test_a_main_process_that_is_killed_leaves_no_worker(folder, method):
    process = start(method, command("modern", steps=100_000, workers=3))
    begun(process)
    process.kill()
    rest(process)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("how", "words"),
    [
        (AS_COMMAND, command("mlp")),
        (AS_MODULE, command("mlp")),
        (AS_SCRIPT, [str(ROOT / "scripts" / "tiny_lm.py"), *command("mlp")[3:]]),
    ],
    ids=["-c", "-m tiny_llm", "scripts/tiny_lm.py"],
)
def test_it_works_however_it_is_started(folder, method, how, words):
    process = start(method, [*words, "--out", "a"], how)
    err = rest(process)
    assert process.returncode == 0, err
    assert main(command("mlp", "--out", "b")) == 0
    assert bytes_of("a") == bytes_of("b")


FORGOTTEN = """
from tiny_llm import MLPConfig, MLPLanguageModel
from tiny_llm.fast.workers import Workers
group = Workers(MLPLanguageModel(MLPConfig(5, 4)), 3)
"""


@posix
def test_workers_that_nobody_closed_end_with_the_main_process():
    """They ignore SIGTERM, by which Python asks its daemons to end before it waits for them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", FORGOTTEN], env=environment, timeout=60, check=True)


@posix
@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="no signal comes here"
)
def test_a_signal_while_workers_are_closed_waits_until_they_are_gone():
    with on_signals(stop):
        group = Workers(MLPLanguageModel(MLPConfig(5, 4)), 3)
        processes = [worker.process for worker in group.workers]
        kill = processes[0].kill
        processes[0].kill = lambda: (signal.raise_signal(signal.SIGTERM), kill())
        with pytest.raises(Stopped):
            group.close()
    assert group.workers == []
    assert not any(process.is_alive() for process in processes)
