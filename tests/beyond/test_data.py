"""The questions and answers about the built-in text: whole, in order, and true to its words."""

import json
import re
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest

from tiny_llm.beyond.chat import OWN, Message
from tiny_llm.text.bpe import END_OF_TEXT, BPETokenizer

ROOT = Path(__file__).parent.parent.parent
CORPUS = (ROOT / "corpus.txt").read_text("utf-8")
SPLITS = ("train", "val", "test")
KINDS = ("elsewhere", "near")
WINDOW, VOCABULARY = 96, 512  # tokens: what the model that learns from them sees, and knows


def read(name):
    path = ROOT / "tiny_llm" / "beyond" / "data" / name
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


FACTS, UNKNOWABLE = read("facts.jsonl"), read("unknowable.jsonl")


def question(row):
    return row["messages"][0]["content"]


def answer(row):
    return row["messages"][1]["content"]


def words(text):
    return re.findall(r"\w+", text.lower())


KNOWN = set(words(CORPUS))


@pytest.mark.parametrize(("rows", "key"), [(FACTS, "fact"), (UNKNOWABLE, "kind")])
def test_a_line_is_a_question_its_answer_and_what_it_is_for(rows, key):
    for row in rows:
        assert list(row) == ["messages", key, "split"]
        assert [list(message) for message in row["messages"]] == [["role", "content"]] * 2
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]


def test_each_fact_has_many_questions_to_learn_from_and_two_held_out_in_this_order():
    groups = [(fact, list(rows)) for fact, rows in groupby(FACTS, lambda row: row["fact"])]
    assert len(groups) == len(dict(groups)) == 48
    for fact, rows in groups:
        *learned, val, test = (row["split"] for row in rows)
        assert set(learned) == {"train"} and (val, test) == ("val", "test"), fact
        assert len(learned) >= 16, fact


def test_a_question_to_learn_from_stands_plainly_and_behind_an_opening_a_held_out_one_behind_one():
    """Else the words of an opening would tell which fact is meant, or that none is held out."""
    learned = [question(row) for row in FACTS if row["split"] == "train"]
    openings = Counter()
    for plain, opened in zip(learned[::2], learned[1::2]):
        opening = opened[: -len(plain)]
        assert opened[len(opening) + 1 :] == plain[1:] and opening.endswith(", ")
        openings[opening] += 1
    assert len(openings) == 8 and min(openings.values()) > 40
    for row in FACTS:
        if row["split"] != "train":
            assert question(row).startswith(tuple(openings)), question(row)


def test_a_fact_has_one_answer_and_no_other_fact_has_it():
    pairs = {(row["fact"], answer(row)) for row in FACTS}
    assert len(pairs) == len({said for _, said in pairs}) == 48


def test_the_unknowable_ones_stand_by_kind_by_part_and_by_the_alphabet():
    keys = [
        (KINDS.index(row["kind"]), SPLITS.index(row["split"]), question(row)) for row in UNKNOWABLE
    ]
    assert keys == sorted(keys)
    counts = Counter((row["kind"], row["split"]) for row in UNKNOWABLE)
    assert [counts["elsewhere", split] for split in SPLITS] == [66, 22, 22]
    assert [counts["near", split] for split in SPLITS] == [24, 8, 8]


def test_they_have_one_honest_answer():
    (said,) = {answer(row) for row in UNKNOWABLE}
    assert said.startswith("I only know about ")
    assert set(words(said)) - {"i"} <= KNOWN


def test_near_ones_are_of_the_words_of_the_text_and_the_others_ask_for_something_else():
    for row in UNKNOWABLE:
        known = [word in KNOWN for word in words(question(row))]
        if row["kind"] == "near":
            assert sum(known) >= len(known) / 2, question(row)
        else:
            assert not all(known), question(row)


def test_no_question_stands_twice():
    asked = Counter(tuple(words(question(row))) for row in FACTS + UNKNOWABLE)
    assert len(asked) == len(FACTS) + 150


def test_every_character_stands_in_the_text():
    for row in FACTS + UNKNOWABLE:
        assert set(question(row) + answer(row)) <= set(CORPUS), row


def test_every_word_of_what_is_known_stands_in_the_text():
    for row in FACTS:
        assert set(words(answer(row))) <= KNOWN, answer(row)


def test_they_are_short():
    for row in FACTS + UNKNOWABLE:
        assert 2 <= len(question(row).split()) <= 20, question(row)
        assert 1 <= len(answer(row).split()) <= 8, answer(row)


def test_a_small_window_holds_each_of_them():
    tokenizer = BPETokenizer.train(CORPUS, VOCABULARY, (END_OF_TEXT, *sorted(OWN.markers)))
    for row in FACTS + UNKNOWABLE:
        messages = [Message(**message) for message in row["messages"]]
        assert len(OWN.ids(messages, tokenizer)) <= WINDOW, question(row)


def right_by_shared_words(split):
    """The share of held-out questions that get the answer of the question to learn from with which
    they share the most words; of several such questions, each counts alike."""
    learned = [(set(words(question(row))), answer(row)) for row in FACTS if row["split"] == "train"]
    asked = [row for row in FACTS if row["split"] == split]
    right = 0.0
    for row in asked:
        own = set(words(question(row)))
        shared = [len(known & own) for known, _ in learned]
        most = max(shared)
        nearest = [said for n, (_, said) in zip(shared, learned) if n == most]
        right += nearest.count(answer(row)) / len(nearest)
    return right / len(asked)


@pytest.mark.parametrize("split", ["val", "test"])
def test_words_that_questions_share_do_not_give_the_answers_away(split):
    assert 0.35 <= right_by_shared_words(split) <= 0.5


def test_a_question_that_was_learned_finds_itself():
    assert right_by_shared_words("train") > 0.9
