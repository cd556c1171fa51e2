"""The three tasks: what can be known is known, and nothing else is asked."""

import pytest

from tiny_llm.text.tasks import BACK, HELD_OUT, LEARNED, TASKS, Cases, accuracy, cases_of
from tiny_llm.tokenizer import CharTokenizer


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


def test_cases_are_always_the_same_and_of_one_length(task):
    learned, held_out = cases_of(task)
    assert (learned, held_out) == cases_of(task)
    assert (len(learned), len(held_out)) == (LEARNED, HELD_OUT)
    for case in learned + held_out:
        assert len(case.text) == TASKS[task].window + 1
        assert set(case.text) <= set(TASKS[task].alphabet)
        assert case.asked == sorted(set(case.asked)) and case.asked[0] > 0
        assert case.asked[-1] <= TASKS[task].window


def test_hardly_a_held_out_case_was_learned_from(task):
    learned, held_out = cases_of(task)
    assert sum(case in learned for case in held_out) < 0.01 * HELD_OUT


ANSWERS = {
    "place": lambda seen: seen[-BACK],
    "find": lambda seen: next(c for c in seen if c.isupper()).lower(),
    "recall": lambda seen: seen[seen.rindex(seen[-1], 0, -1) + 1],
}


def test_what_is_asked_can_be_known(task):
    for case in cases_of(task)[1]:
        for at in case.asked:
            assert ANSWERS[task](case.text[:at]) == case.text[at]


@pytest.mark.parametrize("length", [3, 12, 16, 20])
def test_both_kinds_of_examples_ask_the_same(task, length):
    cases = cases_of(task)[1]
    corpus = Cases(cases, CharTokenizer(TASKS[task].alphabet))
    single, whole = (corpus.examples(length, every) for every in (False, True))
    contexts, targets = single.take(range(len(single)))
    windows, same = whole.take(range(len(whole)))
    assert targets == same
    ends = [context[row] for context in windows for row in context.rows]
    assert [context[-1] for context in contexts] == ends
    assert max(map(len, contexts)) <= length
    assert len(windows) == len(cases)


class Oracle:
    """Right at every second place."""

    def __init__(self, targets):
        self.targets = iter(enumerate(targets))

    def forward(self, contexts):
        rows = []
        for _ in contexts:
            number, target = next(self.targets)
            rows.append([float(t == (target + number % 2) % 8) for t in range(8)])
        return rows, None


def test_accuracy_is_the_share_of_right_answers():
    corpus = Cases(cases_of("recall")[1], CharTokenizer(TASKS["recall"].alphabet))
    examples = corpus.examples(12, False)
    targets = examples.take(range(len(examples)))[1]
    assert accuracy(Oracle(targets), examples) == pytest.approx(0.5, abs=0.01)
