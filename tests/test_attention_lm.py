"""What is special about rung 2."""

from pytest import approx
from test_model import shapes, some_slopes

from tiny_llm import AttentionConfig, AttentionLanguageModel


def rung_2():
    return AttentionLanguageModel(AttentionConfig(5, context_length=4, d_model=3, d_hidden=6))


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
        "hidden.weight": (3, 6),
        "hidden.bias": (6,),
        "output.weight": (6, 5),
        "output.bias": (5,),
    }
