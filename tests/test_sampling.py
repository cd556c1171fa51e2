"""From logits to a choice, and from choices to a text."""

import math
from collections import Counter
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from tiny_llm import Sampling, generate
from tiny_llm.layers import softmax
from tiny_llm.sampling import slide


def probabilities_of(logits, *chosen, **named):
    kept = Sampling(*chosen, **named).probabilities(logits)
    assert kept.keys() <= set(range(len(logits)))
    return [kept.get(token, 0.0) for token in range(len(logits))]


LOGITS = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]


class Stub:
    """A model of which only what a sampler asks for is there; it remembers the contexts."""

    def __init__(self, context_length=4, every_token=False, logits=LOGITS):
        self.config = SimpleNamespace(context_length=context_length)
        self.predicts_every_token = every_token
        self.logits = logits
        self.seen = []

    def forward(self, contexts):
        self.seen += contexts
        rows = []
        for context in contexts:  # the last row of each context counts
            if self.predicts_every_token:
                rows += [[0.0] * len(self.logits)] * (len(context) - 1)
            rows.append(self.logits)
        return rows, None


# ---------------------------------------------------------------------------------- probabilities


def test_without_options_it_is_softmax():
    assert probabilities_of(LOGITS) == approx([0.1, 0.4, 0.2, 0.3])


def test_temperature_0_takes_the_likeliest():
    assert probabilities_of(LOGITS, temperature=0) == [0.0, 1.0, 0.0, 0.0]


def test_temperature_divides_the_logits():
    squared = [0.01, 0.16, 0.04, 0.09]
    assert probabilities_of(LOGITS, 0.5) == approx([p / 0.3 for p in squared])
    assert probabilities_of(LOGITS, 1e9) == approx([0.25] * 4)
    assert probabilities_of(LOGITS, math.inf) == [0.25] * 4


@pytest.mark.parametrize("temperature", [1e-6, 1e-300, 5e-324])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e300])
def test_a_tiny_temperature_does_not_overflow(temperature, scale):
    logits = [scale * value for value in LOGITS]
    assert probabilities_of(logits, temperature) == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "k, expected",
    [
        (0, [0.1, 0.4, 0.2, 0.3]),
        (1, [0, 1, 0, 0]),
        (2, [0, 4 / 7, 0, 3 / 7]),
        (3, [0, 4 / 9, 2 / 9, 3 / 9]),
        (4, [0.1, 0.4, 0.2, 0.3]),
        (99, [0.1, 0.4, 0.2, 0.3]),
    ],
)
def test_top_k_keeps_the_k_likeliest(k, expected):
    assert probabilities_of(LOGITS, top_k=k) == approx(expected)


@pytest.mark.parametrize(
    "p, expected",
    [
        (1e-9, [0, 1, 0, 0]),
        (0.39, [0, 1, 0, 0]),
        (0.41, [0, 4 / 7, 0, 3 / 7]),
        (0.71, [0, 4 / 9, 2 / 9, 3 / 9]),
        (0.91, [0.1, 0.4, 0.2, 0.3]),
        (1, [0.1, 0.4, 0.2, 0.3]),
    ],
)
def test_top_p_keeps_the_fewest_that_reach_p(p, expected):
    assert probabilities_of(LOGITS, top_p=p) == approx(expected)


def test_top_p_counts_what_temperature_and_top_k_left():
    # Of the three likeliest, the first two have 7/9 of the probability, not 7/10.
    assert probabilities_of(LOGITS, top_k=3, top_p=0.75) == approx([0, 4 / 7, 0, 3 / 7])
    # Squared, the first two have 25/30 of it.
    assert probabilities_of(LOGITS, 0.5, top_p=0.8) == approx([0, 16 / 25, 0, 9 / 25])


def test_of_equally_likely_tokens_the_smaller_id_goes_first():
    even = [0.5, 2.0, 2.0, 2.0]
    assert probabilities_of(even, temperature=0) == [0, 1, 0, 0]
    assert probabilities_of(even, top_k=2) == [0, 0.5, 0.5, 0]
    assert probabilities_of(even, top_p=0.5)[1:] == [0.5, 0.5, 0]


logits_of_any_kind = st.lists(st.floats(-50, 50), min_size=1, max_size=9)
options = st.tuples(st.floats(0.01, 5), st.integers(0, 10), st.floats(0.01, 1))


@given(logits_of_any_kind, options)
def test_whatever_is_kept_are_probabilities_of_the_likeliest(logits, chosen):
    temperature, top_k, top_p = chosen
    probabilities = probabilities_of(logits, temperature, top_k, top_p)
    tempered = softmax([logit / temperature for logit in logits])
    kept = [weight for weight, p in zip(tempered, probabilities) if p > 0]
    assert sum(probabilities) == approx(1)
    assert 1 <= len(kept) <= (top_k or len(logits))
    assert max(kept) == max(tempered)
    ranked = sorted(zip(tempered, probabilities), reverse=True)
    assert all(low[1] <= high[1] * (1 + 1e-9) for high, low in zip(ranked, ranked[1:]))


@given(logits_of_any_kind, options)
def test_the_logits_stay_as_they_are(logits, chosen):
    before = list(logits)
    probabilities_of(logits, *chosen)
    assert logits == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_p": math.nan},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="temperature and top_k must be >= 0, and 0 < top_p <= 1"):
        Sampling(**wrong)


# ------------------------------------------------------------------------------------- the window


@pytest.mark.parametrize("every_token", [False, True])
def test_a_window_that_is_not_full_grows(every_token):
    assert slide([1, 2, 3], 4, Stub(6, every_token)) == [1, 2, 3, 4]
    assert slide([1, 2, 3, 4, 5], 6, Stub(6, every_token)) == [1, 2, 3, 4, 5, 6]


def test_a_full_window_slides_by_one_or_goes_on_from_its_last_half():
    assert slide([1, 2, 3, 4, 5, 6], 7, Stub(6)) == [2, 3, 4, 5, 6, 7]
    assert slide([1, 2, 3, 4, 5, 6], 7, Stub(6, True)) == [4, 5, 6, 7]
    assert slide([1, 2, 3, 4, 5], 6, Stub(5, True)) == [4, 5, 6]


@pytest.mark.parametrize("length, expected", [(1, [[9]]), (2, [[0, 9], [5, 9]])])
def test_the_shortest_windows(build, length, expected):
    model = build(vocab_size=10, context_length=length)
    assert [slide([0, 5][:n], 9, model) for n in range(1, length + 1)] == expected


def test_the_window_is_not_changed_in_place(build):
    window = [1, 2, 3, 4]
    slide(window, 0, build(context_length=4))
    assert window == [1, 2, 3, 4]


@given(st.integers(1, 12), st.booleans(), st.lists(st.integers(0, 99), min_size=1, max_size=40))
def test_the_window_is_always_the_end_of_the_text(length, per_token, tokens):
    model, window = Stub(length, per_token), tokens[:1]
    for end, token in enumerate(tokens[1:], start=2):
        window = slide(window, token, model)
        assert 1 <= len(window) <= length
        assert window == tokens[end - len(window) : end]
        if end >= length:
            assert len(window) > length // 2 if per_token else len(window) == length


# ------------------------------------------------------------------------------------- generation


def test_generation_yields_as_many_tokens_as_asked_for(build):
    tokens = list(generate(build(vocab_size=5, context_length=4), [1, 2], 11, Random(0)))
    assert len(tokens) == 11
    assert set(tokens) <= set(range(5))
    assert list(generate(build(), [1], 0, Random(0))) == []


def test_each_token_joins_the_context():
    model = Stub(context_length=3)
    tokens = list(generate(model, [7], 4, Random(0)))
    text = [7, *tokens]
    assert model.seen == [text[:1], text[:2], text[:3], text[1:4]]


def test_generation_yields_each_token_as_soon_as_it_is_drawn():
    model = Stub()
    tokens = generate(model, [7], 5, Random(0))
    assert model.seen == []
    next(tokens)
    assert len(model.seen) == 1


def test_of_a_long_prompt_the_model_sees_the_end():
    model = Stub(context_length=4)
    list(generate(model, [4, 3, 2, 1, 0, 1, 2], 1, Random(0)))
    assert model.seen == [[1, 0, 1, 2]]


def test_the_prompt_stays_as_it_is(build):
    prompt = [1, 2, 3]
    list(generate(build(), prompt, 5, Random(0)))
    assert prompt == [1, 2, 3]


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_contexts_generate(build, length):
    assert len(list(generate(build(context_length=length), [1, 2, 3], 6, Random(0)))) == 6


def test_greedy_generation_takes_the_highest_logit_of_the_last_row(build):
    model = build(context_length=8, seed=2)
    text = [3, 1]
    for token in generate(model, text, 6, Random(0), Sampling(temperature=0)):
        row = model.forward([text])[0][-1]
        assert token == row.index(max(row))
        text = [*text, token]


def test_greedy_generation_needs_no_luck(build):
    texts = [
        list(generate(build(), [1], 8, Random(seed), Sampling(temperature=0))) for seed in range(3)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_the_same_seed_draws_the_same_text_and_another_seed_another(build):
    def text(seed):
        return list(generate(build(), [1], 30, Random(seed)))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_logits_can_come_from_elsewhere_than_the_model():
    windows = []

    def read(window):
        windows.append(window)
        return [0.0, -1e9, -1e9]

    model = Stub(context_length=3)
    assert list(generate(model, [2, 1], 4, Random(0), read=read)) == [0] * 4
    assert windows == [[2, 1], [2, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert model.seen == []


def test_rung_3_fills_the_second_half_of_its_window_again_and_again():
    model = Stub(4, every_token=True)
    list(generate(model, [0, 1, 2, 3], 5, Random(0)))
    assert [len(context) for context in model.seen] == [4, 3, 4, 3, 4]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="give at least one token"):
        next(generate(Stub(), [], 1, Random(0)))


def chi_square(draws, probabilities):
    counts, n = Counter(draws), len(draws)
    return sum((counts[t] - n * p) ** 2 / (n * p) for t, p in enumerate(probabilities) if p > 0)


@pytest.mark.parametrize("chosen", [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 3, 1.0), (1.0, 0, 0.6)])
def test_tokens_are_drawn_as_often_as_their_probabilities_say(chosen):
    draws = list(generate(Stub(), [0], 4000, Random(8), Sampling(*chosen)))
    expected = probabilities_of(LOGITS, *chosen)
    assert {t for t, p in enumerate(expected) if p > 0} == set(draws)
    assert chi_square(draws, expected) < 16  # exceeded once in 1000 by chance, with 3 degrees
    if chosen != (1.0, 0, 1.0):  # and the measure tells the two apart
        assert chi_square(draws, probabilities_of(LOGITS)) > 100


def test_of_a_large_vocabulary_top_p_keeps_what_sorting_all_of_it_keeps():
    rng = Random(0)
    for spread in 0.1, 1, 4, 30:
        logits = [rng.gauss(0, spread) for _ in range(3000)]
        weights = softmax(logits)
        ranked = sorted(range(3000), key=lambda token: -weights[token])
        for top_p in 0.1, 0.5, 0.9, 0.999:
            reached = fewest = 0
            while reached < top_p:
                reached += weights[ranked[fewest]]
                fewest += 1
            kept = Sampling(top_p=top_p).probabilities(logits)
            assert list(kept) == ranked[:fewest]
            assert sum(kept.values()) == approx(1)
