"""A run that learns preferences: what it learns, that it goes on exactly, what it refuses."""

import copy
import json

import pytest
from answering import CHAT, base, preference_lines
from conftest import attention, mlp

from tiny_llm.beyond.preference_run import begin_run, resume_run, steps_of
from tiny_llm.fast.packed import pack
from tiny_llm.files import checkpoint
from tiny_llm.files.portable import Chat
from tiny_llm.run.errors import UsageError, UserError
from tiny_llm.run.saved import load_run, save_run
from tiny_llm.run.texts import Text

PREFERENCES = Text("\n".join(preference_lines()), "pairs.jsonl")
OPTIONS = {"steps": 8, "batch_size": 3, "learning_rate": 0.01, "val_fraction": 0.2, "workers": 1}


def stepped(count=2, **more):
    """A run after some of its steps."""
    run, pairs = begun(**more)
    for step in steps_of(run, pairs):
        if step.number == count:
            break
    return run


def begun(**options):
    return begin_run(base(), PREFERENCES, {**OPTIONS, **options})


def test_a_run_learns_which_answer_is_preferred():
    run, pairs = begun()
    steps = list(steps_of(run, pairs))
    assert [step.number for step in steps] == list(range(1, 9))
    assert steps[-1].loss < 0.9 * steps[0].loss
    last = steps[-1].measured
    assert last["accuracy"] == 1.0 and last["margin"] > 0.1 and last["kl"] > 0
    assert steps[-1].val_loss < steps[0].loss
    assert last.keys() == {
        "chosen_reward", "rejected_reward", "margin", "accuracy", "kl", "chosen_loss"
    }  # fmt: skip


def test_what_it_began_with_stays_as_it_was():
    run, pairs = begun()
    before = copy.deepcopy(run.reference)
    assert before == run.model.parameters
    list(steps_of(run, pairs))
    assert run.reference == before != run.model.parameters


def test_what_suits_preferences_is_taken_unless_somebody_says_otherwise():
    run, _ = begin_run(base(), PREFERENCES, {"val_fraction": 0.2})
    options = run.options
    assert (options.optimizer, options.learning_rate, options.batch_size) == ("adamw", 1e-4, 8)
    assert options.steps == 2 and options.min_lr == pytest.approx(1e-5)
    run, _ = begin_run(base(), PREFERENCES, {"batch_size": 3, "val_fraction": 0.2}, repeat=5)
    assert run.options.steps == 15  # five passes over 8 pairs
    run, _ = begin_run(base(), PREFERENCES, {**OPTIONS, "beta": 0.7, "nll_weight": 1.0})
    assert (run.options.beta, run.options.nll_weight) == (0.7, 1.0)


@pytest.mark.parametrize("more", [{}, {"gradient_accumulation_steps": 2, "nll_weight": 0.5}])
def test_a_stopped_run_ends_with_the_same_bytes(tmp_path, more):
    whole, pairs = begun(**more)
    list(steps_of(whole, pairs))
    save_run(tmp_path / "whole", whole)
    save_run(tmp_path / "stopped", stepped(5, **more))
    again, pairs = resume_run(tmp_path / "stopped", PREFERENCES)
    list(steps_of(again, pairs))
    save_run(tmp_path / "stopped", again)
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()


def test_workers_share_it_and_the_reference_is_the_same():
    alone, pairs = begun(matmul="float64")
    first = [step.loss for step in steps_of(alone, pairs)]
    together, pairs = begun(matmul="float64", workers=2)
    steps = list(steps_of(together, pairs))
    assert [step.loss for step in steps] == pytest.approx(first, rel=1e-9)


def test_what_is_measured_is_float64_however_it_is_trained():
    """Where nothing was learned, every reward is exactly 0."""
    run, pairs = begun(steps=1, learning_rate=1e-300, matmul="lanes")
    (step,) = steps_of(run, pairs)
    assert step.measured["chosen_reward"] == step.measured["rejected_reward"] == 0.0
    assert step.measured["kl"] == 0.0


def test_the_reference_is_not_read_by_whoever_only_reads(tmp_path):
    run = stepped()
    save_run(tmp_path / "m", run)
    assert load_run(tmp_path / "m").reference == {}
    assert load_run(tmp_path / "m", to_train=True).reference == run.reference
    assert load_run(tmp_path / "m").chat == CHAT


def test_a_reference_of_another_shape_is_refused(tmp_path):
    run = stepped()
    save_run(tmp_path / "m", run)
    tensors, metadata = checkpoint.load(tmp_path / "m")
    without_one = {name: t for name, t in tensors.items() if name != "reference.ln_f.bias"}
    without_any = {name: t for name, t in tensors.items() if not name.startswith("reference.")}
    for left in (without_one, without_any):
        checkpoint.save(tmp_path / "m", left, metadata)
        with pytest.raises(UserError, match="the weights of its reference are not those"):
            load_run(tmp_path / "m", to_train=True)
        assert load_run(tmp_path / "m").model.parameters == run.model.parameters


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("build", [mlp, attention])
def test_rungs_1_and_2_are_refused_with_a_reason(build):
    with pytest.raises(
        UserError, match=r"cannot weigh whole answers; take one of rung 3: .* --model modern"
    ):
        begin_run(base(build()), PREFERENCES)


def test_int8_weights_are_refused():
    run = base()
    for name, tensor in run.model.parameters.items():
        if isinstance(tensor[0], list):
            run.model.parameters[name] = pack(iter(tensor), False)
    with pytest.raises(UserError, match="int8 weights, which are read and not trained"):
        begin_run(run, PREFERENCES)


def test_a_model_that_was_not_taught_to_answer_is_refused():
    run = base()
    run.chat = Chat()
    with pytest.raises(UserError, match=r"not taught to answer.* recipe chat"):
        begin_run(run, PREFERENCES)


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"dropout": 0.1}, "there is no option 'dropout'"),
        ({"text_sha256": "0"}, "there is no option 'text_sha256'"),
        ({"beta": 0.0}, "--beta must be above 0"),
        ({"nll_weight": -1.0}, "--nll-weight must be at least 0"),
        ({"min_lr": 1.0}, "--min-lr 1 is above --learning-rate 0.0001"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, problem):
    with pytest.raises(UsageError, match=problem):
        begin_run(base(), PREFERENCES, options)


def test_a_line_that_is_none_is_named():
    bad = Text("\n".join([*preference_lines(3), '{"prompt": 1}']), "pairs.jsonl")
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 4: "):
        begin_run(base(), bad)


def test_pairs_that_are_too_long_are_told():
    long = json.dumps({"prompt": "who?" * 40, "chosen": "the cat.", "rejected": "the dog."})
    _, pairs = begin_run(
        base(), Text("\n".join([long, *preference_lines()]), "p"), {"val_fraction": 0.2}
    )
    assert pairs.too_long == [1]
    assert len(pairs.train.pairs) + len(pairs.val.pairs) == 10


@pytest.fixture
def saved(tmp_path):
    run = stepped()
    save_run(tmp_path / "m", run)
    return tmp_path / "m"


def test_what_cannot_change_is_refused(saved):
    with pytest.raises(UsageError, match="--beta cannot change in a resumed run"):
        resume_run(saved, PREFERENCES, {"beta": 0.9})
    with pytest.raises(UsageError, match="can be made longer, not 3 steps long"):
        resume_run(saved, PREFERENCES, {"steps": 3})
    with pytest.raises(UserError, match="learned from other data than other"):
        resume_run(saved, Text(PREFERENCES.content + "\n", "other"))
    run, _ = resume_run(saved, PREFERENCES, {"steps": 20, "patience": 3, "beta": 0.3})
    assert (run.options.steps, run.options.patience) == (20, 3)


def test_a_run_of_another_kind_is_not_resumed(tmp_path):
    save_run(tmp_path / "base", base())
    with pytest.raises(UserError, match="is no run of dpo; to begin one with it"):
        resume_run(tmp_path / "base", PREFERENCES)
