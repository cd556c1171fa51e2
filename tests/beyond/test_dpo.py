"""DPO against measured slopes, against PyTorch, and against what the paper promises."""

import math
from random import Random

import make_references
import pytest
from conftest import modern
from pytest import approx
from test_reference import disagreeing, farthest

from tiny_llm import ModernConfig, ModernLanguageModel, check_model, cross_entropy
from tiny_llm.beyond.dpo import (
    PairLogs,
    Rewards,
    answers_of,
    divergence,
    dpo,
    log_softmax,
    pair_logs,
    preferred,
    softplus,
)
from tiny_llm.fast.tensors import add_scaled
from tiny_llm.gradcheck import compare
from tiny_llm.model import LanguageModel, rows_of
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.text.tasks import AskedContext

# Three pairs of (question, chosen, rejected) of ragged lengths; the last two of a pair begin alike.
PAIRS = [([1, 2], [3, 4, 0], [0]), ([4], [2, 0], [2, 1, 0]), ([3, 3, 1], [1, 0], [4, 0])]


def asked(question, answer):
    context = AskedContext([*question, *answer[:-1]])
    context.rows = list(range(len(question) - 1, len(context)))
    return context


def examples(pairs):
    """Contexts, targets and lengths of the answers, chosen and rejected by turns."""
    both = [(question, answer) for question, *answers in pairs for answer in answers]
    targets = [token for _, answer in both for token in answer]
    return [asked(*one) for one in both], targets, [len(answer) for _, answer in both]


CONTEXTS, TARGETS, LENGTHS = examples(PAIRS)


def reference_of(model):
    return pair_logs(OnlyAsked(model).forward(CONTEXTS)[0], TARGETS, LENGTHS)


@pytest.fixture
def learner():
    """A tiny rung 3 whose numbers are no longer those it began with."""
    model, rng = modern(context_length=6), Random(1)
    for tensor in model.parameters.values():
        for row in rows_of(tensor):
            row[:] = [value + rng.gauss(0, 0.3) for value in row]
    return model


REFERENCE = reference_of(modern(context_length=6, seed=5))
SETTINGS = [(0.1, 0.0), (0.5, 1.0), (2.0, 0.3)]
EVERY_SETTING = pytest.mark.parametrize("beta, nll_weight", SETTINGS)


class Loss(LanguageModel):
    """A model whose "logits" are the loss alone, so that the gradient check goes through it."""

    def __init__(self, model, beta, nll_weight, loss=dpo):
        self.model, self.config, self.parameters = OnlyAsked(model), model.config, model.parameters
        self.settings, self.loss = (beta, nll_weight), loss

    def forward(self, contexts):
        logits, cache = self.model.forward(contexts)
        loss, dlogits, _ = self.loss(logits, TARGETS, LENGTHS, REFERENCE, *self.settings)
        return [[loss]], (dlogits, cache)

    def backward(self, dlogits, cache):
        slopes, inner = cache
        factor = dlogits[0][0]
        return self.model.backward([[factor * slope for slope in row] for row in slopes], inner)


# ------------------------------------------------------------------------------ slopes


@EVERY_SETTING
def test_every_slope_of_rung_3_agrees_with_the_measured_one(learner, beta, nll_weight):
    checks = list(check_model(Loss(learner, beta, nll_weight), CONTEXTS))
    assert [check.name for check in checks] == list(learner.parameters)
    assert [check.name for check in checks if not check.passed] == []


def changed(change):
    """DPO with something wrong with its slopes."""

    def loss(*args):
        value, dlogits, rewards = dpo(*args)
        return value, change(dlogits), rewards

    return loss


def shifted(rows):
    return [*rows[1:], rows[0]]


def the_rejected_ones_left_out(rows):
    zeros = [[0.0] * len(row) for row in rows]
    ends = [sum(LENGTHS[:i]) for i in range(len(LENGTHS) + 1)]
    places = {i for b, e in list(zip(ends, ends[1:]))[1::2] for i in range(b, e)}
    return [zeros[i] if i in places else row for i, row in enumerate(rows)]


def means_instead_of_sums(rows):
    tokens = [length for length in LENGTHS for _ in range(length)]
    return [[slope / n for slope in row] for row, n in zip(rows, tokens)]


def one_sign_wrong(rows):
    return [*rows[:-1], [-slope for slope in rows[-1]]]


@pytest.mark.parametrize(
    "change", [shifted, the_rejected_ones_left_out, means_instead_of_sums, one_sign_wrong]
)
def test_wrong_slopes_are_caught(learner, change):
    wrong = Loss(learner, 0.5, 1.0, changed(change))
    assert not all(check.passed for check in check_model(wrong, CONTEXTS))


@EVERY_SETTING
def test_the_slopes_of_every_row_agree_with_the_measured_ones(beta, nll_weight):
    rng = Random(2)
    logits = [[rng.gauss(0, 2) for _ in range(5)] for _ in TARGETS]
    _, dlogits, _ = dpo(logits, TARGETS, LENGTHS, REFERENCE, beta, nll_weight)

    def loss():
        return dpo(logits, TARGETS, LENGTHS, REFERENCE, beta, nll_weight)[0]

    assert compare("logits", loss, logits, dlogits).passed


def test_a_step_against_the_slopes_widens_the_margin(learner):
    before = reference_of(learner)
    loss = Loss(learner, 0.5, 0.0)
    _, cache = loss.forward(CONTEXTS)
    gradients = loss.backward([[1.0]], cache)
    add_scaled(learner.parameters, gradients, -0.01)
    after = reference_of(learner)
    assert sum(c - r for c, r in after) > sum(c - r for c, r in before)


# ------------------------------------------------------------------------------ PyTorch


def built(config, parameters):
    model = ModernLanguageModel(ModernConfig(**config))
    assert model.parameters.keys() == parameters.keys()
    model.parameters.update(parameters)
    return model


def dpo_results(learner, reference, pairs, beta, nll_weight):
    """As `make_references.dpo_results` has them, by what this project has."""
    contexts, targets, lengths = examples(pairs)
    references = pair_logs(OnlyAsked(reference).forward(contexts)[0], targets, lengths)
    model = OnlyAsked(learner)
    logits, cache = model.forward(contexts)
    loss, dlogits, rewards = dpo(logits, targets, lengths, references, beta, nll_weight)
    return {
        "loss": loss,
        "references": list(map(list, references)),
        "rewards": list(map(list, rewards)),
        "gradients": model.backward(dlogits, cache),
    }


def agree(ours, theirs):
    return (
        farthest([ours["loss"]], [theirs["loss"]]) <= 1
        and farthest(ours["references"], theirs["references"]) <= 1
        and farthest(ours["rewards"], theirs["rewards"]) <= 1
        and disagreeing(ours["gradients"], theirs["gradients"]) == []
    )


STORED = make_references.read("dpo")
EVERY_RESULT = pytest.mark.parametrize("result", STORED["results"])


def ours_for(result):
    learner, reference = (
        built(STORED["config"], STORED[name]) for name in ("learner", "reference")
    )
    return dpo_results(learner, reference, STORED["pairs"], result["beta"], result["nll_weight"])


@EVERY_RESULT
def test_loss_rewards_and_every_gradient_are_those_of_pytorch(result):
    assert agree(ours_for(result), result)


@EVERY_RESULT
def test_a_difference_in_one_number_would_be_noticed(result):
    ours = ours_for(result)
    assert not agree({**ours, "loss": ours["loss"] * (1 + 2e-9)}, result)
    ours["rewards"][1][0] *= 1 + 2e-9
    assert not agree(ours, result)
    ours = ours_for(result)
    ours["gradients"]["h.0.mlp.c_fc.bias"][0] *= 1 + 2e-9
    assert not agree(ours, result)


def test_the_stored_pairs_exercise_what_is_easily_wrong():
    texts = [question + answer for question, *answers in STORED["pairs"] for answer in answers]
    assert len({len(text) for text in texts}) > 3
    assert max(map(len, texts)) == STORED["config"]["context_length"] + 1  # all but the last seen
    assert any(chosen[0] == rejected[0] for _, chosen, rejected in STORED["pairs"])
    assert any(chosen != rejected for chosen, rejected in STORED["results"][0]["rewards"])
    beta, weight = zip(*[(one["beta"], one["nll_weight"]) for one in STORED["results"]])
    assert len(set(beta)) > 1 and 0.0 in weight and any(weight)


@pytest.mark.reference
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("beta, nll_weight", [(0.05, 0.0), (0.3, 0.2), (5.0, 1.0)])
def test_pytorch_finds_the_same_for_new_pairs(tied, beta, nll_weight):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config = {"vocab_size": 13, "context_length": 9, "d_model": 12, "n_heads": 3, "n_layers": 2,
              "tie_embeddings": tied}  # fmt: skip
    ours = [ModernLanguageModel(ModernConfig(**config), seed) for seed in (1, 2)]
    theirs = [make_references.hugging_face_model(config) for _ in ours]
    for model, hugging_face in zip(ours, theirs):
        make_references.load_parameters(hugging_face, model.parameters)
    rng, pairs = Random(3), []
    for lengths in [(1, 1, 8), (4, 3, 3), (5, 5, 2), (8, 1, 2)]:
        pairs.append([[rng.randrange(13) for _ in range(length)] for length in lengths])
    settings = pairs, beta, nll_weight
    assert agree(dpo_results(*ours, *settings), make_references.dpo_results(*theirs, *settings))


# ------------------------------------------------------------------------------ the loss by hand


def logits_of(*probabilities):
    return [[math.log(p) for p in row] for row in probabilities]


def test_one_pair_by_hand():
    """chosen 0, 1 with probabilities 1/2 and 1/4; rejected 1 with 3/4; reference ln 1/4 each."""
    logits = logits_of([0.5, 0.5], [0.75, 0.25], [0.25, 0.75])
    reference = [PairLogs(math.log(1 / 4), math.log(1 / 4))]
    loss, dlogits, ((chosen, rejected),) = dpo(logits, [0, 1, 1], [2, 1], reference, beta=1.0)
    assert (chosen, rejected) == approx((math.log(1 / 2), math.log(3)))
    assert loss == approx(math.log(1 + 6))  # exp(-margin) = 6
    push = 6 / 7
    assert dlogits[0] == approx([-push * 0.5, push * 0.5])
    assert dlogits[1] == approx([push * 0.75, -push * 0.75])
    assert dlogits[2] == approx([-push * 0.25, push * 0.25])


def test_with_the_reference_itself_the_loss_is_that_of_not_knowing(learner):
    logits = OnlyAsked(learner).forward(CONTEXTS)[0]
    loss, dlogits, rewards = dpo(logits, TARGETS, LENGTHS, reference_of(learner), beta=0.7)
    assert loss == approx(math.log(2), abs=1e-15)
    assert rewards == [Rewards(0.0, 0.0)] * len(PAIRS)
    _, plain = cross_entropy(logits[:3], TARGETS[:3])
    factor = 3 * 0.7 / 2 / len(PAIRS)  # tokens x beta x sigmoid(0) / pairs
    for row, slopes in zip(dlogits, plain):
        assert row == approx([factor * slope for slope in slopes])


def test_the_nll_is_that_of_each_chosen_answer_per_token():
    logits = logits_of(*[[0.5, 0.25, 0.25]] * 4)
    pairs = examples([([0], [0], [1]), ([0], [1], [0])])
    reference = [PairLogs(-1.0, -1.0)] * 2
    plain, _, _ = dpo(logits, pairs[1], pairs[2], reference, 0.3)
    for weight in (0.0, 0.5, 2.0):
        loss, _, _ = dpo(logits, pairs[1], pairs[2], reference, 0.3, weight)
        assert loss == approx(plain + weight * (math.log(2) + math.log(4)) / 2)


def test_the_nll_of_a_long_answer_counts_as_that_of_a_short_one():
    """The mean over answers of their means, not the mean over all tokens."""
    logits = logits_of([0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [0.5, 0.5])
    reference = [PairLogs(math.log(0.25), math.log(0.5)), PairLogs(math.log(0.25), math.log(0.5))]
    loss, _, _ = dpo(logits, [0, 1, 0, 0, 1], [2, 1, 1, 1], reference, 1.0, 1.0)
    assert loss == approx(math.log(2) + (math.log(2) + math.log(4)) / 2)


def test_pairs_are_averaged_and_do_not_touch_one_another():
    rng = Random(3)
    logits = [[rng.gauss(0, 1) for _ in range(5)] for _ in TARGETS]
    loss, dlogits, rewards = dpo(logits, TARGETS, LENGTHS, REFERENCE, 0.5, 0.2)
    each, start = [], 0
    for number in range(len(PAIRS)):
        lengths = LENGTHS[2 * number : 2 * number + 2]
        end = start + sum(lengths)
        one = logits[start:end], TARGETS[start:end], lengths, [REFERENCE[number]]
        each.append(dpo(*one, 0.5, 0.2))
        start = end
    assert loss == approx(sum(one[0] for one in each) / 3)
    assert rewards == [reward for one in each for reward in one[2]]
    for row, alone in zip(dlogits, [row for one in each for row in one[1]]):
        assert row == approx([slope / 3 for slope in alone])


@pytest.mark.parametrize("far", [40.0, 800.0, 1e6])
def test_large_margins_neither_overflow_nor_vanish(far):
    logits = logits_of([0.5, 0.5], [0.5, 0.5])
    base = math.log(0.5)
    wrong = [PairLogs(base + far, base)]
    loss, dlogits, (reward,) = dpo(logits, [0, 0], [1, 1], wrong, 1.0)
    assert loss == approx(far) and reward.margin == approx(-far)
    assert dlogits == [approx([-0.5, 0.5]), approx([0.5, -0.5])]
    right = [PairLogs(base - far, base)]
    loss, dlogits, _ = dpo(logits, [0, 0], [1, 1], right, 1.0)
    assert loss == approx(math.exp(-far), rel=1e-12, abs=0)
    assert dlogits[0] == approx([-0.5 * math.exp(-far), 0.5 * math.exp(-far)], rel=1e-12, abs=0)


def test_a_pair_whose_answers_are_the_same_has_no_margin_and_no_slope():
    contexts, targets, lengths = examples([([1], [2, 0], [2, 0])])
    logits, _ = OnlyAsked(modern()).forward(contexts)
    _, dlogits, (reward,) = dpo(logits, targets, lengths, [PairLogs(-3.0, -3.0)], 0.5)
    assert reward.margin == 0
    assert dlogits[0] == [-slope for slope in dlogits[2]]


def test_without_references_the_shorter_answer_wins():
    """What the last lines of the chapter say."""
    logits = logits_of(*[[0.2] * 5] * len(TARGETS))
    _, _, rewards = dpo(logits, TARGETS, LENGTHS, [PairLogs(0.0, 0.0)] * 3, 1.0)
    shorter = [len(chosen) < len(rejected) for _, chosen, rejected in PAIRS]
    assert [reward.margin > 1e-9 for reward in rewards] == shorter


@pytest.mark.parametrize(
    "targets, lengths, references, problem",
    [
        ([0, 1], [1, 1], [], "0 pairs have two answers each, not 2"),
        ([0, 1], [2], [PairLogs(0.0, 0.0)], "1 pairs have two answers each, not 1"),
        ([0, 1], [1, 2], [PairLogs(0.0, 0.0)], "answers of 3 tokens need as many rows, not 2"),
        ([0, 1], [2, 0], [PairLogs(0.0, 0.0)], "0 rows of logits"),
        ([0], [1, 1], [PairLogs(0.0, 0.0)], "1 rows of logits need as many targets, not 0"),
        ([0, 7], [1, 1], [PairLogs(0.0, 0.0)], "target 7 is outside the vocabulary"),
    ],
)
def test_what_does_not_fit_is_refused(targets, lengths, references, problem):
    with pytest.raises(ValueError, match=problem):
        dpo(logits_of([0.5, 0.5], [0.5, 0.5]), targets, lengths, references, 1.0)


# ------------------------------------------------------------------------------ log-probabilities


def test_an_answer_is_scored_by_its_own_tokens_with_what_stands_before_them(learner):
    """Token by token, from a forward of its own each time."""
    logits, _ = OnlyAsked(learner).forward(CONTEXTS)
    found = [answer.log_probability for answer in answers_of(logits, TARGETS, LENGTHS)]
    for (question, *answers), logs in zip(PAIRS, zip(found[::2], found[1::2])):
        for answer, log in zip(answers, logs):
            by_hand = 0.0
            for i, token in enumerate(answer):
                last = learner.forward([[*question, *answer[:i]]])[0][-1]
                by_hand += log_softmax(last)[token]
            assert log == approx(by_hand, rel=1e-12)


def test_pair_logs_come_chosen_and_rejected_by_turns():
    logits = logits_of([0.5, 0.5], [0.25, 0.75], [0.1, 0.9])
    ((chosen, rejected),) = pair_logs(logits, [0, 0, 0], [2, 1])
    assert (chosen, rejected) == approx((math.log(0.125), math.log(0.1)))


def test_softplus_is_exact_everywhere():
    for x in (-700.0, -40.0, -1.0, 0.0, 1.0, 30.0):
        assert softplus(x) == approx(math.log1p(math.exp(x)), rel=1e-15, abs=0)
    assert (softplus(1e9), softplus(-1e9)) == (1e9, 0.0)


# ------------------------------------------------------------------------------ how it goes


def test_means_over_the_pairs_by_hand():
    found = preferred([Rewards(1.0, -1.0), Rewards(-2.0, -1.0), Rewards(0.0, 0.0), Rewards(1, 0)])
    assert found == (0.0, -0.5, 0.5)  # a margin of 0 prefers nothing
    assert found.margin == 0.5
    with pytest.raises(ValueError, match="one pair or more"):
        preferred([])


def test_divergence_by_hand():
    ours, theirs = logits_of([0.5, 0.5], [0.9, 0.1]), logits_of([0.25, 0.75], [0.9, 0.1])
    assert divergence(ours, theirs) == approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert divergence(ours, ours) == 0
    assert divergence(theirs, ours) == approx(0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2))


def test_divergence_is_never_below_0_and_finite_where_probabilities_vanish():
    rng = Random(4)
    for _ in range(50):
        ours, theirs = ([[rng.gauss(0, 9) for _ in range(4)] for _ in range(3)] for _ in range(2))
        assert divergence(ours, theirs) > 0
    assert divergence([[0.0, -1e4]], [[-1e4, 0.0]]) == approx(1e4)


def test_the_log_of_a_probability_that_rounds_to_0_is_known():
    assert log_softmax([1000.0, 0.0]) == [0.0, -1000.0]
    assert log_softmax([0.0, 0.0]) == approx([-math.log(2)] * 2)
