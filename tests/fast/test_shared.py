"""Products by several processes: the same bits, and helpers that are gone when they should be."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import modern_untied

from tiny_llm.fast import packed as module
from tiny_llm.fast.packed import Packed, pack, quantize
from tiny_llm.fast.packed_lanes import Lanes
from tiny_llm.fast.packed_words import Words
from tiny_llm.fast.shared import Shared, Team, shared
from tiny_llm.fast.workers import WorkerDied
from tiny_llm.matmul import matmul, matmul_bt

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="helpers are forked"
)


class Holder:
    """As much of a model as is asked for."""

    def __init__(self, **parameters):
        self.parameters = parameters


def matrix(rows, columns, is_table, seed=0):
    rng = random.Random(seed)
    return pack([[rng.gauss(0, 1) for _ in range(columns)] for _ in range(rows)], is_table)


@pytest.fixture(params=[Lanes, Words], autouse=True)
def kernel(request, monkeypatch):
    monkeypatch.setattr(module, "KERNEL", request.param)
    return request.param


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_processes_gives_the_same_bits(count):
    model = Holder(
        table=matrix(2100, 33, True), layer=matrix(1600, 21, False), few=matrix(3, 5, True)
    )
    rng = random.Random(1)
    rows = {
        name: [[rng.gauss(0, 1) for _ in range(width)] for _ in range(3)]
        for name, width in (("table", 33), ("layer", 1600), ("few", 5))
    }

    def products():
        return [
            (matmul_bt if tensor.is_table else matmul)(rows[name], tensor)
            for name, tensor in model.parameters.items()
        ]

    wanted, numbers = products(), [t.numbers for t in model.parameters.values()]
    with shared(model, count):
        assert products() == wanted
        assert [t.numbers for t in model.parameters.values()] == numbers
        assert model.parameters["table"][2050] == list(model.parameters["table"])[2050]
        assert len(multiprocessing.active_children()) == count - 1
    assert not multiprocessing.active_children()
    assert products() == wanted


def test_a_whole_model_gives_the_same_logits():
    model = modern_untied(seed=2)
    quantize(model)
    wanted, _ = model.forward([[1, 2, 3], [4]])
    with shared(model, 2):
        assert model.forward([[1, 2, 3], [4]])[0] == wanted


@pytest.mark.parametrize("outputs", [1, 8, 15, 16, 17, 100, 2048, 4099])
@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_make_the_whole(outputs, count):
    whole = matrix(outputs, 3, True).kernels[0][1]
    factors = [3, -2, 7]
    halves = Shared(whole, Team(), count)
    assert [x for part in halves.parts for x in part.sums(factors)] == whole.sums(factors)
    sizes = [part.outputs for part in halves.parts]
    assert max(sizes) - min(sizes) < 16
    assert halves.numbers() == whole.numbers() == halves.whole().numbers()
    assert halves.whole().sums(factors) == whole.sums(factors)
    for output in 0, outputs // 2, outputs - 1:
        assert halves.numbers_of(output) == whole.numbers_of(output)


def test_a_helper_that_died_is_named_and_the_next_product_has_a_new_one():
    model = Holder(table=matrix(40, 5, True))
    row = [[0.5, 1.0, -2.0, 0.1, 3.0]]
    wanted = matmul_bt(row, model.parameters["table"])
    with shared(model, 2):
        assert matmul_bt(row, model.parameters["table"]) == wanted
        (helper,) = multiprocessing.active_children()
        os.kill(helper.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="by signal 9"):
            matmul_bt(row, model.parameters["table"])
        assert not multiprocessing.active_children()
        assert matmul_bt(row, model.parameters["table"]) == wanted


def test_an_error_within_ends_the_helpers_and_restores_the_model():
    model = Holder(table=matrix(40, 5, True))
    wanted = matmul_bt([[1.0] * 5], model.parameters["table"])
    with pytest.raises(ZeroDivisionError), shared(model, 2):
        matmul_bt([[1.0] * 5], model.parameters["table"])
        raise ZeroDivisionError
    assert not multiprocessing.active_children()
    assert matmul_bt([[1.0] * 5], model.parameters["table"]) == wanted
    assert not multiprocessing.active_children()


LONELY = """
import multiprocessing, os, time
from tiny_llm.fast.packed import pack
from tiny_llm.fast.shared import shared
from tiny_llm.matmul import matmul_bt
class Holder: parameters = {"table": pack([[0.5, 1.0]] * 40, True)}
with shared(Holder, 2):
    matmul_bt([[1.0, 2.0]], Holder.parameters["table"])
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


def test_what_is_not_packed_is_left_alone():
    model = Holder(gain=[1.0, 2.0], plain=[[1.0]])
    with shared(model, 2):
        assert not any(isinstance(x, Packed) for x in model.parameters.values())
    assert not multiprocessing.active_children()
