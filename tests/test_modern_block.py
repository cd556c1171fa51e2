"""What is special about rung 3."""

import math
from copy import deepcopy

import pytest
from pytest import approx
from test_model import CONTEXTS, shapes, some_slopes

from tiny_llm import ModernConfig, ModernLanguageModel
from tiny_llm.fast.tensors import shape


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
