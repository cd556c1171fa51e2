"""What is remembered gives the numbers that would be computed again, for less."""

from copy import deepcopy
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm import ModernConfig, ModernLanguageModel, Sampling, generate
from tiny_llm.fast.kv_cache import NOTHING, Reader, going_on, read_on
from tiny_llm.fast.writer import Writer
from tiny_llm.sampling import slide

VOCABULARY = 7


@st.composite
def models(draw):
    """Small ones, with numbers large enough for attention to choose."""
    heads, layers, length = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 9)),
    )
    width, tied = heads * draw(st.integers(1, 3)), draw(st.booleans())
    config = ModernConfig(VOCABULARY, length, width, heads, layers, tied)
    model, rng = ModernLanguageModel(config, seed=draw(st.integers(0, 99))), Random(0)
    for tensor in model.parameters.values():
        for row in tensor if isinstance(tensor[0], list) else [tensor]:
            row[:] = [value + rng.gauss(0, 0.5) for value in row]
    return model


@pytest.fixture
def model():
    return ModernLanguageModel(ModernConfig(VOCABULARY, 8, 12, n_heads=3, n_layers=2), seed=1)


def largest_difference(x, y):
    assert [len(row) for row in x] == [len(row) for row in y]
    return max(abs(a - b) for rows in zip(x, y) for a, b in zip(*rows))


def some_tokens(rng, n):
    return [rng.randrange(VOCABULARY) for _ in range(n)]


# ------------------------------------------------------------------------------------ the numbers


def whole_logits(model, text):
    """The logits behind the last token, everything computed."""
    return model.forward([text])[0][-1]


def remember(model, tokens):
    return read_on(model, [NOTHING], [tokens])[1][0] if tokens else NOTHING


@given(models(), st.integers(1, 4), st.integers(0, 999))
def test_logits_are_the_same_however_the_texts_are_cut(model, n_texts, seed):
    rng, length = Random(seed), model.config.context_length
    texts = [some_tokens(rng, rng.randint(1, length)) for _ in range(n_texts)]
    pasts = [NOTHING for _ in texts]
    while texts:  # each goes on by some tokens at a time, and leaves when it has no more
        starts = [len(past.tokens) for past in pasts]
        ends = [rng.randint(start + 1, len(text)) for start, text in zip(starts, texts)]
        parts = [text[start:end] for text, start, end in zip(texts, starts, ends)]
        logits, pasts = read_on(model, pasts, parts)
        assert [past.tokens for past in pasts] == [text[:end] for text, end in zip(texts, ends)]
        expected = [whole_logits(model, text[:end]) for text, end in zip(texts, ends)]
        assert largest_difference(logits, expected) <= 1e-10
        going_on = [i for i, text in enumerate(texts) if ends[i] < len(text)]
        texts, pasts = ([x[i] for i in going_on] for x in (texts, pasts))


@given(models(), st.integers(1, 3), st.integers(0, 999))
def test_logits_are_the_same_in_every_step_through_several_windows(model, n_texts, seed):
    rng, length = Random(seed), model.config.context_length
    windows = {i: some_tokens(rng, rng.randint(1, length)) for i in range(n_texts)}
    reader = Reader(model)
    for _ in range(3 * length):
        cached = reader.all(windows)
        whole = [whole_logits(model, window) for window in windows.values()]
        assert largest_difference(list(cached.values()), whole) <= 1e-10
        for i, token in enumerate(some_tokens(rng, n_texts)):
            windows[i] = slide(windows[i], token, model)


def test_another_past_gives_other_logits(model):
    pasts = [remember(model, tokens) for tokens in ([1, 2, 3], [1, 4, 3], [1, 2, 3, 3])]
    first, *others = (read_on(model, [past], [[5]])[0] for past in pasts)
    assert all(largest_difference(first, other) > 1e-3 for other in others)


def test_a_position_looks_at_what_is_remembered_as_at_what_is_there(model):
    text = [3, 1, 4, 1, 5]
    whole = model.attention(model.forward([text])[1])[0]
    _, cache = going_on(model, [remember(model, text[:3])]).forward([text[3:]])
    for layer, expected in zip(model.attention(cache)[0], whole):
        for weights, rows in zip(layer, expected):
            assert largest_difference(weights, rows[3:]) <= 1e-12


@pytest.mark.parametrize("length", [1, 2, 3, 8])
@pytest.mark.parametrize("prompt", [1, 5, 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_text_with_and_without_through_several_windows(length, prompt, seed):
    model = ModernLanguageModel(ModernConfig(VOCABULARY, length, 8, 2, 2), seed)
    start, n = some_tokens(Random(seed), prompt), 5 * length + 2
    remembered = list(generate(model, start, n, Random(seed), read=Reader(model)))
    assert remembered == list(generate(model, start, n, Random(seed)))


# --------------------------------------------------------------------------------------- the cost


@pytest.fixture
def read(monkeypatch):
    """How many tokens each forward was given."""
    sizes = []

    def counting(self, contexts):
        sizes.append(sum(map(len, contexts)))
        return forward(self, contexts)

    forward = ModernLanguageModel.forward
    monkeypatch.setattr(ModernLanguageModel, "forward", counting)
    return sizes


@pytest.mark.parametrize("length", [8, 16, 32])
def test_a_token_costs_the_same_on_average_however_long_the_window(length, read):
    n = 4 * length
    model = ModernLanguageModel(ModernConfig(VOCABULARY, length, 4, 2, 1))
    list(generate(model, [1, 2], n, Random(0), read=Reader(model)))
    assert sum(read) < 2 * n + 2  # each token goes in once, and half of them once more
    assert max(read) == length // 2 + 1
    del read[:]
    list(generate(model, [1, 2], n, Random(0)))
    assert sum(read) > n * length / 2


def test_without_a_slide_each_token_is_read_once(read):
    model = ModernLanguageModel(ModernConfig(VOCABULARY, 16, 4, 2, 1))
    list(generate(model, [1, 2, 3, 4], 10, Random(0), read=Reader(model)))
    assert read == [4] + [1] * 9


def test_a_batch_reads_its_prompt_once(read):
    model = ModernLanguageModel(ModernConfig(VOCABULARY, 16, 4, 2, 1))
    writer = Writer(model, [1, 2, 3, 4], [Random(seed) for seed in range(5)], Sampling())
    for _ in range(3):
        writer.step()
    assert read == [3, 5, 5, 5]


def test_nothing_is_kept_but_tokens_keys_and_values(model):
    past = remember(model, [1, 2, 3])
    assert past._fields == ("tokens", "layers")
    assert past.tokens == [1, 2, 3]
    assert len(past.layers) == model.config.n_layers
    for layer in past.layers:
        assert len(layer) == model.config.n_heads
        for head in layer:
            assert [(len(x), len(x[0])) for x in head] == [(3, 4), (3, 4)]


# -------------------------------------------------------------------------------- no side effects


def test_no_past_and_an_empty_one_give_the_same_bits(model):
    contexts = [[1, 2, 3], [4]]
    logits, cache = model.forward(contexts)
    assert going_on(model, [NOTHING, NOTHING]).forward(contexts) == (logits, cache)
    assert read_on(model, [NOTHING, NOTHING], contexts)[0] == [logits[2], logits[3]]


def test_a_past_stays_as_it_is_and_several_texts_can_go_on_from_it(model):
    past = remember(model, [1, 2, 3])
    before, attributes = deepcopy(past), deepcopy(vars(model))
    together, _ = read_on(model, [past, past, past], [[4], [5, 6], [4]])
    assert past == before
    assert vars(model) == attributes
    alone = [read_on(model, [past], [end])[0][0] for end in ([4], [5, 6], [4])]
    assert largest_difference(together, alone) <= 1e-10


def test_texts_with_a_past_and_without_go_in_one_batch(model):
    logits, _ = read_on(model, [remember(model, [3]), NOTHING], [[4, 5], [1, 2]])
    whole = [whole_logits(model, text) for text in ([3, 4, 5], [1, 2])]
    assert largest_difference(logits, whole) <= 1e-10


def test_a_window_that_did_not_only_grow_is_read_anew(model):
    reader = Reader(model)
    for window in ([1, 2, 3], [1, 2, 3, 4], [2, 3, 4], [2, 3, 4], [5]):
        assert largest_difference([reader(window)], [whole_logits(model, window)]) <= 1e-10


def test_every_row_of_a_text_that_goes_on_is_that_of_the_whole(model):
    past = remember(model, [3, 1])
    logits, _ = going_on(model, [past, NOTHING]).forward([[4, 1, 5], [2, 6]])
    whole, _ = model.forward([[3, 1, 4, 1, 5], [2, 6]])
    assert largest_difference(logits, whole[2:]) <= 1e-10


def test_only_rung_3_remembers(build):
    model = build()
    for asked in (True, False):
        reader = Reader(model, remember=asked)
        reader.begin([1, 2, 3], [0])
        reader([1, 2, 3])
        assert bool(reader.pasts) == (asked and isinstance(model, ModernLanguageModel))


@pytest.mark.parametrize("window", [[], [1] * 9, [VOCABULARY]])
def test_a_window_that_the_model_cannot_read_is_refused(model, window):
    for remembering in (True, False):
        with pytest.raises(ValueError, match=r"a context holds|exceed the context|outside the voc"):
            Reader(model, remembering)(window)


def test_every_rung_can_be_read(build):
    model, other = build(), build()
    remembered = list(generate(model, [1], 9, Random(0), read=Reader(model)))
    assert remembered == list(generate(other, [1], 9, Random(0)))


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("n", [0, 1, 3])
def test_each_context_needs_its_past(model, n):
    with pytest.raises(ValueError, match=f"2 contexts need as many pasts, not {n}"):
        read_on(model, [NOTHING] * n, [[1], [2]])


def test_a_past_and_what_follows_fit_in_the_window_or_are_refused(model):
    past = remember(model, [1] * 6)
    read_on(model, [past], [[1, 2]])
    with pytest.raises(ValueError, match="6 tokens of the past and 3 new ones exceed"):
        read_on(model, [past], [[1, 2, 3]])
    with pytest.raises(ValueError, match="a context holds 1 to 8 tokens, not 0"):
        read_on(model, [past], [[]])


def test_there_is_no_backward_through_a_past(model):
    continuing = going_on(model, [remember(model, [1]), NOTHING])
    logits, cache = continuing.forward([[1], [2, 3]])
    with pytest.raises(ValueError, match="has no backward; give whole contexts"):
        continuing.backward(logits, cache)
