"""A recipe is plain flags: read in front of the user's own, which win."""

import json
from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.cli.recipes import FOLDER, STAGES, parts_of, recipes, with_recipe
from tiny_llm.files import checkpoint

SMALL = ["--context-length", "4", "--steps", "3", "-n", "1", "--quiet"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the cat sat on the mat. " * 8, encoding="utf-8")
    return tmp_path


def own(text):
    Path("own.txt").write_text(text, encoding="utf-8")
    return ["train", "--recipe", "own.txt"]


def test_there_is_one_for_each_of_the_two_texts_and_others_for_the_built_in_one():
    assert {"names", "shakespeare"} <= set(recipes())
    for name in recipes():  # the others need no text
        assert ("--data" in parts_of(name)["train"]) == (name in ("names", "shakespeare"))


@pytest.mark.parametrize("given", [["--recipe", "own.txt"], ["--recipe=own.txt"]])
def test_its_flags_stand_in_front_of_the_users(given):
    own("# a comment\n--lr 0.5\n\n--prompt 'the cat'  # with a space\n")
    words = with_recipe(["train", "--seed", "1", *given, "--lr", "2"])
    assert words == ["train", "--lr", "0.5", "--prompt", "the cat", "--seed", "1", "--lr", "2",
                     "--recipe=own.txt"]  # fmt: skip


def test_a_choice_on_the_command_line_replaces_the_recipes():
    words = [*own("--steps 9\n--lr 1\n"), "--repeat", "2"]
    assert with_recipe(words) == ["train", "--lr", "1", "--repeat", "2", "--recipe=own.txt"]
    words = [*own("--repeat=9"), "--steps=2"]
    assert with_recipe(words) == ["train", "--steps=2", "--recipe=own.txt"]


def test_a_line_may_hold_several_flags_and_a_flag_several_lines():
    words = [*own("\ufeff--model mlp --steps 9 --seed 3\n--prompt\n'a b'\n"), "--repeat", "2"]
    assert with_recipe(words) == ["train", "--model", "mlp", "--seed", "3", "--prompt", "a b",
                                  "--repeat", "2", "--recipe=own.txt"]  # fmt: skip


def test_a_recipe_has_parts_for_several_commands():
    own("# about it\n--lr 1\nsft\n--lr 2 # half\ndpo \r\n--beta 1 --seed 3\n")
    assert list(parts_of("own.txt")) == ["train", "sft", "dpo"]
    assert with_recipe(["train", "--recipe", "own.txt"]) == [
        "train",
        "--lr",
        "1",
        "--recipe=own.txt",
    ]
    words = with_recipe(["dpo", "--recipe", "own.txt", "--seed", "4"])
    assert words == ["dpo", "--beta", "1", "--seed", "3", "--seed", "4", "--recipe=own.txt"]


def test_the_checkpoint_of_a_recipe_gives_way_to_one_that_is_named(capsys):
    own("sft\n--checkpoint none\n--data talk.jsonl\n")
    conversations()
    for named in (["other"], ["-c", "other"], ["--checkpoint=other"]):
        assert main(["sft", *named, "--recipe", "own.txt"]) == 1
        assert "there is no checkpoint other" in capsys.readouterr().err
    assert main(["sft", "--recipe", "own.txt"]) == 1
    assert "there is no checkpoint none" in capsys.readouterr().err
    assert main(["sft", "one", "-c", "other", "--recipe", "own.txt"]) == 2
    assert "two checkpoints are named" in capsys.readouterr().err


def test_a_part_that_is_missing_is_named(capsys):
    own("--lr 1\nsft\n--lr 2\n")
    assert main(["dpo", "--recipe", "own.txt"]) == 1
    assert "own.txt has no part for dpo, but for train and sft" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, problem",
    [
        ("--lr 1\neval\n--lr 2\n", "has a part for eval"),
        ("sft\n--lr 1\nsft\n--lr 2\n", "has two parts for sft"),
        ("--lr 1\n  train  # anew\n--lr 2\n", "has two parts for train"),
        ("sft\n--lr 1\ndpo\nnonsense\n", "begins with 'nonsense'"),
    ],
)
def test_parts_that_make_no_sense_are_named(text, problem, capsys):
    own(text)
    for command in (["recipe", "own.txt"], ["sft", "--recipe", "own.txt"]):
        assert main(command) == 1
        assert problem in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_recipe_need_not_begin_with_training():
    own("# from elsewhere\n sft # then\n--lr 1\n")
    assert parts_of("own.txt") == {"sft": ["--lr", "1"]}


TRAIN = """
--model modern --tokenizer bpe --vocab-size 280 --context-length 24 --d-model 8 --n-heads 2
--data text.txt --steps 3 --workers 1 -n 1 -o base
"""
SFT = "sft\n-c base --data talk.jsonl --steps 2 -o answers\n"
DPO = "dpo\n-c answers --data pairs.jsonl --steps 2 -o prefers\n"


def conversations():
    asked = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the cat."}]
    Path("talk.jsonl").write_text((json.dumps({"messages": asked}) + "\n") * 12, encoding="utf-8")
    pair = {"prompt": "who?", "chosen": "the cat.", "rejected": "the mat."}
    Path("pairs.jsonl").write_text((json.dumps(pair) + "\n") * 12, encoding="utf-8")


def test_one_command_runs_all_parts_in_order(capsys):
    conversations()
    own(TRAIN + SFT + DPO)
    assert main(["recipe", "own.txt", "--seed", "5", "--workers", "1"]) == 0
    err = capsys.readouterr().err
    places = [err.index(f"{name} --recipe own.txt") for name in ("train", "sft", "dpo")]
    assert places == sorted(places) and "\\x" not in err
    for name, stage in (("base", ""), ("answers", "sft"), ("prefers", "dpo")):
        training = checkpoint.load(Path(name)).metadata["training"]
        assert (training["stage"], training["seed"]) == (stage, 5)


def test_it_ends_with_the_first_part_that_fails(capsys):
    own(TRAIN + SFT + DPO)  # without the conversations
    assert main(["recipe", "own.txt", "--quiet", "--workers", "1"]) == 1
    err = capsys.readouterr().err
    assert "talk.jsonl" in err and "dpo --recipe own.txt" in err
    assert Path("base").exists() and not Path("answers").exists()
    assert main(["recipe", "nowhere"]) == 1
    assert "there is no recipe 'nowhere'" in capsys.readouterr().err


def test_a_mistake_in_a_late_part_is_found_before_anything_begins(capsys):
    conversations()
    own(TRAIN + SFT + DPO + "--bogus 1\n")
    assert main(["recipe", "own.txt"]) == 2
    assert "--bogus" in capsys.readouterr().err and not Path("base").exists()


@pytest.mark.parametrize("name", ["chat", "honest", "plain"])
def test_what_one_part_writes_the_next_one_reads(name):
    parts = parts_of(name)
    written = [words[words.index("--out") + 1] for words in parts.values()]
    read = [words[words.index("--checkpoint") + 1] for words in list(parts.values())[1:]]
    assert read == written[:-1] and len(set(written)) == len(written)
    assert written[-1] == f"runs/{name}.safetensors"


def test_two_recipes_are_refused(capsys):
    assert main([*own("--lr 1"), "--recipe=names"]) == 2
    assert "--recipe is given twice" in capsys.readouterr().err


def test_a_folder_and_bytes_are_no_recipe(capsys):
    Path("own").mkdir()
    assert main(["train", "--recipe", "own"]) == 1
    Path("own.txt").write_bytes(b"\xff\xfe")
    assert main(["train", "--recipe", "own.txt"]) == 1
    assert "own.txt is not UTF-8 text" in capsys.readouterr().err


def test_without_a_recipe_and_in_other_commands_nothing_changes():
    assert with_recipe(["train", "--lr", "1"]) == ["train", "--lr", "1"]
    assert with_recipe(["generate", "--prompt", "--recipe"]) == ["generate", "--prompt", "--recipe"]
    assert with_recipe([]) == []


@pytest.mark.parametrize("recipe", ["names", "shakespeare"])
def test_a_recipe_trains_on_the_text_that_is_given(recipe):
    flags = ["--data", "text.txt", "--d-model", "4", "--batch-size", "2", "--out", "m"]
    if recipe == "names":
        Path("text.txt").write_text("\n".join(["anna", "bo", "cleo"] * 10), encoding="utf-8")
    assert main(["train", "--recipe", recipe, *flags, *SMALL]) == 0
    metadata = checkpoint.load(Path("m")).metadata
    assert metadata["model"] == "modern"
    assert metadata["config"]["d_model"] == 4  # the command line wins
    assert metadata["training"]["grad_clip"] == 1.0  # the rest is the recipe's


@pytest.mark.parametrize("recipe", ["names", "shakespeare"])
def test_a_text_that_is_not_there_is_named(recipe, capsys):
    assert main(["train", "--recipe", recipe]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_an_unknown_recipe_is_refused_and_the_known_ones_are_named(capsys):
    assert main(["train", "--recipe", "soup"]) == 1
    error = capsys.readouterr().err
    assert "there is no recipe 'soup'" in error and "shakespeare" in error


@pytest.mark.parametrize(
    "text, code, problem",
    [
        ("--prompt 'open", 1, "the recipe own.txt cannot be read: No closing quotation"),
        ("--lr 1 --recipe mlp", 2, "the recipe own.txt names another"),
        ("--colour red", 2, "the flags of the recipe count, too"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_refused(text, code, problem, capsys):
    assert main(own(text)) == code
    assert problem in capsys.readouterr().err


def test_every_line_of_a_recipe_is_one_flag_or_begins_a_part():
    for path in FOLDER.glob("*.txt"):
        lines = [line for line in path.read_text("utf-8").splitlines() if line and line[0] != "#"]
        flags = [line for line in lines if line not in STAGES]
        assert flags and all(line.startswith("--") and len(line.split()) <= 2 for line in flags)
