"""Two processes that share a model: the same bits as one, and a helper that is gone when it should
be."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.fast import packed as module
from tiny_llm.fast.halves import Pieces
from tiny_llm.fast.kv_cache import NOTHING, Reader, listen, read_on
from tiny_llm.fast.packed import pack, quantize
from tiny_llm.fast.packed_lanes import Lanes
from tiny_llm.fast.packed_words import Words
from tiny_llm.fast.shared import shared
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.mlp_lm import MLPConfig, MLPLanguageModel
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="helpers are forked"
)


@pytest.fixture(params=[Lanes, Words], autouse=True)
def kernel(request, monkeypatch):
    monkeypatch.setattr(module, "KERNEL", request.param)
    return request.param


def llama(heads, key_heads, hidden=21, tied=True, vocabulary=33):
    config = LlamaConfig(
        vocab_size=vocabulary, context_length=12, d_model=6 * heads, n_heads=heads,
        n_kv_heads=key_heads, n_layers=2, d_hidden=hidden, tie_embeddings=tied,
    )  # fmt: skip
    return packed(LlamaLanguageModel(config, seed=1))


def gpt2(heads, tied=True):
    config = ModernConfig(
        vocab_size=23, context_length=12, d_model=4 * heads, n_heads=heads, n_layers=2,
        tie_embeddings=tied,
    )  # fmt: skip
    return packed(ModernLanguageModel(config, seed=1))


def packed(model):
    quantize(model)
    return model


MODELS = {
    "llama, 2 and 1": lambda: llama(2, 1),
    "llama, 3 and 1": lambda: llama(3, 1, tied=False),
    "llama, 4 and 2": lambda: llama(4, 2, hidden=2),
    "llama, 5 and 5": lambda: llama(5, 5),
    "llama, 9 and 3": lambda: llama(9, 3, vocabulary=70),
    "GPT-2, 2 heads": lambda: gpt2(2),
    "GPT-2, 3 heads": lambda: gpt2(3, tied=False),
}


def several_forwards(model):
    """Logits of texts that are read together, some of them longer; of one that is read in pieces;
    and of one that goes on from an old past."""
    begin = listen(model, NOTHING, [1, 2, 3, 4, 5, 6])
    logits, pasts = read_on(model, [begin, NOTHING], [[7], [8, 9]])
    more, pasts = read_on(model, pasts, [[1], [2]])
    again, _ = read_on(model, [begin], [[7, 1]])
    return logits + more + again


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_give_the_bits_of_one(name):
    model = MODELS[name]()
    contexts = [[1, 2, 3], [4]]
    plain, _ = model.forward(contexts)
    numbers = {key: list(tensor) for key, tensor in model.parameters.items()}
    with shared(model, 1):
        alone, whole = several_forwards(model), model.forward(contexts)[0]
    with shared(model, 2):
        assert several_forwards(model) == alone
        assert len(multiprocessing.active_children()) == 1
        assert model.forward(contexts)[0] == whole  # by the main process, of whole matrices
        assert {key: list(tensor) for key, tensor in model.parameters.items()} == numbers
    assert not multiprocessing.active_children()
    assert several_forwards(model) == alone
    for row, other in zip(plain, whole):  # rounded otherwise, but the same product
        assert row == pytest.approx(other, abs=0.02 * max(map(abs, row)))


def test_a_reader_whose_window_is_full_reads_its_half_anew():
    model = gpt2(2)

    def written():
        reader, window, rows = Reader(model), [1, 2, 3], []
        for token in range(12):
            rows.append(reader(window))
            window = [*window, token] if len(window) < 12 else [*window[6:], token]
        return rows

    with shared(model, 1):
        alone = written()
    with shared(model, 2):
        assert written() == alone


@pytest.mark.parametrize("outputs", [1, 8, 15, 16, 17, 100, 2048, 4099])
@pytest.mark.parametrize("middle", [0.3, 0.5])
def test_parts_of_outputs_side_by_side_make_the_whole(outputs, middle):
    rows = [[float((i * 7 + k * 31) % 255 - 127) for k in range(3)] for i in range(outputs)]
    whole = pack(rows, True).kernels[0][1]
    factors, border = [3, -2, 7], int(outputs * middle)
    borders = [(0, border), (border, outputs)]
    pieces = Pieces([whole.part(*one) for one in borders if one[0] < one[1]])
    for same in pieces, pieces.part(0, outputs):
        assert same.sums(factors) == whole.sums(factors)
        assert same.numbers() == whole.numbers()
        for output in 0, outputs // 2, outputs - 1:
            assert same.numbers_of(output) == whole.numbers_of(output)
    inner = pieces.part(border // 2, outputs)
    assert inner.sums(factors) == whole.sums(factors)[border // 2 :]


@pytest.mark.parametrize("is_table", [True, False])
def test_parts_of_inputs_add_up_to_the_whole(is_table):
    rows = [[float((i * 7 + k * 31) % 255 - 127) for k in range(19)] for i in range(19)]
    whole = pack(rows, is_table).kernels[0][1]
    factors = [k * k - 50 for k in range(19)]
    low, high = whole.part_of_inputs(0, 7), whole.part_of_inputs(7, 19)
    sums = [x + y for x, y in zip(low.sums(factors[:7]), high.sums(factors[7:]))]
    assert sums == list(whole.sums(factors))
    assert low.numbers() + high.numbers() == whole.numbers()


def together_of(model):
    return model.go_on.__self__


def test_a_helper_that_died_is_named_and_its_pasts_are_read_again():
    model = llama(3, 1)
    with shared(model, 1):
        wanted, _ = read_on(model, [listen(model, NOTHING, [1, 2, 3])], [[4]])
    with shared(model, 2):
        past = listen(model, NOTHING, [1, 2, 3])
        (helper,) = multiprocessing.active_children()
        os.kill(helper.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="by signal 9"):
            read_on(model, [past], [[4]])
        assert not multiprocessing.active_children()
        assert read_on(model, [past], [[4]])[0] == wanted


def test_an_interrupted_forward_ends_the_helper_and_the_next_one_is_right(monkeypatch):
    model = llama(3, 1)
    with shared(model, 1):
        wanted, _ = read_on(model, [listen(model, NOTHING, [1, 2, 3])], [[4]])
    with shared(model, 2):
        past = listen(model, NOTHING, [1, 2, 3])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("tiny_llm.fast.shared.Line.rows", interrupted)
            read_on(model, [past], [[4]])
        assert not multiprocessing.active_children()
        assert read_on(model, [past], [[4]])[0] == wanted


def interrupted(*_):
    raise KeyboardInterrupt


def test_what_nobody_remembers_the_helper_forgets():
    model = llama(3, 1)
    with shared(model, 2):
        past = listen(model, NOTHING, [1, 2, 3])
        number, known = past.layers.number, together_of(model).known
        longer = listen(model, past, [4])
        assert number in known
        del past
        gc.collect()
        gc.collect()  # PyPy runs finalizers behind the first
        longer = listen(model, longer, [5])
        assert number not in known
        assert longer.layers.number in known


def test_an_error_within_ends_the_helper():
    model = llama(3, 1)
    with pytest.raises(ZeroDivisionError), shared(model, 2):
        listen(model, NOTHING, [1])
        raise ZeroDivisionError
    assert not multiprocessing.active_children()
    listen(model, NOTHING, [1])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("model", "processes", "why"),
    [
        (lambda: llama(4, 2), 3, "two processes at most"),
        (lambda: llama(1, 1), 2, "one head"),
        (lambda: packed(MLPLanguageModel(MLPConfig(vocab_size=9), seed=0)), 2, "one process"),
    ],
)
def test_what_cannot_be_shared_is_refused(model, processes, why):
    with pytest.raises(ValueError, match=why), shared(model(), processes):
        pass
    with shared(model(), 1):
        pass


def test_what_is_not_packed_is_left_alone():
    model = ModernLanguageModel(ModernConfig(vocab_size=9), seed=0)
    with shared(model, 2):
        listen(model, NOTHING, [1, 2])
        assert not multiprocessing.active_children()


LONELY = """
import multiprocessing, time
from tiny_llm.fast.kv_cache import NOTHING, listen
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.shared import shared
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel
model = ModernLanguageModel(ModernConfig(vocab_size=9, n_heads=2), seed=0)
quantize(model)
with shared(model, 2):
    listen(model, NOTHING, [1, 2])
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_helper_is_gone_when_its_parent_is(name):
    parent = subprocess.Popen([sys.executable, "-c", LONELY], stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL)  # fmt: skip
    with parent:
        helper = int(parent.stdout.readline())
        parent.send_signal(getattr(signal, name))
    for _ in range(400):
        try:
            os.kill(helper, 0)
        except ProcessLookupError:
            return
        if is_zombie(helper):  # whoever is the parent of all has not looked yet
            return
        time.sleep(0.05)
    pytest.fail("the helper is still there")


def is_zombie(pid):
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rsplit(")", 1)[1].split()[0] == "Z"
    return False
