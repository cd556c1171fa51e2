"""What is special about rung 1."""

from test_model import shapes, some_slopes

from tiny_llm import MLPConfig, MLPLanguageModel


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
