"""Preferences: what a line may say, and every way in which it may be wrong, by its number."""

import json

import pytest

from tiny_llm.beyond.chat import CHATML, OWN, Message, can_speak
from tiny_llm.beyond.pairs import Pair
from tiny_llm.beyond.preferences import Preference, fitting, pair_of, read_preferences
from tiny_llm.text.bpe import BPETokenizer

WHO = [Message("user", "Who sleeps?")]
TALK = [Message("system", "Be short."), Message("user", "Hi"), Message("assistant", "Hello"), *WHO]


def said(messages):
    return [message._asdict() for message in messages]


def read(*lines):
    lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return list(read_preferences(lines, "pairs.jsonl"))


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "line, question",
    [
        ({"prompt": "Who sleeps?", "chosen": "A", "rejected": "B"}, WHO),
        ({"prompt": said(WHO), "chosen": "A", "rejected": [assistant("B")]}, WHO),
        ({"messages": said(TALK), "chosen": "A", "rejected": "B", "source": 7}, TALK),
        (
            {
                "chosen": [*said(TALK), assistant("A")],
                "rejected": [*said(TALK), assistant("B")],
                "prompt": said(TALK),
            },
            TALK,
        ),
        ({"chosen": [*said(WHO), assistant("A")], "rejected": "B"}, WHO),
    ],
)
def test_every_usual_shape_of_a_line_is_read(line, question):
    assert read(line) == [Preference(1, question, "A", "B")]


def test_lines_are_numbered_as_they_stand_and_empty_ones_are_none():
    line = {"prompt": "Who sleeps?", "chosen": "A", "rejected": "B"}
    held = {**line, "split": "validation"}
    learned = {**line, "split": "train"}
    found = read("", line, "  ", held, learned, {**line, "split": "test"})
    assert [(one.line, one.is_held_out) for one in found] == [(2, None), (4, True), (5, False)]


GOOD = {"prompt": "Who?", "chosen": "A", "rejected": "B"}


@pytest.mark.parametrize(
    "line, problem",
    [
        ("{", "Expecting"),
        ("[1]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ({"prompt": "Who?", "chosen": "A"}, 'it has no "rejected" answer'),
        ({"prompt": "Who?", "rejected": "A"}, 'it has no "chosen" answer'),
        ({"chosen": "A", "rejected": "B"}, "it has no question"),
        ({**GOOD, "messages": said(WHO)}, 'both "prompt" and "messages"'),
        ({**GOOD, "prompt": 5}, '"prompt" must be a text or a list'),
        ({**GOOD, "prompt": None}, '"prompt" must be a text or a list'),
        ({**GOOD, "prompt": []}, '"prompt" must be a text or a list of messages that is not empty'),
        ({**GOOD, "chosen": 5}, '"chosen" must be a text or a list'),
        ({**GOOD, "rejected": [{"role": "user", "content": "B"}]}, "must be the assistant's"),
        ({**GOOD, "rejected": [{"role": "robot", "content": "B"}]}, 'must have a "role", one of'),
        ({**GOOD, "rejected": [{"role": ["user"], "content": "B"}]}, 'must have a "role", one of'),
        ({**GOOD, "rejected": [{"role": "assistant"}]}, 'and a "content", a text'),
        ({**GOOD, "rejected": ["B"]}, 'must have a "role"'),
        ({**GOOD, "prompt": [assistant("Hi")]}, "must end with a message of the user"),
        ({**GOOD, "chosen": [*said(WHO), assistant("A")]}, "not to the same question"),
        ({**GOOD, "chosen": " "}, 'its "chosen" answer is empty'),
        ({**GOOD, "rejected": "A"}, "its two answers are the same"),
        ({**GOOD, "split": "later"}, "must be one of train, val, validation, test, not 'later'"),
        ({**GOOD, "split": ["train"]}, "must be one of train"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(line, problem):
    with pytest.raises(ValueError, match=r"^pairs\.jsonl, line 2: ") as caught:
        read(GOOD, line)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_what_a_wrong_line_holds_can_do_nothing_to_a_terminal():
    with pytest.raises(ValueError, match="line 1") as caught:
        read({**GOOD, "split": "\x1b[31m\n"})
    assert "\x1b" not in str(caught.value)


# ------------------------------------------------------------------------------ tokens


def special(template):
    """A tokenizer that has the markers of this layout."""
    text = "who sleeps? the cat. the dog. " * 9
    return BPETokenizer.train(text, 280, sorted(template.markers))


@pytest.mark.parametrize("template", [OWN, CHATML])
def test_an_answer_is_its_tokens_and_the_one_that_ends_it(template):
    tokenizer = special(template)
    assert can_speak(tokenizer, template)
    pair = pair_of(Preference(1, TALK, "the cat.", ""), template, tokenizer)
    end = tokenizer.special_tokens["<|end|>" if template is OWN else "<|im_end|>"]
    assert pair.chosen == [*tokenizer.encode("the cat."), end]
    assert pair.rejected == [end]
    assert pair.question == template.ids(TALK, tokenizer) + template.answer(tokenizer)
    assert not set(pair.chosen[:-1]) & set(tokenizer.special_tokens.values())


@pytest.mark.parametrize("template", [OWN, CHATML])
def test_markers_in_a_text_are_text(template):
    tokenizer = special(template)
    typed = "".join(sorted(template.markers))
    pair = pair_of(
        Preference(1, [Message("user", typed)], typed + "a", typed + "b"), template, tokenizer
    )
    markers = [token for token in pair.chosen if token in tokenizer.special_tokens.values()]
    assert len(markers) == 1


def preferences(count, length=1, **more):
    return [Preference(i, WHO, "a" * length, "b", **more) for i in range(1, count + 1)]


def test_every_so_many_pairs_are_held_out():
    found = fitting(preferences(20), OWN, special(OWN), 90, 0.1)
    assert (len(found.learned), len(found.held_out), found.too_long) == (18, 2, [])


def test_lines_that_say_where_they_belong_are_put_there():
    told = preferences(3, is_held_out=True) + preferences(5, is_held_out=False)
    found = fitting(told, OWN, special(OWN), 90, 0.1)
    assert (len(found.learned), len(found.held_out)) == (5, 3)


def test_a_pair_that_no_window_holds_is_named_and_left_out():
    tokenizer = special(OWN)
    long = preferences(1, length=60)[0]._replace(line=7)
    window = pair_of(long, OWN, tokenizer).window
    many = [*preferences(4), long]
    assert fitting(many, OWN, tokenizer, window - 1, 0.5).too_long == [7]
    assert fitting(many, OWN, tokenizer, window, 0.5).too_long == []


def test_a_part_without_a_pair_is_refused():
    with pytest.raises(ValueError, match=r"no pair to hold out; give more lines"):
        fitting(preferences(3), OWN, special(OWN), 90, 0.1)
    with pytest.raises(
        ValueError, match="no pair to learn from; longer than the window of 2 tokens: 3"
    ):
        fitting(preferences(3), OWN, special(OWN), 2, 0.1)


def test_a_window_sees_all_but_the_last_token():
    assert Pair([1, 2], [3, 4, 0], [0]).window == 4
