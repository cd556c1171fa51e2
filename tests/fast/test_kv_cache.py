"""What is remembered gives the numbers that would be computed again, for less."""

from copy import deepcopy
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_llm import ModernConfig, ModernLanguageModel, generate, generate_batch
from tiny_llm.fast.kv_cache import Remembering, remember, seen
from tiny_llm.layers import multi_head_attention, multi_head_attention_backward, split_rows
from tiny_llm.sampling import Sample, next_logits, slide

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


@given(models(), st.integers(1, 4), st.integers(0, 999))
def test_logits_are_the_same_however_the_texts_are_cut(model, n_texts, seed):
    rng, length = Random(seed), model.config.context_length
    texts = [some_tokens(rng, rng.randint(1, length)) for _ in range(n_texts)]
    whole = split_rows(model.forward(texts)[0], [len(text) for text in texts])
    pasts = [[] for _ in texts]
    while texts:  # each goes on by some tokens at a time, and leaves when it has no more
        starts = list(map(seen, pasts))
        ends = [rng.randint(start + 1, len(text)) for start, text in zip(starts, texts)]
        parts = [text[start:end] for text, start, end in zip(texts, starts, ends)]
        logits, cache = model.forward(parts, past=pasts)
        pasts = model.past(cache)
        assert list(map(seen, pasts)) == ends
        expected = [rows[start:end] for rows, start, end in zip(whole, starts, ends)]
        assert largest_difference(logits, [row for rows in expected for row in rows]) <= 1e-10
        going_on = [i for i, text in enumerate(texts) if ends[i] < len(text)]
        texts, whole, pasts = ([x[i] for i in going_on] for x in (texts, whole, pasts))


@given(models(), st.integers(1, 3), st.integers(0, 999))
def test_logits_are_the_same_in_every_step_through_several_windows(model, n_texts, seed):
    rng, length = Random(seed), model.config.context_length
    windows = [some_tokens(rng, rng.randint(1, length)) for _ in range(n_texts)]
    remembering = [Sample(window, rng) for window in windows]
    for _ in range(3 * length):
        cached = next_logits(model, remembering)
        whole = next_logits(model, [Sample(s.window, rng) for s in remembering], use_cache=False)
        assert largest_difference(cached, whole) <= 1e-10
        for sample, token in zip(remembering, some_tokens(rng, n_texts)):
            longer = slide(sample.window, token, model)
            if len(longer) <= len(sample.window):
                sample.past = []
            sample.window = longer


def test_another_past_gives_other_logits(model):
    pasts = [remember(model, tokens) for tokens in ([1, 2, 3], [1, 4, 3], [1, 2, 3, 3])]
    first, *others = (model.forward([[5]], past=[past])[0] for past in pasts)
    assert all(largest_difference(first, other) > 1e-3 for other in others)


def test_a_position_looks_at_what_is_remembered_as_at_what_is_there(model):
    text = [3, 1, 4, 1, 5]
    whole = model.attention(model.forward([text])[1])[0]
    _, cache = model.forward([text[3:]], past=[remember(model, text[:3])])
    for layer, expected in zip(model.attention(cache)[0], whole):
        for weights, rows in zip(layer, expected):
            assert largest_difference(weights, rows[3:]) <= 1e-12


@pytest.mark.parametrize("length", [1, 2, 3, 8])
@pytest.mark.parametrize("prompt", [1, 5, 20])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_text_with_and_without_through_several_windows(length, prompt, seed):
    model = ModernLanguageModel(ModernConfig(VOCABULARY, length, 8, 2, 2), seed)
    start = some_tokens(Random(seed), prompt)
    texts = [
        list(generate(model, start, 5 * length + 2, Random(seed), use_cache=use_cache))
        for use_cache in (True, False)
    ]
    assert texts[0] == texts[1]


# --------------------------------------------------------------------------------------- the cost


class Counting(ModernLanguageModel):
    """Remembers how many tokens each forward was given."""

    def forward(self, contexts, dropout_rng=None, past=None):
        self.read = [*getattr(self, "read", []), sum(map(len, contexts))]
        return super().forward(contexts, dropout_rng, past)


@pytest.mark.parametrize("length", [8, 16, 32])
def test_a_token_costs_the_same_on_average_however_long_the_window(length):
    n = 4 * length
    model = Counting(ModernConfig(VOCABULARY, length, 4, 2, 1))
    list(generate(model, [1, 2], n, Random(0)))
    assert sum(model.read) < 2 * n + 2  # each token goes in once, and half of them once more
    assert max(model.read) == length // 2
    model.read = []
    list(generate(model, [1, 2], n, Random(0), use_cache=False))
    assert sum(model.read) > n * length / 2


def test_without_a_slide_each_token_is_read_once():
    model = Counting(ModernConfig(VOCABULARY, 16, 4, 2, 1))
    list(generate(model, [1, 2, 3, 4], 10, Random(0)))
    assert model.read == [3] + [1] * 10


def test_a_batch_reads_its_prompt_once():
    model = Counting(ModernConfig(VOCABULARY, 16, 4, 2, 1))
    list(generate_batch(model, [1, 2, 3, 4], 3, [Random(seed) for seed in range(5)]))
    assert model.read == [3, 5, 5, 5]


def test_nothing_is_kept_but_keys_and_values(model):
    past = remember(model, [1, 2, 3])
    assert len(past) == model.config.n_layers
    for layer in past:
        assert len(layer) == model.config.n_heads
        for head in layer:
            assert [(len(x), len(x[0])) for x in head] == [(3, 4), (3, 4)]
            assert head._fields == ("keys", "values")


# -------------------------------------------------------------------------------- no side effects


def test_no_past_and_an_empty_one_give_the_same_bits(model):
    contexts = [[1, 2, 3], [4]]
    assert model.forward(contexts) == model.forward(contexts, past=[[], []])


def test_a_past_stays_as_it_is_and_several_texts_can_go_on_from_it(model):
    past = remember(model, [1, 2, 3])
    before, attributes = deepcopy(past), deepcopy(vars(model))
    together, _ = model.forward([[4], [5, 6], [4]], past=[past, past, past])
    assert past == before
    assert vars(model) == attributes
    alone = [row for end in ([4], [5, 6], [4]) for row in model.forward([end], past=[past])[0]]
    assert largest_difference(together, alone) <= 1e-10


def test_texts_with_a_past_and_without_go_in_one_batch(model):
    logits, _ = model.forward([[4, 5], [1, 2]], past=[remember(model, [3]), []])
    whole, _ = model.forward([[3, 4, 5], [1, 2]])
    assert largest_difference(logits, whole[1:]) <= 1e-10


def test_only_rung_3_remembers(build):
    model = build()
    assert isinstance(model, Remembering) == isinstance(model, ModernLanguageModel)


def test_nothing_read_is_nothing_remembered(model):
    assert remember(model, []) == []
    assert seen([]) == 0


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("pasts", [[], [[]], [[], [], []]])
def test_each_context_needs_its_past(model, pasts):
    with pytest.raises(ValueError, match=f"2 contexts need as many pasts, not {len(pasts)}"):
        model.forward([[1], [2]], past=pasts)


def test_a_past_and_what_follows_fit_in_the_window_or_are_refused(model):
    past = remember(model, [1] * 6)
    model.forward([[1, 2]], past=[past])
    with pytest.raises(ValueError, match="6 tokens of the past and 3 new ones exceed"):
        model.forward([[1, 2, 3]], past=[past])
    with pytest.raises(ValueError, match="a context holds 1 to 8 tokens, not 0"):
        model.forward([[]], past=[past])


def test_there_is_no_backward_through_a_past(model):
    logits, cache = model.forward([[1], [2, 3]], past=[remember(model, [1]), []])
    with pytest.raises(ValueError, match="has no backward; give whole contexts"):
        model.backward(logits, cache)
    qkv = [[float(i + j) for j in range(6)] for i in range(2)]
    _, caches = multi_head_attention(qkv, 1, [1, 1])
    assert multi_head_attention_backward([[0.0, 0.0]] * 2, 1, caches) == [[0.0] * 6] * 2
