"""Dropout is GPT-2's, its backward goes through the same masks, and a wrong one is caught."""

from random import Random

import pytest
from pytest import approx

from tiny_llm import ModernConfig, ModernLanguageModel, check_model
from tiny_llm.run.dropout import Drop, Dropped, random_mask, times

CONTEXTS = [[3, 1, 3, 0], [2], [4, 4]]


def model(tied=True, seed=0):
    return ModernLanguageModel(ModernConfig(5, 4, 4, 2, 2, tie_embeddings=tied), seed)


@pytest.mark.parametrize("tied", [True, False])
def test_backward_agrees_when_numbers_are_dropped(tied):
    plain = model(tied)
    dropped = Dropped(plain, Drop(0.3, "7"))
    assert dropped.forward(CONTEXTS)[0] != plain.forward(CONTEXTS)[0]
    assert [c.name for c in check_model(dropped, CONTEXTS, seed=7) if not c.passed] == []


def test_the_same_seed_drops_the_same_numbers_and_another_others():
    one, same, other = (Dropped(model(), Drop(0.3, seed)).forward(CONTEXTS)[0] for seed in "778")
    assert one == same != other


def test_a_rate_of_nothing_is_the_model_itself():
    plain = model()
    dropped = Dropped(plain, Drop(0.0, "7"))
    logits, cache = dropped.forward(CONTEXTS)
    expected, plain_cache = plain.forward(CONTEXTS)
    assert logits == expected
    assert dropped.backward(logits, cache) == plain.backward(logits, plain_cache)


class ForgetsEmbeddings(Dropped):
    def block_backward(self, name, dout, cache, g):
        self.masks = [[[1.0] * 4] * 7, *self.masks[1:]]  # the first one is that of the embeddings
        return super().block_backward(name, dout, cache, g)


class ForgetsAttention(Dropped):
    def mix_backward(self, dmixed, heads):
        self.attention_masks[-1] = [
            [[1.0] * len(row) for row in m] for m in self.attention_masks[-1]
        ]
        return super().mix_backward(dmixed, heads)


class ForgetsResidual(Dropped):
    def linear_backward(self, name, dy, x, g):
        if name.endswith("mlp.c_proj"):
            self.masks[-1] = [[1.0] * len(row) for row in self.masks[-1]]
        return super().linear_backward(name, dy, x, g)


@pytest.mark.parametrize("broken", [ForgetsEmbeddings, ForgetsAttention, ForgetsResidual])
def test_a_mask_that_the_backward_forgets_is_noticed(broken):
    checks = check_model(broken(model(), Drop(0.3, "7")), CONTEXTS, seed=7)
    assert [check.name for check in checks if not check.passed]


def test_dropout_keeps_the_mean_and_drops_its_share():
    x = [[1.0] * 100 for _ in range(100)]
    mask = random_mask(x, 0.3, Random(0))
    values = [value for row in times(x, mask) for value in row]
    assert set(values) == {0.0, 1 / 0.7}
    assert sum(values) / len(values) == approx(1, abs=0.02)
    assert values.count(0.0) / len(values) == approx(0.3, abs=0.02)


def test_all_four_places_drop():
    """The embeddings' sum once, then in each block the weights of each head, and both branches."""
    dropped = Dropped(model(), Drop(0.3, "7"))
    dropped.forward(CONTEXTS)
    assert [(len(mask), len(mask[0])) for mask in dropped.masks] == [(7, 4)] * (1 + 2 * 2)
    sizes = [[len(mask) for mask in layer] for layer in dropped.attention_masks]
    assert sizes == [[4, 4, 1, 1, 2, 2]] * 2
