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


def ones(mask):
    return [[1.0] * len(row) for row in mask]


class ForgetsEmbeddings(Dropped):
    def backward(self, dlogits, cache):
        self.masks[0] = ones(self.masks[0])
        return super().backward(dlogits, cache)


class ForgetsAttention(Dropped):
    def mix_backward(self, dmixed, heads):
        self.attention_masks[-1] = list(map(ones, self.attention_masks[-1]))
        return super().mix_backward(dmixed, heads)


class ForgetsFeedForward(Dropped):
    def linear_backward(self, name, dy, x, g):
        if name.endswith("mlp.c_proj"):
            self.masks[-1] = ones(self.masks[-1])
        return super().linear_backward(name, dy, x, g)


class ForgetsToDivide(Dropped):
    """What was kept has grown, and its slope has not."""

    def backward(self, dlogits, cache):
        self.masks = [times(m, [[0.7] * len(r) for r in m]) for m in self.masks]
        return super().backward(dlogits, cache)


class DrawsAgain(Dropped):
    """Masks for the backward that are not those of the forward."""

    def backward(self, dlogits, cache):
        other = Dropped(self, self.how._replace(seed="another"))
        other.forward(CONTEXTS)
        self.masks, self.attention_masks = other.masks, other.attention_masks
        return super().backward(dlogits, cache)


class TakesHeadsInAnotherOrder(Dropped):
    def mix_backward(self, dmixed, heads):
        self.attention_masks[-1] = [
            self.attention_masks[-1][i]
            for i in (1, 0, 3, 2, 5, 4)  # two heads of each context
        ]
        return super().mix_backward(dmixed, heads)


EVERYTHING = {"wte", "wpe", "ln_1", "c_attn", "attn.c_proj", "ln_2", "c_fc", "mlp.c_proj"}


@pytest.mark.parametrize(
    "broken, spoiled",
    [
        (ForgetsEmbeddings, {"wte", "wpe"}),
        (ForgetsAttention, {"wte", "wpe", "ln_1", "c_attn"}),
        (ForgetsFeedForward, EVERYTHING),
        (ForgetsToDivide, EVERYTHING),
        (DrawsAgain, EVERYTHING),
        (TakesHeadsInAnotherOrder, {"wte", "wpe", "ln_1", "c_attn"}),
    ],
)
def test_a_broken_backward_is_noticed_where_it_is_broken(broken, spoiled):
    """With one block, so that what lies above it is right. Its own LM head, for the same reason."""
    config = ModernConfig(5, 4, 4, n_heads=2, n_layers=1, tie_embeddings=False)
    subject = broken(ModernLanguageModel(config), Drop(0.3, "7"))
    failed = {check.name for check in check_model(subject, CONTEXTS, seed=7) if not check.passed}
    parts = {part for part in EVERYTHING for name in failed if part in name}
    assert parts == spoiled
    assert not any(name.startswith(("ln_f", "lm_head")) for name in failed)


def test_a_model_can_be_asked_for_several_backwards_one_after_another():
    """Each after a forward of its own: nothing is left over from the one before."""
    dropped = Dropped(model(), Drop(0.3, "7"))
    first, second = (dropped.backward(*dropped.forward(CONTEXTS)) for _ in range(2))
    assert first == second
    assert dropped.masks == dropped.attention_masks == []


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
