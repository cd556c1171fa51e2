"""One table of options: flags, checks and stored runs follow from it."""

import argparse
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_llm.cli import gradcheck, main, train
from tiny_llm.cli.options import SIZES
from tiny_llm.files import checkpoint
from tiny_llm.run import saved
from tiny_llm.run.begin import begin, resume, steps_of
from tiny_llm.run.errors import UsageError, UserError
from tiny_llm.run.options import BY_NAME, Options, options_from
from tiny_llm.run.rungs import RUNGS
from tiny_llm.run.saved import load_run, model_from, save_run
from tiny_llm.run.sources import Cut, read_source

OLD = Path(__file__).parents[1] / "references" / "run_0.1.safetensors"  # written by 5194ed6
TEXT = "the cat sat on the mat. the dog sat on the log. " * 4


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    Path("lines.txt").write_text("ab\ncd\nba\n" * 9, encoding="utf-8")
    return tmp_path


def small(**options):
    source = read_source("text.txt")
    return begin(source, "mlp", {"context_length": 4, "d_hidden": 8}, {"steps": 6, **options})


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")},
        {"schedule": "linear"}, {"beta1": 1.0}, {"val_fraction": 1.0}, {"dropout": 1.0},
        {"min_lr": 0.2}, {"steps": 1.5}, {"steps": True}, {"seed": -1}, {"optimizer": 3},
        {"steps": 10**400}, {"workers": 0},
    ],
)  # fmt: skip
def test_nonsense_is_no_option(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)


def test_a_missing_option_takes_its_default_and_an_unknown_one_is_named():
    options, unknown = options_from({"steps": 7, "of_the_future": 1, "optimizer": "lion"})
    assert options == Options(steps=7)
    assert unknown == ["of_the_future", "optimizer"]
    options, unknown = options_from({"learning_rate": "high", "min_lr": 0.2})
    assert (options, unknown) == (Options(), ["learning_rate", "min_lr"])


@pytest.mark.parametrize(
    "command, others",
    [
        ("train", ["conversations", "preferences"]),
        ("sft", ["preferences"]),
        ("dpo", ["conversations"]),
    ],
)
def test_every_option_with_a_help_is_a_flag(command, others, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    for name, field in BY_NAME.items():
        if field.metadata["help"]:
            is_there = "--" + name.replace("_", "-") + " " in out
            is_elsewhere = field.metadata["group"] in others
            is_elsewhere |= name == "dropout" and command != "train"
            assert is_there != is_elsewhere, name


def stated(add_arguments):
    """option -> what its help says in brackets at its end."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return {a.dest: a.help.rpartition("(")[2][:-1] for a in parser._actions if a.help[-1] == ")"}


def test_help_says_what_each_rung_has_by_default():
    said = stated(train.add_arguments)
    rates = [f"{name} {rung.options['learning_rate']:g}" for name, rung in RUNGS.items()]
    assert said["learning_rate"] == ", ".join(rates)
    assert said["repeat"] == ", ".join(f"{name} {rung.repeat}" for name, rung in RUNGS.items())
    depending = {"min_lr", "eval_every", "workers", "matmul", "vocab_size"}  # on more
    for rung in RUNGS:
        run, _ = begin(read_source("text.txt"), rung)
        taken = {**dataclasses.asdict(run.options), **dataclasses.asdict(run.model.config)}
        for name in said.keys() & taken.keys() - depending:
            own = dict(part.split(" ") for part in said[name].split(", ") if " " in part)
            word = own.get(rung, said[name])
            assert {"yes": True}.get(word, word) == taken[name] or float(word) == taken[name]
    assert depending | set(SIZES) < said.keys()


def test_help_of_gradcheck_says_what_is_small_in_it():
    said = stated(gradcheck.add_arguments)
    assert (said["context_length"], said["n_layers"]) == ("6", "modern 2, llama 1")


def test_an_option_more_is_one_entry(monkeypatch, capsys):
    """A file without it still loads, with its default; a file with it loads without it."""
    run, _ = small()
    save_run(Path("before"), run)
    more = dataclasses.make_dataclass(
        "More", [("warmth", "float", dataclasses.field(default=0.5, metadata={
            "check": BY_NAME["min_lr"].metadata["check"], "choices": None, "help": "w",
            "group": "optimizer", "flags": ()}))], bases=(Options,), frozen=True,
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(saved, "options_from", lambda values: (more(**values), []))
        assert load_run(Path("before")).options.warmth == 0.5
    tensors, metadata = checkpoint.load(Path("before"))
    metadata["training"]["warmth"] = 0.5
    checkpoint.save(Path("after"), tensors, metadata)
    assert load_run(Path("after")).unknown == ["warmth"]
    assert main(["generate", "-c", "after", "-n", "3"]) == 0
    assert "another version, which are left out here: warmth" in capsys.readouterr().err
    words = ["train", "--resume", "after", "--data", "text.txt", "-n", "0", "--quiet"]
    assert main(words) == 1
    assert "it cannot go on with warmth, which another version" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, value",
    [("optimizer", "lion"), ("steps", "many"), ("schedule", {"a": 1}), ("seed", -1), ("new", None)],
)
def test_readers_do_without_options_that_they_do_not_understand(name, value, capsys):
    run, material = small()
    list(steps_of(run, material))
    save_run(Path("m"), run)
    tensors, metadata = checkpoint.load(Path("m"))
    metadata["training"][name] = value
    checkpoint.save(Path("m"), tensors, metadata)
    for words in (["generate", "-n", "3"], ["eval", "--data", "text.txt"], ["report", "-n", "3"]):
        assert main([*words, "-c", "m"]) == 0, words
        assert f"left out here: {name}\n" in capsys.readouterr().err
    page = Path("m.report.html").read_text("utf-8")
    assert f"left out here: {name}" in page
    assert ("not understood here" in page) is (name != "new")
    for words in (["train", "--resume", "m", "--data", "text.txt"], ["trace", "-c", "m"]):
        assert main([*words, "--quiet"]) == 1
        assert f"it cannot go on with {name}, which another" in capsys.readouterr().err


def test_a_run_from_python_alone(capsys):
    run, material = small(learning_rate=0.2)
    steps = list(steps_of(run, material))
    assert [step.number for step in steps] == [1, 2, 3, 4, 5, 6]
    assert run.step == 6 and run.best is not None
    save_run(Path("run"), run)
    again, material = resume(Path("run"), read_source("text.txt"), {"steps": 9})
    assert [step.number for step in steps_of(again, material)] == [7, 8, 9]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options, cut, problem",
    [
        ({"learning_rate": -1.0}, Cut(), "--learning-rate must be above 0, not -1.0"),
        ({"min_lr": 1.0}, Cut(), "--min-lr 1 is above --learning-rate 0.1"),
        ({"dropout": 0.1}, Cut(), "--dropout is there for --model modern, not for mlp"),
        ({}, Cut(vocab_size=300), "--vocab-size is the size of a new --tokenizer bpe"),
    ],
)
def test_what_makes_no_sense_is_refused(options, cut, problem):
    with pytest.raises(UsageError, match=problem):
        begin(read_source("text.txt"), "mlp", {"context_length": 4}, options, cut=cut)


@pytest.mark.parametrize(
    "call, problem",
    [
        (lambda t: begin(t, "mpl"), "there is no rung 'mpl'; did you mean 'mlp'?"),
        (lambda t: begin(t, "gpt"), "there is no rung 'gpt'; there are attention, "),
        (lambda t: begin(t, options={"learning_rat": 1}), "did you mean 'learning_rate'?"),
        (lambda t: begin(t, options={"text_sha256": ""}), "there is no option 'text_sha256'"),
        (lambda t: begin(t, options={3: 1}), "there is no option 3; there are batch_size,"),
        (lambda t: begin(t, options={"steps": "9"}), "--steps must be of type int, not '9'"),
        (lambda t: begin(t, sizes={"d_modle": 9}), "--d-modle is no size of --model mlp"),
        (lambda t: begin(t, sizes={"d_hidden": "9"}), "d_hidden must be a whole number"),
        (lambda t: begin(t, "modern", {"tie_embeddings": 1}), "--tie-embeddings must be True or"),
        (lambda t: begin(t, repeat=0), "--repeat must be a whole number of at least 1, not 0"),
        (lambda t: begin(t, cut=Cut(tokenizer="pbe")), "no tokenizer 'pbe'; did you mean 'bpe'?"),
        (lambda t: resume("m", t, {"stepz": 9}), "no option 'stepz'; did you mean 'steps'?"),
        (lambda t: resume("m", t, {"steps": "9"}), "--steps must be of type int, not '9'"),
        (lambda t: resume("m", t, {"d_hiden": 8}), "'d_hiden'; did you mean 'd_hidden'?"),
        (lambda t: resume("m", t, {"batch_size": "9"}), "--batch-size cannot change"),
        (lambda t: resume("m", t, repeat=1.5), "--repeat must be a whole number"),
    ],
)  # fmt: skip
def test_from_python_a_wrong_option_is_named(call, problem):
    run, _ = small()
    save_run(Path("m"), run)
    with pytest.raises(UsageError, match=re.escape(problem)):
        call(read_source("text.txt"))


def test_how_a_text_is_cut_may_be_an_option():
    source, sizes = read_source("text.txt"), {"context_length": 4}
    run, material = begin(source, "mlp", sizes, {"val_fraction": 0.5})
    assert run.options.val_fraction == 0.5
    assert material.sizes == (len(TEXT) // 2, len(TEXT) // 2)
    source = read_source("lines.txt")
    run, material = begin(source, "mlp", sizes, {"lines": True})
    assert run.options.lines and material.lines


def test_workers_may_change_in_a_resumed_run():
    assert main(["train", "--data", "text.txt", "--steps", "4", "--stop-after", "2", "--quiet",
                 "-n", "0", "-o", "m"]) == 0  # fmt: skip
    words = ["train", "--data", "text.txt", "--resume", "m", "--quiet", "-n", "0"]
    assert main([*words, "--workers", "2"]) == 0
    assert load_run(Path("m")).options.workers == 2


def test_loading_draws_nothing(monkeypatch):
    run, _ = small()
    save_run(Path("m"), run)
    monkeypatch.setattr("tiny_llm.model.draw", None)  # calling it would fail
    assert load_run(Path("m")).model.parameters == run.model.parameters


def test_parameters_that_do_not_fit_are_refused():
    run, _ = small()
    kind, config, own = type(run.model), run.model.config, run.model.parameters
    for wrong, problem in [
        ({k: v for k, v in own.items() if k != "output.bias"}, "output.bias is missing"),
        ({**own, "extra": [0.0]}, "parameter extra is not one of this model's"),
        ({**own, "output.bias": [0.0]}, r"output.bias has shape \(1,\), not"),
    ]:
        with pytest.raises(ValueError, match=problem):
            model_from(kind, config, wrong)


def test_huge_sizes_in_a_file_take_no_memory():
    run, _ = small()
    save_run(Path("m"), run)
    tensors, metadata = checkpoint.load(Path("m"))
    metadata["config"]["d_hidden"] = 10**9
    checkpoint.save(Path("huge"), tensors, metadata)
    with pytest.raises(UserError, match="d_hidden 1000000000 does not fit its tensors"):
        load_run(Path("huge"))


# ------------------------------------------------------------------------------ files of before


def test_a_file_of_the_code_before_the_rooms_still_loads_and_writes(capsys):
    assert main(["generate", "-c", str(OLD), "-p", "a", "-n", "5", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("a")
    run = load_run(OLD, to_train=True)
    assert run.rung == "modern" and run.step == 4
    assert run.options.dropout == 0.1  # which stood in the config then
    assert run.optimizer.state


def test_a_file_of_the_code_before_the_rooms_goes_on(capsys):
    words = ["train", "--resume", str(OLD), "--out", "m", "--quiet", "-n", "0"]
    code = main([*words, "--data", str(Path(__file__).parents[1] / "references" / "old.txt")])
    assert code == 0, capsys.readouterr().err
    assert load_run(Path("m")).step == 6


def test_importing_a_run_needs_no_command_line():
    code = "import tiny_llm.run.begin, sys; sys.exit('argparse' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
