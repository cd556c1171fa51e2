"""Continuous batching: a text does not depend on its company, and nobody waits long."""

import random
from queue import SimpleQueue

import pytest
from answering import TOKENIZER
from conftest import attention, mlp, modern

from tiny_llm import ModernConfig, ModernLanguageModel, Sampling, generate
from tiny_llm.fast.packed import quantize
from tiny_llm.serve import batch as batches
from tiny_llm.serve.batch import LENGTH, STOP, Batch, Busy, Closed, Heard, Wish

VOCAB = TOKENIZER.vocab_size
WARM = Sampling(temperature=1.5)


def model(context_length=24, kind=ModernLanguageModel):
    return kind(ModernConfig(VOCAB, context_length, 8, n_heads=2, n_layers=2), seed=1)


def wish(ids, most=6, seed=0, **more):
    return Wish(ids, most, WARM, seed, **more)


def until_idle(batch, most=500):
    for _ in range(most):
        if not (batch.running or batch.waiting):
            return
        batch.step()
    raise AssertionError("it does not end")


def events_of(queue):
    """(tokens, end) of each number."""
    found = {}
    while not queue.empty():
        number, event = queue.get()
        tokens, end = found.get(number, ([], None))
        found[number] = (
            [*tokens, event] if isinstance(event, Heard) else tokens,
            end if isinstance(event, Heard) else event,
        )
    return found


def alone(one, model_, **settings):
    queue, batch = SimpleQueue(), Batch(model_, 8, 8, **settings)
    batch.submit([one], queue)
    until_idle(batch)
    return events_of(queue)[0]


WISHES = [
    wish([1, 2, 3], 9, seed=3),
    wish([4], 12, seed=4),
    wish(list(range(20)), 10, seed=5),  # its window is full, and it goes on
    wish([7, 7], 5, seed=6, likeliest=2),
    wish([5, 6, 7, 8, 9], 4, seed=7, likeliest=0, echo=True),
    wish(list(range(24)), 3, seed=8, slides=False),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["modern", "attention", "mlp"])
def test_a_text_is_the_same_alone_and_in_company(kind, packed):
    build = {"modern": model, "attention": attention, "mlp": mlp}[kind]
    one = build()
    if packed:
        quantize(one)
    size = one.config.vocab_size
    wishes = [w._replace(ids=[token % size for token in w.ids]) for w in WISHES]
    queue, batch = SimpleQueue(), Batch(one, 3, 8)
    batch.submit(wishes[:2], queue)
    batch.step()
    batch.step()
    late = SimpleQueue()
    batch.submit(wishes[2:], late)  # join while others write
    until_idle(batch)
    early, others = events_of(queue), events_of(late)
    together = [*(early[n] for n in range(2)), *(others[n] for n in range(4))]
    assert together == [alone(w, one) for w in wishes]


def test_it_is_what_generate_writes():
    one = modern()
    ids = [1, 2, 3]
    found, end = alone(Wish(ids, 30, WARM, 5), one)
    rng = random.Random(5)
    assert [heard.token for heard in found] == list(generate(one, ids, 30, rng, WARM))
    assert end == LENGTH


def test_those_who_wait_come_in_as_others_leave():
    queue, batch = SimpleQueue(), Batch(model(), 2, 8)
    batch.submit([wish([1], 3), wish([2], 9), wish([3], 3), wish([4], 3)], queue)
    batch.step()
    assert [len(batch.running), len(batch.waiting)] == [2, 2]
    for _ in range(3):
        batch.step()
    assert [len(batch.running), len(batch.waiting)] == [2, 1]
    until_idle(batch)
    assert [len(tokens) for tokens, _ in events_of(queue).values()] == [3, 9, 3, 3]


def test_a_long_prompt_holds_up_the_others_by_a_piece_at_most(monkeypatch):
    read, listen = [], batches.listen

    def counted(model_, past, piece):
        read.append(len(piece))
        return listen(model_, past, piece)

    monkeypatch.setattr(batches, "listen", counted)
    queue, batch = SimpleQueue(), Batch(model(200), 8, 8)
    batch.submit([wish([1], 30)], queue)
    batch.step()
    batch.submit([wish([2] * 150, 2), wish([3] * 100, 2)], SimpleQueue())
    for _ in range(10):
        before = queue.qsize()
        batch.step()
        assert queue.qsize() == before + 1  # one of its tokens in every step
    assert read == [3] * 10  # as many as there are texts
    for text in batch.running[:2]:
        text.cancel()
    batch.step()
    assert read[-1] == batches.PIECE  # there is nobody to hold up


def test_too_many_are_refused_and_none_of_them_waits():
    batch = Batch(model(), 2, 1)
    batch.submit([wish([1])] * 2, SimpleQueue())
    with pytest.raises(Busy):
        batch.submit([wish([1])] * 2, SimpleQueue())
    assert len(batch.waiting) == 2
    batch.submit([wish([1])], SimpleQueue())
    batch.close()
    with pytest.raises(Closed):
        batch.submit([wish([1])], SimpleQueue())


def test_a_model_of_single_lines_reads_the_last_of_them():
    lines = [0, 5, 6, 0, 7]  # 0 separates
    for ids in (lines, [0, 7], [9, 9, 0, 7]):
        assert alone(wish(ids), model(), separator=0) == alone(wish([0, 7]), model(), separator=0)
    assert alone(wish(lines), model()) != alone(wish([0, 7]), model())


def test_who_has_gone_is_not_counted():
    batch = Batch(model(), 1, 0)
    (text,) = batch.submit([wish([1])], SimpleQueue())
    text.cancel()
    batch.submit([wish([1])], SimpleQueue())


@pytest.mark.parametrize("when", ["waiting", "reading", "writing"])
def test_who_has_gone_frees_the_place_at_once_and_nobody_elses(when):
    one, queue, gone = model(200), SimpleQueue(), SimpleQueue()
    batch = Batch(one, 2, 8)
    batch.submit([wish([1, 2], 9, seed=3)], queue)
    (text,) = batch.submit([wish([4] * (100 if when == "reading" else 2), 50)], gone)
    if when != "waiting":
        batch.step()
        batch.step()
    text.cancel()
    (third,) = batch.submit([wish([5], 4)], SimpleQueue())
    batch.step()
    assert text not in batch.running and third in batch.running
    until_idle(batch)
    assert events_of(queue)[0] == alone(wish([1, 2], 9, seed=3), one)


def test_an_end_token_ends_a_text_and_says_so():
    found, _ = alone(wish([1], 9, seed=2), model())
    tokens = [heard.token for heard in found]
    cut, end = alone(wish([1], 9, seed=2, ends=frozenset({tokens[3]})), model())
    assert [heard.token for heard in cut] == tokens[: tokens.index(tokens[3]) + 1] and end == STOP
    assert [heard.ends for heard in cut][-2:] == [False, True]


def test_a_full_window_ends_a_text_that_does_not_slide():
    found, end = alone(wish(list(range(20)), 50, slides=False), model())
    assert len(found) == 24 - 20 + 1 and end == LENGTH


def test_the_prompt_is_told_with_its_log_probabilities():
    one, ids = model(), [5, 6, 7, 8, 9] * 4
    found, end = alone(Wish(ids, 0, likeliest=1, echo=True), one)
    assert [heard.token for heard in found] == ids and end == LENGTH
    assert found[0].log is None
    logits, _ = one.forward([ids])
    for row, heard in zip(logits, found[1:]):
        told = batches._heard(heard.token, row, 1)
        assert heard.log == pytest.approx(told.log, abs=1e-12)
        assert heard.likeliest[0][0] == max(range(VOCAB), key=row.__getitem__)


def test_what_goes_wrong_for_all_is_told_to_all_and_the_next_is_served(monkeypatch):
    one, queue = model(), SimpleQueue()
    batch = Batch(one, 4, 4)
    batch.submit([wish([1]), wish([2])], queue)
    batch.step()
    monkeypatch.setattr(batches, "read_on", lambda *_: 1 / 0)
    batch.step()
    assert all(isinstance(end, ZeroDivisionError) for _, end in events_of(queue).values())
    monkeypatch.undo()
    assert alone(wish([1]), one)[1] == LENGTH
    assert not batch.running


def test_numbers_that_are_not_finite_end_the_text():
    one = model()
    one.parameters["ln_f.bias"][0] = float("nan")
    assert isinstance(alone(wish([1]), one)[1], ValueError)
