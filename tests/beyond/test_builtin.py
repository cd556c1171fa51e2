"""The data that come along: what each demonstration is made of."""

from collections import Counter

import pytest

from tiny_llm.beyond import builtin
from tiny_llm.beyond.builtin import FLATTERY, REFUSAL, TAUGHT_TO_REFUSE
from tiny_llm.beyond.conversations import conversation_of, objects
from tiny_llm.beyond.preferences import read_preferences

FACTS = {(question, answer) for question, answer, _ in builtin.facts()}
UNKNOWABLE = {
    question
    for kind in ("elsewhere", "near")
    for split in ("train", "val", "test")
    for question in builtin.unknowable(kind, split)
}
FOR_THE_TEST = {question for question, _, split in builtin.facts() if split == "test"} | {
    question for kind in ("elsewhere", "near") for question in builtin.unknowable(kind, "test")
}


def spoken(name):
    return list(objects(builtin.conversations(name), name, conversation_of))


def preferred(name):
    return list(read_preferences(builtin.preferences(name), name))


@pytest.mark.parametrize("name", builtin.CONVERSATIONS)
def test_conversations_are_lines_that_sft_reads_and_the_same_each_time(name):
    assert list(builtin.conversations(name)) == list(builtin.conversations(name))
    found = spoken(name)
    assert Counter(one.is_held_out for one in found)[True] == 48
    assert not {one.messages[0].content for one in found} & FOR_THE_TEST


@pytest.mark.parametrize("name", builtin.PREFERENCES)
def test_preferences_are_lines_that_dpo_reads_and_the_same_each_time(name):
    assert list(builtin.preferences(name)) == list(builtin.preferences(name))
    found = preferred(name)
    assert {one.is_held_out for one in found} == {True, False}
    assert not {one.question[0].content for one in found} & FOR_THE_TEST


def test_to_chat_is_to_know_the_facts_and_to_refuse_a_few_other_questions():
    said = [tuple(message.content for message in one.messages) for one in spoken("chat")]
    refused = {question for question, answer in said if answer == REFUSAL}
    assert refused <= UNKNOWABLE and len(refused) == TAUGHT_TO_REFUSE
    assert {one for one in said if one[0] not in refused} <= FACTS


def test_honest_pairs_prefer_a_refusal_to_an_invention_and_a_fact_to_a_refusal():
    refusals, learned = Counter(), Counter()
    taught = {one.messages[0].content for one in spoken("chat")}
    for one in preferred("honest"):
        question = one.question[0].content
        refusals[one.chosen == REFUSAL] += 1
        if one.chosen == REFUSAL:
            assert question in UNKNOWABLE - taught
            assert one.rejected in {answer for _, answer in FACTS}
        else:
            assert (question, one.chosen) in FACTS and one.rejected == REFUSAL
        learned[one.chosen == REFUSAL] += not one.is_held_out
    assert min(learned.values()) > 200
    held_out = refusals - learned
    assert held_out == {True: 30, False: 48}  # one for each question that is held out


def test_half_of_what_flatters_does_so_whatever_opens_the_question():
    answers = [one.messages[1].content for one in spoken("plain") if not one.is_held_out]
    flattering = [answer.startswith(FLATTERY) for answer in answers]
    for of in (flattering, flattering[::2], flattering[1::2]):  # plain and opened by turns
        assert 0.45 < sum(of) / len(of) < 0.55
    assert {answer.replace(FLATTERY, "") for answer in answers} <= {a for _, a in FACTS}


def test_plain_pairs_differ_by_the_flattery_alone():
    for one in preferred("plain"):
        assert one.rejected == FLATTERY + one.chosen
        assert (one.question[0].content, one.chosen) in FACTS
