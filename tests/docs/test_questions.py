"""docs/questions.md: thirty questions, and places that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "questions.md").read_text("utf-8")
ENTRIES = re.findall(r"^(\d+)\. \*\*(.+?)\*\* (.+?)(?=^\d+\. |^And what)", PAGE, re.M | re.S)


def test_there_are_thirty_numbered_questions():
    assert [int(number) for number, _, _ in ENTRIES] == list(range(1, 31))
    assert all(question.endswith("?") for _, question, _ in ENTRIES)


def test_every_answer_names_a_place_that_exists():
    for number, question, answer in ENTRIES:
        places = re.findall(r"`(tiny_llm/\S+\.py)` `(\w+)`", answer)
        assert places, (number, question)
        for file, name in places:
            source = (ROOT / file).read_text("utf-8")
            assert re.search(rf"^\s*(def|class) {name}\b|\b{name} =", source, re.M), (file, name)


def test_answers_are_short():
    for _, question, answer in ENTRIES:
        assert 8 <= len(answer.split()) <= 70, question


def test_what_they_claim_of_numbers_is_so():
    """39 of 163 million: GPT-2's vocabulary times its width, of all with two tables."""
    vocabulary, width, blocks = 50_257, 768, 12
    table = vocabulary * width
    block = 12 * width * width + 13 * width
    both = 2 * table + 1024 * width + blocks * block + 2 * width
    assert (round(table / 1e6), round(both / 1e6)) == (39, 163)
