"""tiny-lm dpo: from preferences to a model, resumed and warned, and its own answers as pairs."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from answering import TOKENIZER, base, preference_lines, taught
from conftest import mlp

from tiny_llm.beyond.preference_run import BROKEN, PairKeeper, has_collapsed
from tiny_llm.cli import main
from tiny_llm.run.files import run_files
from tiny_llm.run.metrics import MEASURED, read_metrics
from tiny_llm.run.saved import load_run, save_run
from tiny_llm.run.steps import Step

SETTINGS = ["--steps", "8", "--batch-size", "3", "--lr", "0.01", "--eval-every", "4"]
FLAGS = ["--data", "pairs.jsonl", "--val-fraction", "0.2", "--workers", "1", *SETTINGS]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_run(Path("sft.safetensors"), base())
    Path("pairs.jsonl").write_text("\n".join(preference_lines()), encoding="utf-8")


def dpo(*flags):
    return main(["dpo", *flags])


def learn(out, *flags):
    return dpo("-c", "sft.safetensors", *FLAGS, "-o", out, *flags)


def test_it_learns_says_how_it_goes_and_shows_what_is_now_said(capsys):
    assert learn("m") == 0
    out, err = capsys.readouterr()
    assert "8 to learn from, 2 held out" in err and "beta 0.3" in err
    assert err.count("rewards:") == 2
    for name in ("chosen", "rejected", "margin", "accuracy", "KL"):
        assert name in err.split("rewards:")[1]
    assert "pairs/s" in err
    assert [line.split()[0] for line in out.splitlines()] == ["question", "before", "now"] * 2
    assert "question  who? who?" in out and "<|" not in out
    learned = load_run(Path("m"))
    assert learned.options.stage == "dpo" and learned.step == 8
    assert learned.model.parameters != base().model.parameters
    assert learned.chat == base().chat


def test_metrics_hold_what_was_measured_at_each_evaluation():
    assert learn("m", "--quiet") == 0
    records = read_metrics(Path("m.metrics.jsonl"))
    measured = [record["step"] for record in records if all(name in record for name in MEASURED)]
    assert measured == [4, 8] and len(records) == 8
    assert records[-1]["margin"] == pytest.approx(
        records[-1]["chosen_reward"] - records[-1]["rejected_reward"]
    )


def test_a_stopped_run_goes_on_to_the_same_bytes(capsys):
    assert learn("whole", "--quiet") == 0
    assert learn("stopped", "--stop-after", "5") == 0
    assert "dpo --resume stopped --data pairs.jsonl" in capsys.readouterr().err
    assert dpo("--resume", "stopped", "--data", "pairs.jsonl", "--quiet") == 0
    assert Path("stopped").read_bytes() == Path("whole").read_bytes()
    whole, stopped = (read_metrics(Path(f"{name}.metrics.jsonl")) for name in ("whole", "stopped"))
    timed = {"tokens_per_second": 0}
    assert [{**record, **timed} for record in stopped] == [{**r, **timed} for r in whole]


def test_rewards_are_drawn_and_reported(capsys):
    assert learn("m.safetensors", "--quiet") == 0
    capsys.readouterr()
    assert main(["plot", "--rewards", "m.metrics.jsonl", "--svg", "m.svg"]) == 0
    out = capsys.readouterr().out
    for name in ("m:chosen_reward", "m:rejected_reward", "m:margin", "accuracy", "KL"):
        assert name in out
    assert "nats per token" not in out and "Rewards" in Path("m.svg").read_text("utf-8")
    assert main(["plot", "m.metrics.jsonl"]) == 0
    assert capsys.readouterr().out.startswith("loss, nats per pair")
    assert main(["report", "-c", "m.safetensors", "-n", "1", "--quiet"]) == 0
    page = Path("m.report.html").read_text("utf-8")
    assert "which of two answers is the better one" in page and "no preference 0.693" in page
    assert "<th>rejected reward</th>" in page.replace(' scope="col"', "")
    assert 'src="data:image/svg+xml;base64,' in page and "nats per pair" in page


def test_a_run_of_another_kind_has_no_rewards_to_draw(capsys):
    Path("text.txt").write_text("the cat sat on the mat. " * 20, encoding="utf-8")
    small = ["--context-length", "4", "--steps", "2", "-n", "0", "--quiet", "-o", "t"]
    assert main(["train", "--data", "text.txt", *small]) == 0
    assert main(["plot", "--rewards", "t.metrics.jsonl"]) == 1
    assert "holds no rewards: it is of no run of dpo" in capsys.readouterr().err
    assert dpo("--resume", "t", "--data", "pairs.jsonl") == 1
    assert "t is no run of dpo; to begin one with it" in capsys.readouterr().err


def test_train_does_not_go_on_with_it(capsys):
    assert learn("m", "--quiet") == 0
    assert main(["train", "--resume", "m", "--data", "pairs.jsonl"]) == 1
    assert "m is a run of dpo; to go on with it, type" in capsys.readouterr().err


# ------------------------------------------------------------------------------ warnings


def test_a_falling_chosen_reward_is_called_usual_and_a_collapse_by_its_name(capsys):
    assert learn("m", "--lr", "0.03", "--schedule", "constant", "--repeat", "9") == 2
    assert learn("m", "--lr", "0.3", "--steps", "12", "--batch-size", "8") == 1
    err = capsys.readouterr().err
    assert Path("m").exists() and "the model is worse than before" in " ".join(err.split())
    assert "the model has collapsed" in " ".join(err.split())
    assert "costs" in err and "--nll-weight" in err


@pytest.mark.parametrize("rate, warned", [("0.01", True), ("0.0004", False)])
def test_a_learning_rate_near_that_of_sft_is_warned_of(rate, warned, capsys):
    run = base()
    run.options = replace(run.options, stage="sft", learning_rate=0.002)
    save_run(Path("sft.safetensors"), run)
    assert learn("m", "--lr", rate) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert ("10 to 20 times below it is usual (--lr 0.0001)" in err) == warned


def step_with(**measured):
    usual = {"accuracy": 1.0, "chosen_loss": 1.0, "val_loss": 0.5, "chosen_reward": -1.0}
    return Step(1, 0.5, 0.1, 8, 1.0, 0.5, 0.5, 0.0, {**usual, **measured})


@pytest.mark.parametrize(
    "step, collapsed",
    [
        (step_with(chosen_loss=1.0 + BROKEN), False),
        (step_with(chosen_loss=1.01 + BROKEN), True),
        (step_with(chosen_loss=1.01 + BROKEN, accuracy=0.9), False),  # it does not look well
        (replace(step_with(chosen_loss=2.0, accuracy=0.9), train_loss=0.01), True),
        (step_with(chosen_loss=float("nan")), True),
    ],
)
def test_collapse_is_what_looks_well_and_is_broken(step, collapsed):
    assert has_collapsed(step, before=1.0) == collapsed


def test_a_model_is_ruined_as_its_last_evaluation_says():
    reference = SimpleNamespace(chosen_loss=1.0)
    keeper = PairKeeper(reference, base(), run_files(Path("m")), 1, lambda *_: None)
    assert not keeper.is_ruined()
    keeper.warn(step_with(chosen_loss=2.0))
    assert keeper.is_ruined()
    keeper.warn(step_with(chosen_loss=1.0))  # it has recovered
    assert not keeper.is_ruined()


def test_an_answer_that_becomes_likelier_is_no_matter(capsys):
    assert learn("m", "--nll-weight", "3", "--lr", "0.005") == 0
    err = capsys.readouterr().err
    assert "collapsed" not in err and "below 0" not in err


# ------------------------------------------------------------------------------ own answers


def conversations(*answers):
    lines = [
        {"messages": [{"role": "user", "content": "who sleeps?"},
                      {"role": "assistant", "content": answer}]} for answer in answers
    ]  # fmt: skip
    Path("conv.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def test_the_models_own_answers_become_pairs(capsys):
    conversations("the cat.", "the dog.")
    flags = ["-c", "taught", "--data", "conv.jsonl", "--temperature", "0"]
    save_run(Path("taught"), taught("the cat."))
    assert dpo(*flags, "--sample-pairs", "own.jsonl") == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "2 of 2 questions, 4 answers: 2 as in conv.jsonl, 0 without an end, 1 others" in err
    (line,) = Path("own.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line) == {
        "messages": [{"role": "user", "content": "who sleeps?"}],
        "chosen": "the dog.",
        "rejected": "the cat.",
    }


def test_a_pair_belongs_to_the_part_that_its_conversation_does():
    messages = [{"role": "user", "content": "who sleeps?"},
                {"role": "assistant", "content": "the dog."}]  # fmt: skip
    lines = [{"messages": messages, "split": split} for split in ("train", "val", "test")]
    Path("conv.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    save_run(Path("taught"), taught("the cat."))
    flags = ["-c", "taught", "--data", "conv.jsonl", "--temperature", "0"]
    assert dpo(*flags, "--sample-pairs", "own.jsonl") == 0
    found = [json.loads(line) for line in Path("own.jsonl").read_text("utf-8").splitlines()]
    assert [pair["split"] for pair in found] == ["train", "val"]


def test_without_a_wrong_answer_no_file_is_written(capsys):
    conversations("the cat.")
    save_run(Path("taught"), taught("the cat."))
    flags = ["-c", "taught", "--data", "conv.jsonl", "--temperature", "0"]
    assert dpo(*flags, "--sample-pairs", "own.jsonl") == 1
    assert "no answer was a wrong one" in capsys.readouterr().err
    assert not Path("own.jsonl").exists()


def test_the_same_seed_draws_the_same_answers(capsys):
    conversations("the cat.", "the dog.")
    save_run(Path("taught"), taught("the cat.", steps=30))
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        flags = ["-c", "taught", "--data", "conv.jsonl", "--seed", seed, "--quiet"]
        assert dpo(*flags, "--answers", "9", "--sample-pairs", name) == 0
    assert Path("a").read_bytes() == Path("b").read_bytes() != Path("c").read_bytes()


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "flags, code, problem",
    [
        (["-c", "sft.safetensors", "--sample-pairs", "x"], 2, "--sample-pairs needs --data"),
        (["-c", "sft.safetensors", "--answers", "3"], 2, "--answers is for --sample-pairs"),
        (["-c", "sft.safetensors", "--data", "none"], 1, "there is no file none"),
        (["-c", "none", "--data", "pairs.jsonl"], 1, "there is no checkpoint none"),
        (["-c", "sft.safetensors", "--data", "bad.jsonl"], 1, "bad.jsonl, line 2: "),
        (["-c", "mlp", "--data", "pairs.jsonl"], 1, "predicts one token at a time"),
        (["-c", "plain", "--data", "pairs.jsonl"], 1, "was not taught to answer"),
        (["-c", "sft.safetensors", "--data", "pairs.jsonl", "--beta", "0"], 2, "above 0"),
        (["-c", "sft.safetensors", "--data", "pairs.jsonl", "--dropout", "0.1"], 2, "--dropout"),
        (
            ["-c", "sft.safetensors", "--data", "pairs.jsonl", "-o", "sft.safetensors"],
            1,
            "sft.safetensors is the model that learns; choose another --out",
        ),
        (["-c", "sft.safetensors", *FLAGS, "--stop-after", "0"], 2, "must be at least 1"),
        (["--resume", "m", "-c", "sft.safetensors", "--data", "pairs.jsonl"], 2, "--resume goes"),
        (
            ["-c", "sft.safetensors", "--data", "pairs.jsonl", "--sample-pairs", "bad.jsonl"],
            1,
            "bad.jsonl exists; choose another name",
        ),
        (
            ["-c", "sft.safetensors", "--data", "pairs.jsonl", "--sample-pairs", "new"],
            1,
            'pairs.jsonl, line 1: it has no "messages"',
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(flags, code, problem, capsys):
    Path("bad.jsonl").write_text("\n".join([*preference_lines(1), "{"]), encoding="utf-8")
    save_run(Path("mlp"), base(mlp(TOKENIZER.vocab_size)))
    plain = base()
    plain.chat = plain.chat._replace(template="")
    save_run(Path("plain"), plain)
    assert dpo(*flags, "--quiet") == code
    err = capsys.readouterr().err
    assert problem in err and err.count("\n") == 1
    assert load_run(Path("sft.safetensors")).model.parameters == base().model.parameters


def test_int8_weights_of_it_are_read_and_not_trained(capsys):
    assert learn("m.safetensors", "--quiet") == 0
    assert main(["quantize", "-c", "m.safetensors", "-o", "q.safetensors", "--quiet"]) == 0
    for flags in (["-c", "q.safetensors"], ["--resume", "q.safetensors"]):
        capsys.readouterr()
        assert dpo(*flags, "--data", "pairs.jsonl", "--quiet") == 1
        err = capsys.readouterr().err
        assert "int8 weights, which are read and not trained" in err and err.count("\n") == 1
