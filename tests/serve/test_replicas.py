"""Several processes that write: the texts of one, and nobody waits for one that has died."""

import threading
import time
from queue import SimpleQueue

import pytest
from answering import taught
from served import serving
from test_batch import WARM, alone, events_of, model
from test_server import TALK, said

from tiny_llm.fast.workers import WorkerDied
from tiny_llm.serve.batch import LENGTH, Busy, Closed, Wish
from tiny_llm.serve.replicas import Replicas


@pytest.fixture
def running():
    """A function: Replicas of the model with a thread that runs them."""
    threads, every = [], []

    def started(count=2, running=4, waiting=4):
        replicas = Replicas(count, model(200), running, waiting, None)
        every.append(replicas)
        threads.append(threading.Thread(target=replicas.run, daemon=True))
        threads[-1].start()
        return replicas

    yield started
    for replicas in every:
        replicas.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_texts_are_shared_out_evenly(running):
    replicas, queue = running(), SimpleQueue()
    wishes = [Wish([1 + i, 2], 6 + i, WARM, seed=i, likeliest=1, echo=True) for i in range(6)]
    replicas.submit(wishes, queue)
    assert {len(replica.open) for replica in replicas.replicas} == {3}
    ended = set()
    while len(ended) < 6:
        number, event = queue.get(timeout=30)
        ended |= {number} if event == LENGTH else set()
    assert not any(replica.open for replica in replicas.replicas)


def test_each_text_is_what_it_is_alone(running):
    replicas = running()
    for seed in range(3):
        queue, wish = SimpleQueue(), Wish([3, 4, 5], 8, WARM, seed=seed, likeliest=2)
        replicas.submit([wish], queue)
        events = []
        while not events or events[-1][1] != LENGTH:
            events.append(queue.get(timeout=30))
        for event in events:
            queue.put(event)
        assert events_of(queue)[0] == alone(wish, model(200))


def test_too_many_are_refused_and_who_has_gone_makes_room(running):
    replicas = running(running=2, waiting=0)
    texts = replicas.submit([Wish([1], 10**6, seed=0)] * 2, SimpleQueue())
    with pytest.raises(Busy):
        replicas.submit([Wish([1], 1)], SimpleQueue())
    texts[0].cancel()
    queue = SimpleQueue()
    replicas.submit([Wish([1], 1)], queue)
    while queue.get(timeout=30)[1] != LENGTH:
        pass  # its process writes it though the one before it had no end


def test_many_who_go_at_once_leave_nothing_behind(running):
    replicas = running(running=2, waiting=0)
    for _ in range(30):
        for text in replicas.submit([Wish([1] * 100, 10**6, seed=0)] * 2, SimpleQueue()):
            text.cancel()
    queue = SimpleQueue()
    replicas.submit([Wish([1], 2)] * 2, queue)
    ended = set()
    while len(ended) < 2:
        number, event = queue.get(timeout=30)
        ended |= {number} if event == LENGTH else set()


def test_who_waits_for_a_process_that_dies_is_told_and_the_other_goes_on(running):
    replicas, queue = running(), SimpleQueue()
    replicas.submit([Wish([1], 10**6, seed=0)] * 2, queue)
    dead, living = replicas.replicas
    dead.process.kill()
    while not isinstance(event := queue.get(timeout=30)[1], WorkerDied):
        pass
    assert "died" in str(event) and len(living.open) == 1
    other = SimpleQueue()
    replicas.submit([Wish([1], 2)], other)
    while other.get(timeout=30)[1] != LENGTH:
        pass
    living.process.kill()
    wait_for(lambda: not replicas.replicas)
    with pytest.raises(WorkerDied):
        replicas.submit([Wish([1], 2)], other)


def test_closed_all_who_wait_are_told(running):
    replicas, queue = running(), SimpleQueue()
    replicas.submit([Wish([1], 10**6, seed=0)] * 3, queue)
    replicas.close()
    told = set()
    while len(told) < 3:
        number, event = queue.get(timeout=30)
        told |= {number} if isinstance(event, Closed) else set()
    with pytest.raises(Closed):
        replicas.submit([Wish([1], 2)], queue)
    wait_for(lambda: not replicas.replicas)


def test_a_server_of_several_processes():
    run = taught("the cat.", context_length=64)
    with Replicas(2, run.model, 4, 8, None) as replicas, serving(run, batch=replicas) as server:
        answer = said(server, "/v1/chat/completions", {**TALK, "n": 3})
        assert {c["message"]["content"] for c in answer["choices"]} == {"the cat."}
