"""What a model says by itself: to its end, and none where the window is full before."""

from random import Random

import pytest
from answering import CHAT, TOKENIZER, WHO, taught

from tiny_llm.beyond.chat import OWN, Message
from tiny_llm.beyond.own_answers import Asked, answers, sampled
from tiny_llm.beyond.preferences import Preference, pair_of
from tiny_llm.sampling import Sampling

ANSWER = "the cat."
PAIR = pair_of(Preference(1, [Message("user", WHO[0])], ANSWER, ""), OWN, TOKENIZER)
GREEDY = Sampling(temperature=0)


def said(context_length, count=1):
    run = taught(ANSWER, context_length=max(context_length, PAIR.window))
    model = run.model
    if context_length < PAIR.window:  # as one whose window ends earlier
        model.config = type(model.config)(
            **{**vars(model.config), "context_length": context_length}
        )
    return answers(model, PAIR.question, CHAT.ends, GREEDY, [Random(i) for i in range(count)])


def test_an_answer_that_fills_the_window_is_one():
    assert said(PAIR.window) == [PAIR.chosen[:-1]]
    assert said(PAIR.window + 5, count=3) == [PAIR.chosen[:-1]] * 3


@pytest.mark.parametrize("less", [1, 2])
def test_one_that_has_not_ended_when_the_window_is_full_is_none(less):
    assert said(PAIR.window - less) == [None]


@pytest.mark.parametrize("right, wrong", [(ANSWER, []), ("the dog.", [ANSWER])])
def test_a_pair_is_made_of_what_the_file_does_not_say(right, wrong):
    model = taught(ANSWER).model
    asked = Asked(7, [Message("user", WHO[0])], right, is_held_out=True)
    rngs = [Random(i) for i in range(3)]
    found = sampled(model, TOKENIZER, OWN, CHAT.ends, asked, GREEDY, rngs)
    assert found.pairs == [Preference(7, asked.question, right, text, True) for text in wrong]
    assert (found.right, found.endless) == (0 if wrong else 3, 0)


def test_every_different_wrong_answer_is_a_pair_of_its_own():
    model = taught(ANSWER, steps=30).model
    asked = Asked(1, [Message("user", WHO[0])], "the dog.")
    rngs = [Random(i) for i in range(30)]
    found = sampled(model, TOKENIZER, OWN, CHAT.ends, asked, Sampling(), rngs)
    rejected = [pair.rejected for pair in found.pairs]
    assert len(set(rejected)) == len(rejected) > 1 and "the dog." not in rejected
    assert found.right + found.endless + len(rejected) <= 30
