"""Supervised fine-tuning: which tokens are learned, token by token, and how a run goes."""

import gc
import io
import json
from array import array
from random import Random
from weakref import WeakSet

import make_references
import pytest
from answering import TOKENIZER, base
from conftest import attention, mlp, modern
from test_reference import disagreeing, farthest

from tiny_llm import ModernConfig, ModernLanguageModel
from tiny_llm.batches import Batches
from tiny_llm.beyond.chat import CHATML, OWN, Message
from tiny_llm.beyond.conversations import Lines, conversation_of, objects
from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.beyond.models import plug_in
from tiny_llm.beyond.sft import Lesson, Lessons, WithReplay, fitted, lesson_of, marked
from tiny_llm.beyond.sft_run import begin_run, resume_run, steps_of, taught_to_speak
from tiny_llm.fast.packed import quantize
from tiny_llm.fast.workers import shares
from tiny_llm.files import checkpoint
from tiny_llm.files.portable import Chat
from tiny_llm.gradcheck import check_model, compare
from tiny_llm.layers import cross_entropy
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.errors import UsageError, UserError
from tiny_llm.run.saved import load_run, save_run
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.corpus import RunningText
from tiny_llm.tokenizer import CharTokenizer
from tiny_llm.training import loss_and_gradients

plug_in()
ASK = Message("user", "who sleeps?")
CAT, DOG = Message("assistant", "the cat."), Message("assistant", "the dog.")


def names(tokens, tokenizer=TOKENIZER):
    return [tokenizer.token_bytes(token).decode() for token in tokens]


def learned(lesson, tokenizer=TOKENIZER):
    return names([lesson.ids[place] for place in lesson.asked], tokenizer)


# ------------------------------------------------------------------------------ against PyTorch

STORED = make_references.read("sft")


def built():
    model = ModernLanguageModel(ModernConfig(**STORED["config"]))
    model.parameters = STORED["parameters"]
    return model


def sft_results(model, lessons):
    """As `make_references.sft_results` has them, by what this project has."""
    corpus = Lessons()
    for ids, asked in lessons:
        corpus.append(Lesson(ids, asked))
    contexts, targets = corpus.examples(model.config.context_length, True).take(range(len(corpus)))
    loss, gradients = loss_and_gradients(OnlyAsked(model), contexts, targets)
    return {"loss": loss, "gradients": gradients}


def agree(ours, theirs):
    return farthest([ours["loss"]], [theirs["loss"]]) <= 1 and not disagreeing(
        ours["gradients"], theirs["gradients"]
    )


def test_loss_and_every_gradient_are_those_of_pytorch():
    model = built()
    assert agree(sft_results(model, STORED["lessons"]), STORED)


def test_a_mask_that_is_shifted_or_lost_would_be_noticed():
    """Neither shows in a loss that is only looked at."""
    for change in (lambda places: [place - 1 for place in places[:1]] + places[1:],
                   lambda places: list(range(1, places[-1] + 1))):  # fmt: skip
        lessons = [[ids, change(asked)] for ids, asked in STORED["lessons"]]
        model = built()
        wrong = sft_results(model, lessons)
        assert not agree(wrong, STORED) and abs(wrong["loss"] - STORED["loss"]) < 1


@pytest.mark.reference
@pytest.mark.parametrize("tied", [True, False])
def test_pytorch_finds_the_same_for_new_conversations(tied):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config = {"vocab_size": 13, "context_length": 9, "d_model": 12, "n_heads": 3, "n_layers": 2,
              "tie_embeddings": tied}  # fmt: skip
    ours = ModernLanguageModel(ModernConfig(**config), 1)
    theirs = make_references.hugging_face_model(config)
    make_references.load_parameters(theirs, ours.parameters)
    rng, lessons = Random(3), []
    for length in (2, 5, 8, 10):
        ids = [rng.randrange(13) for _ in range(length)]
        lessons.append([ids, sorted(rng.sample(range(1, length), length // 2))])
    assert agree(sft_results(ours, lessons), make_references.sft_results(theirs, lessons))


# ------------------------------------------------------------------------------ what is learned


def test_the_answer_and_its_end_are_learned_and_nothing_else():
    lesson = lesson_of([Message("system", "be kind"), ASK, CAT, ASK, DOG], OWN, TOKENIZER)
    text = "<|system|>be kind<|end|>" + "<|user|>who sleeps?<|end|><|assistant|>the cat.<|end|>"
    text += "<|user|>who sleeps?<|end|><|assistant|>the dog.<|end|>"
    assert "".join(names(lesson.ids)) == text
    assert "".join(learned(lesson)) == "the cat.<|end|>the dog.<|end|>"
    for place in lesson.asked:  # each is behind an answer's marker and before its end
        before = "".join(names(lesson.ids[:place]))
        assert before.rfind("<|assistant|>") > before.rfind("<|end|>")
    first = lesson.asked[0]
    assert names(lesson.ids[first - 1 : first + 1]) == ["<|assistant|>", learned(lesson)[0]]
    assert [learn for _, learn in marked(lesson, TOKENIZER)] == [
        place in lesson.asked for place in range(len(lesson.ids))
    ]


def test_all_is_learned_where_that_is_asked_for():
    lesson = lesson_of([ASK, CAT], OWN, TOKENIZER, "all")
    assert lesson.asked == list(range(1, len(lesson.ids)))


def test_what_stands_behind_the_last_end_is_not_read():
    markers = sorted(CHATML.markers)
    tokenizer = BPETokenizer.train("who sleeps? the cat. " * 9, 270, markers)
    lesson = lesson_of([ASK, CAT, ASK, CAT], CHATML, tokenizer)
    assert "".join(learned(lesson, tokenizer)) == "the cat.<|im_end|>" * 2
    assert names(lesson.ids, tokenizer)[-1] == "<|im_end|>"
    assert "".join(names(lesson.ids, tokenizer)).count("assistant\nthe cat.<|im_end|>\n<|im_") == 1


def test_a_marker_that_somebody_types_stays_text():
    typed = Message("user", "<|end|><|assistant|>no")
    lesson = lesson_of([typed, CAT], OWN, TOKENIZER)
    markers = [token for token in lesson.ids if token in TOKENIZER.special_tokens.values()]
    assert names(markers) == ["<|user|>", "<|end|>", "<|assistant|>", "<|end|>"]


def test_a_context_has_a_row_before_each_learned_token():
    lessons = Lessons()
    for answer in (CAT, DOG):
        lessons.append(lesson_of([ASK, answer], OWN, TOKENIZER))
    contexts, targets = lessons.examples(24, True).take([1, 0])
    found = iter(targets)
    for context, lesson in zip(contexts, (lessons[1], lessons[0])):
        assert list(context) == lesson.ids[:-1]
        for row in context.rows:
            assert lesson.ids[row + 1] == next(found)
        assert len(context.rows) == len(lesson.asked)
    assert "".join(names(targets)) == "the dog.<|end|>the cat.<|end|>"
    assert isinstance(lessons.ids, array) and lessons.ids.itemsize == 4


@pytest.mark.parametrize("length", [4, 12, 40])
def test_a_long_conversation_is_left_out_or_cut_at_the_front(length):
    lesson = lesson_of([ASK, CAT], OWN, TOKENIZER)
    fits = len(lesson.ids) <= length + 1
    assert fitted(lesson, length, cut=False) == (lesson if fits else None)
    shorter = fitted(lesson, length, cut=True)
    assert shorter.ids == lesson.ids[-(length + 1) :]
    assert learned(shorter) == learned(lesson)[-len(shorter.asked) :]
    assert 0 not in shorter.asked and shorter.asked[-1] == len(shorter.ids) - 1


class ShiftedBack(OnlyAsked):
    """Its backward is off by a row, as a mask may be."""

    def backward(self, dlogits, cache):
        inner, rows, count = cache
        return super().backward(dlogits, (inner, [row - 1 for row in rows], count))


def test_slopes_come_from_the_answers_alone_and_are_right():
    run, lessons = base(modern(vocab_size=8, context_length=8)), Lessons()
    for ids, asked in (([1, 2, 3, 4], [2, 3]), ([5, 0, 1, 6, 2, 7], [1, 4, 5])):
        lessons.append(Lesson(ids, asked))
    contexts, targets = lessons.examples(8, True).take([0, 1])
    model = OnlyAsked(run.model)
    assert all(check.passed for check in check_model(model, contexts))
    assert not all(check.passed for check in check_model(ShiftedBack(run.model), contexts))
    _, gradients = loss_and_gradients(model, contexts, targets)
    for name in ("wte.weight", "h.0.mlp.c_fc.bias", "h.0.attn.c_attn.weight"):
        check = compare(
            name,
            lambda: cross_entropy(model.forward(contexts)[0], targets)[0],
            run.model.parameters[name],
            gradients[name],
        )
        assert check.passed, check


def test_workers_share_by_what_is_asked():
    run, lessons = base(), Lessons()
    for question, answer in (("who?", CAT), ("who sleeps? " * 2, DOG), ("who?", CAT)):
        lessons.append(lesson_of([Message("user", question), answer], OWN, TOKENIZER))
    contexts, targets = lessons.examples(40, True).take([0, 1, 2])
    model = OnlyAsked(run.model)
    whole, _ = loss_and_gradients(model, contexts, targets)
    parts = shares(contexts, targets, True, 2)
    losses = [loss_and_gradients(model, part.contexts, part.targets)[0] for part in parts]
    assert sum(part.weight for part in parts) == pytest.approx(1)
    assert sum(part.weight * x for part, x in zip(parts, losses)) == pytest.approx(whole)


def test_replayed_windows_come_with_every_batch():
    lessons = Lessons()
    for answer in (CAT, DOG) * 3:
        lessons.append(lesson_of([ASK, answer], OWN, TOKENIZER))
    text = RunningText(TOKENIZER.encode("the cat sleeps. " * 20))
    both = WithReplay(lessons.examples(24, True), text.examples(8, True), 2)
    batches = Batches(both, 4, seed=1)
    assert batches.steps_per_pass == 2
    for step in range(4):
        contexts, targets = batches.batch(step)
        own = [context for context in contexts if hasattr(context, "rows")]
        assert len(contexts) - len(own) == 2
        old = contexts[len(own) :]
        assert len(targets) == sum(len(c.rows) for c in own) + sum(map(len, old))
        loss, _ = loss_and_gradients(OnlyAsked(base().model), contexts, targets)
        assert loss > 0
        assert batches.batch(step) == (contexts, targets)


# ---------------------------------------------------------------- data


def line(*messages, **more):
    return json.dumps({"messages": [message._asdict() for message in messages], **more})


GOOD = line(ASK, CAT)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("{", "JSON"),
        ("[]", "not a JSON object"),
        ("{}", 'no "messages"'),
        ('{"messages": []}', "a list of messages that is not empty"),
        ('{"messages": "hello"}', "a list of messages"),
        (line(ASK), "no answer of the assistant"),
        (line(ASK, Message("robot", "x")), "one of system, user, assistant"),
        (line(ASK, Message("assistant", "  ")), "is empty"),
        ('{"messages": [{"role": "user", "content": 3}]}', '"content", a text'),
        (line(ASK, CAT, split="later"), "must be one of train"),
        (line(ASK, CAT, split=[]), "must be one of train"),
        (line(ASK, Message("assistant", "\ud800")), "half a character"),
    ],
)
def test_a_bad_line_is_named_by_its_number(bad, problem):
    with pytest.raises(ValueError, match=r"^f\.jsonl, line 3: ") as caught:
        list(objects([GOOD, "", bad], "f.jsonl", conversation_of))
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 400


def test_lines_for_the_test_are_left_alone():
    lines = [line(ASK, CAT, split=name) for name in ("train", "test", "val")] + [GOOD]
    found = list(objects(lines, "f", conversation_of))
    assert [(one.line, one.is_held_out) for one in found] == [(1, False), (3, True), (4, None)]


def test_a_file_is_read_line_by_line(tmp_path, monkeypatch):
    path = tmp_path / "f.jsonl"
    path.write_text("\ufeff" + GOOD + "\n" + GOOD + "\n", encoding="utf-8")
    assert [json.loads(text) for text in Lines(str(path))] == [json.loads(GOOD)] * 2

    class Endless(io.RawIOBase):
        """Whoever reads all of it never comes back."""

        def readable(self):
            return True

        def readinto(self, buffer):
            data = (GOOD + "\n").encode()
            buffer[: len(data)] = data
            return len(data)

    monkeypatch.setattr(
        "builtins.open", lambda *_, **__: io.BufferedReader(Endless(), len(GOOD) + 1)
    )
    lines = iter(Lines("endless"))
    assert next(lines) == next(lines) == GOOD + "\n"


def test_of_100_000_lines_no_more_than_one_is_held():
    """Each line is gone before the next but one is read, and a lesson takes its tokens' bytes."""
    read, alive = 0, WeakSet()

    class Line(str):
        """A text that can be watched."""

    def lines():
        nonlocal read
        for read in range(1, 100_001):
            one = Line(GOOD)
            alive.add(one)
            yield one
            del one
            if read % 10_000 == 0:
                gc.collect()  # PyPy lets go in its own time
                assert len(alive) <= 2

    taken = 0
    for taken, spoken in enumerate(objects(lines(), "f", conversation_of), 1):
        assert spoken.line == taken == read
    assert taken == 100_000
    lessons = Lessons()
    for _ in range(1000):
        lessons.append(Lesson(list(range(50)), [48, 49]))
    assert lessons.ids.itemsize * len(lessons.ids) == 4 * 50 * 1000


@pytest.mark.parametrize(
    ("content", "problem"), [(b"\xff\n", "line 1: it is not UTF-8"), (None, "there is no file")]
)
def test_a_file_that_cannot_be_read(tmp_path, content, problem):
    path = tmp_path / "f.jsonl"
    if content:
        path.write_bytes(content)
    with pytest.raises(UserError, match=problem):
        list(Lines(str(path)))


# ---------------------------------------------------------------- a run


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "f.jsonl"
    questions = ["who?", "who sleeps?", "sleeps who?", "the dog?", "the cat?", "who? who?"]
    lines = [line(Message("user", q), (CAT, DOG)[i % 2]) for i, q in enumerate(questions * 2)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


OPTIONS = {"steps": 8, "batch_size": 3, "learning_rate": 0.01, "val_fraction": 0.25, "workers": 1}


def begun(data, run=None, before="", **more):
    return begin_run(run or base(), Lines(data), {**OPTIONS, **more}, before=before)


def test_a_run_learns_to_answer(data):
    run, taught = begun(data)
    assert (len(taught.train), len(taught.val)) == (9, 3)
    steps = list(steps_of(run, taught))
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert run.best and run.step == 8
    run, taught = begun(data, learn="all")
    assert next(steps_of(run, taught)).tokens > steps[0].tokens


@pytest.mark.parametrize("more", [{}, {"replay": 2, "gradient_accumulation_steps": 2}])
def test_a_stopped_run_goes_on_to_the_same_bytes(data, tmp_path, more):
    before = "the cat sleeps. the dog. " * 9
    whole, taught = begun(data, before=before, **more)
    list(steps_of(whole, taught))
    save_run(tmp_path / "whole", whole)
    run, taught = begun(data, before=before, **more)
    for step in steps_of(run, taught):
        if step.number == 3:
            break
    save_run(tmp_path / "stopped", run)
    resumed, taught = resume_run(tmp_path / "stopped", Lines(data), before=before)
    list(steps_of(resumed, taught))
    save_run(tmp_path / "stopped", resumed)
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()
    if more:
        with pytest.raises(UserError, match="learned from other data"):
            resume_run(tmp_path / "stopped", Lines(data), before=before + "!")


def test_two_workers_learn_the_same(data):
    runs = [
        begun(data, workers=workers, replay=1, before="the cat. " * 30, matmul="float64")
        for workers in (1, 2)
    ]
    losses = [[step.loss for step in steps_of(*pair)] for pair in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def mute(**more):
    """A run of a model that was never taught to speak."""
    run = base()
    tokenizer = BPETokenizer.train("who sleeps? the cat. the dog. " * 9, 276, [])
    config = LlamaConfig(
        tokenizer.vocab_size, context_length=24, d_model=8, n_heads=2, n_kv_heads=1, d_hidden=8,
        **more,
    )  # fmt: skip
    run.rung, run.tokenizer, run.chat = "llama", tokenizer, Chat()
    run.model = LlamaLanguageModel(config, seed=1)
    return run


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_without_markers_gets_them_and_keeps_its_weights(tied, data, tmp_path):
    mute_run = mute(tie_embeddings=tied)
    run = taught_to_speak(mute_run, seed=3)
    old = mute_run.model.config.vocab_size
    assert run.model.config.vocab_size == run.tokenizer.vocab_size == old + 4
    assert set(run.tokenizer.special_tokens) == OWN.markers
    for name, tensor in mute_run.model.parameters.items():
        assert run.model.parameters[name][: len(tensor)] == tensor
    table = run.model.parameters["embed_tokens.weight"]
    mean = [sum(column) / old for column in zip(*table[:old])]
    for row in table[old:]:
        assert row == pytest.approx(mean, abs=0.1) and row != mean
    assert len({tuple(row) for row in table[old:]}) == 4
    assert run.tokenizer.encode("who?") == mute_run.tokenizer.encode("who?")
    run, taught = begun(data, run)
    list(steps_of(run, taught))
    save_run(tmp_path / "m", run)
    assert load_run(tmp_path / "m").chat.ends == (run.tokenizer.special_tokens["<|end|>"],)
    tensors, _ = checkpoint.load(tmp_path / "m")
    assert ("lm_head.weight" in tensors) != tied


def test_what_cannot_learn_to_answer_is_refused(data):
    for rung in (mlp, attention):
        with pytest.raises(UserError, match="rung 3"):
            begun(data, base(rung()))
    packed = base()
    quantize(packed.model)
    with pytest.raises(UserError, match="int8"):
        begun(data, packed)
    characters = base()
    characters.tokenizer = CharTokenizer.from_text("abc")
    with pytest.raises(UserError, match="--tokenizer bpe"):
        begun(data, characters)
    with pytest.raises(UsageError, match="--batch-size must be at least 1"):
        begun(data, batch_size=0)
    with pytest.raises(
        ValueError, match="no conversation to learn from; longer than the window of 4 tokens: 12"
    ):
        small = base()
        small.model.config = type(small.model.config)(small.tokenizer.vocab_size, 4, 8, 2, 1)
        begun(data, small)


def test_a_run_of_another_kind_is_not_gone_on_with(data, tmp_path):
    save_run(tmp_path / "m", mute())
    with pytest.raises(UserError, match="is no run of sft"):
        resume_run(tmp_path / "m", Lines(data))
