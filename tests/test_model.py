"""The contract that all rungs share, and what is special about each."""

import dataclasses
import math
from copy import deepcopy
from random import Random

import pytest
from pytest import approx

from tiny_llm import (
    SGD,
    AdamW,
    AttentionConfig,
    MLPConfig,
    MLPLanguageModel,
    ModernConfig,
    ModernLanguageModel,
    cross_entropy,
)
from tiny_llm.fast.tensors import shape
from tiny_llm.model import rows_of

CONTEXTS = [[3, 1, 3, 0], [2], [4, 4]]  # lengths differ, and tokens occur twice
CONFIGS = [MLPConfig, AttentionConfig, ModernConfig]


def predictions(model, contexts):
    """How many rows of logits the contract promises."""
    return sum(map(len, contexts)) if model.predicts_every_token else len(contexts)


def some_slopes(logits, seed=5):
    rng = Random(seed)
    return [[rng.gauss(0, 1) for _ in row] for row in logits]


def shapes(parameters):
    return {name: shape(tensor) for name, tensor in parameters.items()}


# ---------------------------------------------------------------------------------- the contract


def test_one_row_of_logits_for_each_prediction(build):
    model = build(vocab_size=5)
    logits, _ = model.forward(CONTEXTS)
    assert [len(row) for row in logits] == [5] * predictions(model, CONTEXTS)


def test_targets_per_context_says_which_kind_of_prediction(build):
    model = build(context_length=4)
    is_modern = isinstance(model, ModernLanguageModel)
    assert model.predicts_every_token == is_modern
    assert model.targets_per_context == (4 if is_modern else 1)


def test_a_context_of_one_token_changes_nothing_of_that(build):
    model = build(context_length=1)
    assert model.predicts_every_token == isinstance(model, ModernLanguageModel)


def test_attention_is_part_of_the_contract(build):
    model = build()
    attention = model.attention(model.forward(CONTEXTS)[1])
    assert len(attention) == (0 if isinstance(model, MLPLanguageModel) else len(CONTEXTS))


def test_gradients_have_the_names_and_shapes_of_the_parameters(build):
    model = build()
    logits, cache = model.forward(CONTEXTS)
    assert shapes(model.backward(some_slopes(logits), cache)) == shapes(model.parameters)


def test_parameters_are_plain_nested_lists_of_floats(build):
    parameters = build().parameters
    assert type(parameters) is dict
    for tensor in parameters.values():
        for row in rows_of(tensor):
            assert type(row) is list and {type(value) for value in row} == {float}


def test_no_two_rows_share_their_numbers(build):
    rows = [row for tensor in build().parameters.values() for row in rows_of(tensor)]
    assert len({id(row) for row in rows}) == len(rows)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_loss_is_that_of_guessing(build, seed):
    model = build(vocab_size=50, context_length=8, seed=seed)
    rng = Random(seed)
    contexts = [[rng.randrange(50) for _ in range(8)] for _ in range(8)]
    targets = [rng.randrange(50) for _ in range(predictions(model, contexts))]
    assert cross_entropy(model.forward(contexts)[0], targets)[0] == approx(math.log(50), rel=0.1)


def test_a_forward_keeps_nothing_on_the_model(build):
    model = build()
    before = deepcopy(vars(model))
    model.forward(CONTEXTS)
    assert vars(model) == before


def test_a_backward_changes_neither_parameters_nor_cache(build):
    model = build()
    logits, cache = model.forward(CONTEXTS)
    slopes = some_slopes(logits)
    before = deepcopy((model.parameters, cache, slopes))
    model.backward(slopes, cache)
    assert (model.parameters, cache, slopes) == before


def test_the_backward_of_an_earlier_forward_is_still_right(build):
    model = build()
    logits, cache = model.forward(CONTEXTS)
    slopes = some_slopes(logits)
    alone = model.backward(slopes, cache)
    model.forward([[1, 0], [0, 0, 0, 1]])
    assert model.backward(slopes, cache) == alone


def test_a_batch_gives_the_logits_of_its_contexts_one_by_one(build):
    model = build()
    one_by_one = [row for context in CONTEXTS for row in model.forward([context])[0]]
    for row, alone in zip(model.forward(CONTEXTS)[0], one_by_one):
        assert row == approx(alone, rel=1e-12, abs=1e-15)


def test_the_gradient_of_a_batch_is_the_sum_over_its_contexts(build):
    model = build()
    logits, cache = model.forward(CONTEXTS)
    slopes = some_slopes(logits)
    gradients = model.backward(slopes, cache)
    sums = dict.fromkeys(gradients, 0.0)
    for context in CONTEXTS:
        rows = predictions(model, [context])
        alone = model.backward(slopes[:rows], model.forward([context])[1])
        slopes = slopes[rows:]
        for name in sums:
            sums[name] += sum(map(sum, rows_of(alone[name])))
    for name, total in sums.items():
        assert sum(map(sum, rows_of(gradients[name]))) == approx(total, rel=1e-9, abs=1e-12)


def test_changing_a_number_changes_the_model(build):
    model = build()
    before = model.forward(CONTEXTS)[0]
    for name, tensor in model.parameters.items():
        row = rows_of(tensor)[0]
        value, row[0] = row[0], row[0] + 0.5
        # A bias of the keys raises all scores of a query alike, which softmax takes away again.
        changed = model.forward(CONTEXTS)[0] != before
        row[0] = value
        if "key.bias" not in name:
            assert changed, name
    assert model.forward(CONTEXTS)[0] == before


def test_replacing_an_entry_changes_the_model(build):
    model, other = build(seed=0), build(seed=1)
    assert model.forward(CONTEXTS)[0] != other.forward(CONTEXTS)[0]
    for name in model.parameters:
        model.parameters[name] = other.parameters[name]
    assert model.forward(CONTEXTS)[0] == other.forward(CONTEXTS)[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(build):
    assert build(seed=3).parameters == build(seed=3).parameters
    assert build(seed=3).parameters != build(seed=4).parameters


@pytest.mark.parametrize(
    "contexts, problem",
    [
        ([], "a batch needs at least one context"),
        ([[1], []], "a context holds 1 to 4 tokens, not 0"),
        ([[1, 2, 3, 4, 0]], "a context holds 1 to 4 tokens, not 5"),
        ([[1, 5]], "token id 5 is outside the vocabulary of 5 tokens"),
        ([[1], [-1, 1]], "token id -1 is outside the vocabulary of 5 tokens"),
    ],
)
def test_a_context_that_cannot_be_read_is_refused(build, contexts, problem):
    with pytest.raises(ValueError, match=problem):
        build(vocab_size=5, context_length=4).forward(contexts)


def test_the_smallest_model_predicts_and_learns(build):
    model = build(vocab_size=1, context_length=1)
    logits, cache = model.forward([[0], [0]])
    loss, dlogits = cross_entropy(logits, [0, 0])
    assert loss == 0
    assert shapes(model.backward(dlogits, cache)) == shapes(model.parameters)


# 0 is followed by 1 after 2, and by 2 after 1: the last token alone does not tell.
OVERFIT = [[1, 0], [2, 0], [3, 3, 0], [0, 1, 2, 3]]
FOLLOWING = {1: [2, 1, 4, 0], 4: [0, 2, 0, 1, 3, 0, 4, 1, 2, 3, 0]}


def test_one_tiny_batch_can_be_learned_by_heart(build):
    model = build()
    targets = FOLLOWING[model.targets_per_context]
    optimizer = AdamW(0.05) if isinstance(model, ModernLanguageModel) else SGD(0.5)
    for _ in range(150):
        logits, cache = model.forward(OVERFIT)
        loss, dlogits = cross_entropy(logits, targets)
        optimizer.update(model.parameters, model.backward(dlogits, cache))
    assert loss < 0.05


# --------------------------------------------------------------------------------------- configs


SIZES = [
    (config, field.name)
    for config in CONFIGS
    for field in dataclasses.fields(config)
    if field.name != "tie_embeddings"
]


@pytest.mark.parametrize("config, name", SIZES)
@pytest.mark.parametrize("size", [0, -1, True, 2.0, "3", None])
def test_a_size_is_a_whole_number_of_at_least_1(config, name, size):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, not"):
        config(**{"vocab_size": 5, name: size})


def test_every_size_is_tested():
    assert len(SIZES) == 4 + 4 + 5


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_needs_only_the_size_of_the_vocabulary_and_is_frozen(config):
    subject = config(7)
    assert subject.vocab_size == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        subject.vocab_size = 8
    with pytest.raises(TypeError):
        config()


def test_heads_share_the_width_evenly_or_the_error_says_what_to_change():
    with pytest.raises(ValueError, match="make d_model a multiple of n_heads"):
        ModernConfig(5, d_model=6, n_heads=4)
