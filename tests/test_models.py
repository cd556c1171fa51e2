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
    AttentionLanguageModel,
    MLPConfig,
    MLPLanguageModel,
    ModernConfig,
    ModernLanguageModel,
    cross_entropy,
)
from tiny_llm.model import normal, replace_parameters, rows_of, shape

CONTEXTS = [[3, 1, 3, 0], [2], [4, 4]]  # lengths differ, and tokens occur twice
CONFIGS = [MLPConfig, AttentionConfig, ModernConfig]


def predictions(model, contexts):
    """How many rows of logits the contract promises."""
    return len(contexts) if model.targets_per_context == 1 else sum(map(len, contexts))


def some_slopes(logits, seed=5):
    return normal(Random(seed), len(logits), len(logits[0]), std=1.0)


def shapes(parameters):
    return {name: shape(tensor) for name, tensor in parameters.items()}


# ---------------------------------------------------------------------------------- the contract


def test_one_row_of_logits_for_each_prediction(build):
    model = build(vocab_size=5)
    logits, _ = model.forward(CONTEXTS)
    assert [len(row) for row in logits] == [5] * predictions(model, CONTEXTS)


def test_targets_per_context_says_which_kind_of_prediction(build):
    model = build(context_length=4)
    assert model.targets_per_context == (4 if isinstance(model, ModernLanguageModel) else 1)


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
    if field.name not in ("tie_embeddings", "dropout")
]


@pytest.mark.parametrize("config, name", SIZES)
@pytest.mark.parametrize("size", [0, -1, True, 2.0, "3", None])
def test_a_size_is_a_whole_number_of_at_least_1(config, name, size):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, not"):
        config(**{"vocab_size": 5, name: size})


def test_every_size_is_tested():
    assert len(SIZES) == 4 + 3 + 5


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


# ------------------------------------------------------------------------------ given parameters


def test_parameters_of_another_model_can_be_given(build):
    model, other = build(seed=0), build(seed=1)
    replace_parameters(model, deepcopy(other.parameters))
    assert model.forward(CONTEXTS)[0] == other.forward(CONTEXTS)[0]


def test_parameters_that_do_not_fit_are_refused_and_change_nothing(build):
    model = build()
    before = deepcopy(model.parameters)
    name = list(before)[-1]
    for wrong, problem in [
        ({k: v for k, v in before.items() if k != name}, f"parameter {name} is missing"),
        ({**before, "extra": [0.0]}, "parameter extra is not one of this model's"),
        (build(vocab_size=6).parameters, r"has shape \(6, \d\), not \(5, \d\)"),
        ({**before, name: before[name][:-1]}, f"parameter {name} has shape"),
    ]:
        with pytest.raises(ValueError, match=problem):
            replace_parameters(model, wrong)
    assert model.parameters == before


# ---------------------------------------------------------------------------------------- rung 1


def rung_1():
    return MLPLanguageModel(MLPConfig(5, context_length=4, d_embedding=3, d_hidden=2))


def test_rung_1_puts_a_short_context_at_the_right_end_behind_zeros():
    model = rung_1()
    _, cache = model.forward([[4, 2]])
    table = model.parameters["embedding.weight"]
    assert cache.inputs == [[0.0] * 6 + table[4] + table[2]]


def test_rung_1_gives_no_slope_to_the_weights_of_missing_slots():
    model = rung_1()
    logits, cache = model.forward([[4, 2]])
    slopes = model.backward(some_slopes(logits), cache)["hidden.weight"]  # C E x H
    assert slopes[:6] == [[0.0, 0.0]] * 6
    assert all(value != 0 for row in slopes[6:] for value in row)


def test_rung_1_keeps_positions_apart():
    logits, _ = rung_1().forward([[1, 2], [2, 1]])
    assert logits[0] != logits[1]


def test_rung_1_parameters():
    assert shapes(rung_1().parameters) == {
        "embedding.weight": (5, 3),
        "hidden.weight": (12, 2),
        "hidden.bias": (2,),
        "output.weight": (2, 5),
        "output.bias": (5,),
    }


# ---------------------------------------------------------------------------------------- rung 2


def rung_2():
    return AttentionLanguageModel(AttentionConfig(5, context_length=4, d_model=3))


def test_rung_2_puts_a_short_context_at_the_right_end():
    model = rung_2()
    _, cache = model.forward([[4, 2], [1, 2, 3, 0]])
    assert cache.positions == [2, 3, 0, 1, 2, 3]
    tokens = model.parameters["token_embedding.weight"]
    positions = model.parameters["position_embedding.weight"]
    assert cache.x[1] == [a + b for a, b in zip(tokens[2], positions[3])]


def test_rung_2_does_not_read_missing_positions():
    model = rung_2()
    logits, cache = model.forward([[4, 2]])
    assert model.backward(some_slopes(logits), cache)["position_embedding.weight"][:2] == [
        [0.0] * 3,
        [0.0] * 3,
    ]
    model.parameters["position_embedding.weight"][:2] = [[9.0] * 3, [-9.0] * 3]
    assert model.forward([[4, 2]])[0] == logits


def test_rung_2_weighs_each_token_of_its_context():
    model = rung_2()
    contexts = [[1, 2, 3, 0], [4], [2, 2]]
    attention = model.attention(model.forward(contexts)[1])
    assert len(attention) == 3
    for context, layers in zip(contexts, attention):
        [[[weights]]] = layers  # one layer, one head, one query
        assert len(weights) == len(context)
        assert all(weight > 0 for weight in weights)
        assert sum(weights) == approx(1)


def test_rung_2_reads_tokens_before_the_last():
    logits, _ = rung_2().forward([[1, 0], [2, 0], [2, 1, 0]])
    assert logits[0] != logits[1] != logits[2]


def test_rung_2_parameters():
    square = {f"{n}.weight": (3, 3) for n in ("query", "key", "value", "projection")}
    biases = {f"{n}.bias": (3,) for n in ("query", "key", "value", "projection")}
    assert shapes(rung_2().parameters) == {
        "token_embedding.weight": (5, 3),
        "position_embedding.weight": (4, 3),
        **square,
        **biases,
        "output.weight": (3, 5),
        "output.bias": (5,),
    }


# ---------------------------------------------------------------------------------------- rung 3


def rung_3(tied=True, seed=0):
    return ModernLanguageModel(
        ModernConfig(5, 4, 6, n_heads=2, n_layers=2, tie_embeddings=tied), seed
    )


def gpt2_block(layer, d):
    shapes = {
        "ln_1.weight": (d,),
        "ln_1.bias": (d,),
        "attn.c_attn.weight": (d, 3 * d),
        "attn.c_attn.bias": (3 * d,),
        "attn.c_proj.weight": (d, d),
        "attn.c_proj.bias": (d,),
        "ln_2.weight": (d,),
        "ln_2.bias": (d,),
        "mlp.c_fc.weight": (d, 4 * d),
        "mlp.c_fc.bias": (4 * d,),
        "mlp.c_proj.weight": (4 * d, d),
        "mlp.c_proj.bias": (d,),
    }
    return {f"h.{layer}.{name}": size for name, size in shapes.items()}


def test_rung_3_has_the_names_and_shapes_of_gpt_2():
    tied = {
        "wte.weight": (5, 6),
        "wpe.weight": (4, 6),
        **gpt2_block(0, 6),
        **gpt2_block(1, 6),
        "ln_f.weight": (6,),
        "ln_f.bias": (6,),
    }
    assert shapes(rung_3().parameters) == tied
    assert shapes(rung_3(tied=False).parameters) == {**tied, "lm_head.weight": (5, 6)}


@pytest.mark.parametrize("n_layers", [1, 4])
def test_rung_3_begins_smaller_where_it_writes_to_the_residual_path(n_layers):
    parameters = ModernLanguageModel(ModernConfig(40, 8, 40, 2, n_layers)).parameters

    def std(name):
        values = [value for row in parameters[name] for value in row]
        return math.sqrt(sum(value * value for value in values) / len(values))

    for layer in range(n_layers):
        for part in ("attn.c_proj.weight", "mlp.c_proj.weight"):
            ratio = std(f"h.{layer}.{part}") / std("wte.weight")
            assert ratio == approx(1 / math.sqrt(2 * n_layers), rel=0.1)


def test_rung_3_counts_positions_from_0():
    model = rung_3()
    logits, cache = model.forward([[4, 2], [1, 2, 3]])
    assert cache.positions == [0, 1, 0, 1, 2]
    assert model.backward(some_slopes(logits), cache)["wpe.weight"][3] == [0.0] * 6
    model.parameters["wpe.weight"][3] = [9.0, -9.0] * 3
    assert model.forward([[4, 2], [1, 2, 3]])[0] == logits
    model.parameters["wpe.weight"][0] = [9.0, -9.0] * 3
    assert model.forward([[4, 2], [1, 2, 3]])[0] != logits


@pytest.mark.parametrize("place", [1, 2, 3])
def test_rung_3_sees_no_later_token(place):
    model, context = rung_3(), [1, 2, 3, 0]
    logits, _ = model.forward([context])
    context[place] = 4
    changed, _ = model.forward([context])
    assert changed[:place] == logits[:place]
    assert all(new != old for new, old in zip(changed[place:], logits[place:]))


def test_rung_3_predicts_after_a_prefix_what_it_predicts_within_the_whole():
    model = rung_3()
    whole, _ = model.forward([[1, 2, 3, 0]])
    prefix, _ = model.forward([[1, 2]])
    assert prefix == [approx(row, rel=1e-12) for row in whole[:2]]


def test_rung_3_attention_is_contexts_layers_heads_queries_keys():
    model = rung_3()
    contexts = [[1, 2, 3, 0], [4], [2, 2]]
    attention = model.attention(model.forward(contexts)[1])
    assert [len(layers) for layers in attention] == [2, 2, 2]
    for context, layers in zip(contexts, attention):
        for heads in layers:
            assert len(heads) == 2
            for weights in heads:
                assert shape(weights) == (len(context), len(context))
                for query, row in enumerate(weights):
                    assert row[query + 1 :] == [0.0] * (len(context) - query - 1)
                    assert sum(row) == approx(1)


def test_rung_3_attention_puts_layers_and_heads_in_their_places():
    model = rung_3()
    _, cache = model.forward([[1, 2, 3], [0, 4]])
    attention = model.attention(cache)
    for b, layer, head in [(0, 0, 1), (0, 1, 0), (1, 1, 1)]:
        assert attention[b][layer][head] == cache.blocks[layer].heads[b][head].weights
    assert attention[0][0][1] != attention[0][1][0]


def test_rung_3_slope_of_a_tied_table_is_the_sum_of_both_uses():
    tied, untied = rung_3(), rung_3(tied=False)
    untied.parameters.update(deepcopy(tied.parameters))
    untied.parameters["lm_head.weight"] = deepcopy(tied.parameters["wte.weight"])
    logits, cache = tied.forward(CONTEXTS)
    same_logits, other_cache = untied.forward(CONTEXTS)
    assert same_logits == logits
    slopes = some_slopes(logits)
    once, both = untied.backward(slopes, other_cache), tied.backward(slopes, cache)
    for row, as_input, as_output in zip(
        both.pop("wte.weight"), once.pop("wte.weight"), once.pop("lm_head.weight")
    ):
        assert row == approx([a + b for a, b in zip(as_input, as_output)], rel=1e-12)
    assert both == once  # all other slopes


def test_rung_3_untied_reads_with_one_table_and_writes_with_the_other():
    model = rung_3(tied=False)
    logits, cache = model.forward([[1, 2]])
    model.parameters["lm_head.weight"][4] = [0.0] * 6
    changed, _ = model.forward([[1, 2]])
    assert [row[4] for row in changed] == [0.0, 0.0]
    assert [row[:4] for row in changed] == [row[:4] for row in logits]
    unread = model.backward(some_slopes(logits), cache)["wte.weight"]
    assert [unread[token] for token in (0, 3, 4)] == [[0.0] * 6] * 3
