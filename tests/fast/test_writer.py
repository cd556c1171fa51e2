"""Several texts in one batch: each the text that it would be alone."""

from random import Random

import pytest
from test_sampling import Stub

from tiny_llm import Sampling, generate
from tiny_llm.fast.writer import Writer


def written(model, prompt, n, rngs, sampling=None, remember=True, ending=None):
    """n steps of a writer -> the tokens of each text; `ending`: step -> the texts that end."""
    writer = Writer(model, prompt, rngs, sampling or Sampling(), remember)
    texts = [[] for _ in rngs]
    for step in range(n):
        if not writer.windows:
            break
        for text, token in writer.step().items():
            texts[text].append(token)
        for text in (ending or {}).get(step, []):
            writer.end(text)
    return texts


@pytest.mark.parametrize("remember", [True, False])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_text_is_the_same_whatever_is_written_beside_it(build, n, remember):
    model = build(context_length=4)
    texts = written(model, [1, 2], 15, [Random(seed) for seed in range(n)], remember=remember)
    assert texts == [list(generate(model, [1, 2], 15, Random(seed))) for seed in range(n)]
    assert len(set(map(tuple, texts))) == n


def test_all_are_drawn_in_the_same_way(build):
    sampling = Sampling(0.5, 3, 0.9)
    texts = written(build(), [1], 9, [Random(0), Random(1)], sampling)
    assert texts == [list(generate(build(), [1], 9, Random(seed), sampling)) for seed in range(2)]


def test_a_step_is_one_forward_of_all_that_are_left():
    model = Stub(context_length=3)
    writer = Writer(model, [7], [Random(i) for i in range(3)], Sampling())
    sizes = []
    for number in range(5):
        writer.step()
        sizes.append(len(model.seen))
        model.seen.clear()
        for text in {0: [1], 2: [0]}.get(number, []):
            writer.end(text)
    assert sizes == [3, 2, 2, 1, 1]


@pytest.mark.parametrize("remember", [True, False])
def test_a_text_that_ends_early_changes_no_other(build, remember):
    model = build(context_length=4)
    rngs = [Random(seed) for seed in range(3)]
    texts = written(model, [1, 2], 12, rngs, remember=remember, ending={2: [1], 6: [0]})
    alone = [list(generate(model, [1, 2], 12, Random(seed))) for seed in range(3)]
    assert texts == [alone[0][:7], alone[1][:3], alone[2]]


def test_a_model_of_lines_begins_anew_behind_each():
    model = Stub(context_length=3, logits=[0.0, -1e9, -1e9, -1e9])
    writer = Writer(model, [1, 2], [Random(0)], Sampling(), separator=0)
    writer.step()
    assert writer.windows == {0: [0]}


def test_only_the_text_that_has_ended_its_line_begins_anew():
    model = Stub(context_length=9)
    writer = Writer(model, [1, 2], [Random(seed) for seed in range(8)], Sampling(), separator=3)
    tokens = writer.step()
    assert {3} < set(tokens.values())
    for text, token in tokens.items():
        assert writer.windows[text] == ([3] if token == 3 else [1, 2, token])


@pytest.mark.parametrize("remember", [True, False])
def test_a_line_is_written_as_if_it_were_the_first(build, remember):
    """What stood before the separator changes nothing, remembered or not."""
    model, texts = build(context_length=4), []
    for before in ([1, 2], [4]):
        writer = Writer(model, before, [Random(0)], Sampling(), remember, separator=3)
        writer.windows[0] = [3]  # as after a step that drew it
        texts.append([writer.step()[0] for _ in range(9)])
    assert texts[0] == texts[1]


def test_of_a_long_prompt_the_model_sees_the_end():
    model = Stub(context_length=4)
    Writer(model, [4, 3, 2, 1, 0, 1, 2], [Random(0)], Sampling()).step()
    assert model.seen == [[1, 0, 1, 2]]


def test_nothing_is_left_when_all_texts_have_ended():
    writer = Writer(Stub(), [0], [Random(0), Random(1)], Sampling())
    writer.step()
    for text in (0, 1):
        writer.end(text)
    assert writer.windows == writer.rngs == {}


def test_a_prompt_is_needed():
    with pytest.raises(ValueError, match="give at least one token"):
        Writer(Stub(), [], [Random(0)], Sampling())
