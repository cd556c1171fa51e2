"""A checkpoint is whole, equal for equal content, and refused in one line when damaged."""

import errno
import hashlib
import json
import math
import os
import pickle
import random
from pathlib import Path

import pytest

from tiny_llm.cli import main
from tiny_llm.files import atomic, checkpoint
from tiny_llm.files.checkpoint import CheckpointError
from tiny_llm.run.errors import UserError
from tiny_llm.run.saved import load_run

TENSORS = {"matrix": [[1.0, -2.5, 1e-300], [0.1, 1e300, -0.0]], "vector": [math.pi]}
METADATA = {"step": 3, "text": "ä\n\U0001f600", "list": [1, 2.5, None]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, TENSORS, METADATA)
    return path


def parts(content):
    """The header as a dict, and the body."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def assembled(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def signed(header, body):
    """A file whose checksum is right, so that the other checks have to notice what is wrong."""
    table = {name: entry for name, entry in header.items() if name != "__metadata__"}
    own = header["__metadata__"]
    digest = hashlib.sha256(own["tiny_llm"].encode())
    for name in sorted(table):
        digest.update(json.dumps([name, table[name]["shape"]]).encode())
        digest.update(body[slice(*table[name]["data_offsets"])])
    own["sha256"] = digest.hexdigest()
    return assembled(header, body)


def test_what_is_saved_is_loaded_to_the_last_bit(path):
    loaded = checkpoint.load(path)
    assert loaded.metadata == METADATA
    assert loaded.tensors == TENSORS
    assert math.copysign(1, loaded.tensors["matrix"][1][2]) == -1


def test_equal_content_gives_equal_bytes(path, tmp_path):
    checkpoint.save(tmp_path / "other", dict(TENSORS), dict(reversed(list(METADATA.items()))))
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_the_format_is_safetensors(path):
    header, body = parts(path.read_bytes())
    assert header["matrix"] == {"dtype": "F64", "shape": [2, 3], "data_offsets": [0, 48]}
    assert header["vector"] == {"dtype": "F64", "shape": [1], "data_offsets": [48, 56]}
    assert len(body) == 56
    assert all(isinstance(value, str) for value in header["__metadata__"].values())
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_not_saved(path, bad):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="vector holds a number that is not finite"):
        checkpoint.save(path, {"vector": [1.0, bad]}, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def damaged_files():
    """(what is wrong, a function of header and body that gives the content)."""
    shape = [2, 3]

    def entry(**changes):
        return {"dtype": "F64", "shape": shape, "data_offsets": [0, 48], **changes}

    def with_matrix(**changes):
        return lambda header, body: signed({**header, "matrix": entry(**changes)}, body)

    def unsigned_with_matrix(**changes):
        return lambda header, body: assembled({**header, "matrix": entry(**changes)}, body)

    yield "empty", lambda header, body: b""
    yield "seven bytes", lambda header, body: b"\x00" * 7
    yield "header of 2^60", lambda header, body: (2**60).to_bytes(8, "little") + b"{}"
    yield "no header", lambda header, body: assembled(b"", body)
    yield "no JSON", lambda header, body: assembled(b"{'a': 1}", body)
    yield "a JSON list", lambda header, body: assembled(b"[1]", body)
    yield "deep JSON", lambda header, body: assembled(b"[" * 100_000, body)
    yield "not UTF-8", lambda header, body: assembled(b'{"\xff": 1}', body)
    yield "no metadata", lambda header, body: assembled({"vector": header["vector"]}, body[48:])
    yield "metadata a list", lambda header, body: assembled({**header, "__metadata__": [1]}, body)
    yield "pickle", lambda header, body: pickle.dumps(TENSORS)
    yield "F32", with_matrix(dtype="F32")
    yield "negative shape", with_matrix(shape=[-2, -3])
    yield "zero shape", with_matrix(shape=[0, 3])
    yield "three axes", with_matrix(shape=[1, 2, 3])
    yield "shape of floats", with_matrix(shape=[2.0, 3.0])
    yield "shape of booleans", with_matrix(shape=[True, True])
    yield "another size", with_matrix(shape=[2, 2])
    yield "huge size", with_matrix(shape=[2**62, 2**62])
    yield "offsets of text", unsigned_with_matrix(data_offsets=["0", "48"])
    yield "offsets of lists", unsigned_with_matrix(data_offsets=[[0], [48]])
    yield "no offsets", unsigned_with_matrix(data_offsets=None)
    yield "a shape of text", with_matrix(shape="ab")
    yield "no shape", with_matrix(shape=None)
    yield "offsets out of range", with_matrix(data_offsets=[0, 4800])
    yield "offsets overlap", with_matrix(data_offsets=[8, 56])
    yield "offsets backwards", with_matrix(data_offsets=[48, 0])
    yield "negative offsets", with_matrix(data_offsets=[-48, 0])
    yield (
        "a gap",
        lambda header, body: signed(
            {**header, "vector": {**header["vector"], "data_offsets": [56, 64]}}, body + b"\0" * 8
        ),
    )
    yield "an entry too many", with_matrix(more=1)
    yield "an entry that is a list", lambda header, body: assembled({**header, "matrix": []}, body)
    yield "trailing bytes", lambda header, body: signed(header, body + b"\0" * 8)
    yield "missing bytes", lambda header, body: signed(header, body[:-8])
    yield "NaN", lambda header, body: signed(header, body[:-8] + b"\xff" * 8)
    yield "checksum", lambda header, body: assembled(header, body[:-1] + b"\x00")


@pytest.mark.parametrize(
    ("wrong", "make"), list(damaged_files()), ids=lambda value: str(value)[:20]
)
def test_a_damaged_file_is_refused_with_one_line(path, wrong, make):
    path.write_bytes(make(*parts(path.read_bytes())))
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint of tiny-lm: ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_correctly_signed_file_of_another_writer_is_accepted(path):
    header, body = parts(path.read_bytes())
    path.write_bytes(signed(dict(reversed(list(header.items()))), body))
    assert checkpoint.load(path).tensors == TENSORS


def mutated(content, rng):
    """The content with a few bytes changed, removed, added or swapped."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        kind, i, j = rng.randrange(6), rng.randrange(len(data)), rng.randrange(len(data))
        if kind == 0:
            data[i] = rng.randrange(256)
        elif kind == 1:
            data[i] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[max(i, 1) :]
        elif kind == 3:
            data[i], data[j] = data[j], data[i]
        elif kind == 4:
            data[i:i] = rng.choice([b"0", b"9", b"{", b'"', b" ", rng.randbytes(3)])
        else:
            del data[i : i + rng.randrange(1, 9)]
        if not data:
            return b""
    return bytes(data)


def test_a_crash_while_writing_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"vector": [2.0]}, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_only_what_is_wanted_is_loaded_and_all_is_checked(path):
    loaded = checkpoint.load(path, wanted=lambda name: name == "vector")
    assert loaded == ({"vector": TENSORS["vector"]}, METADATA)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1  # in the matrix
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its checksum"):
        checkpoint.load(path, wanted=lambda name: name == "vector")


def test_an_older_file_that_is_loaded_and_saved_has_the_same_bytes(tmp_path):
    old = Path(__file__).parents[1] / "references" / "run_0.1.safetensors"
    checkpoint.save(tmp_path / "again", *checkpoint.load(old))
    assert (tmp_path / "again").read_bytes() == old.read_bytes()


def test_keep_old_copies_and_leaves_the_original(path):
    assert atomic.keep_old(path.with_name("none")) is None
    backup = atomic.keep_old(path)
    assert backup.name == "model.safetensors.bak"
    assert backup.read_bytes() == path.read_bytes()


def test_a_link_is_followed(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    checkpoint.save(link, {"vector": [2.0]}, {})
    assert link.is_symlink()
    assert checkpoint.load(path).tensors == {"vector": [2.0]}


def test_a_device_is_never_replaced(tmp_path):
    with pytest.raises(OSError, match="not a regular file"):
        atomic.check_writable(Path("/dev/full"))
    assert Path("/dev/full").is_char_device()


def test_check_writable_makes_the_folder_and_leaves_nothing(tmp_path):
    atomic.check_writable(tmp_path / "a" / "b" / "c.safetensors")
    assert list((tmp_path / "a" / "b").iterdir()) == []


# ------------------------------------------------------------------ the checkpoint of a run

RUNGS = {
    "mlp": ["--context-length", "4", "--d-embedding", "3", "--d-hidden", "6"],
    "attention": ["--context-length", "4", "--d-model", "6"],
    "modern": ["--context-length", "4", "--d-model", "4", "--n-heads", "2", "--n-layers", "1"],
}


@pytest.fixture(params=RUNGS)
def run(request, tmp_path):
    """A short run's checkpoint."""
    text, path = tmp_path / "text.txt", tmp_path / "run.safetensors"
    text.write_text("the cat sat on the mat. " * 5, encoding="utf-8")
    words = ["train", "--quiet", "--data", str(text), "--out", str(path), "--steps", "3", "-n", "0"]
    assert main([*words, "--model", request.param, *RUNGS[request.param]]) == 0
    return path


def generate(path, capsys):
    """(exit code, what the user is told)."""
    capsys.readouterr()
    code = main(["generate", "--quiet", "-n", "0", "-c", str(path)])
    return code, capsys.readouterr().err


@pytest.mark.slow
def test_no_mutation_goes_unnoticed(run, capsys):
    """1,000 for each rung: one line and exit code 1, or (a space in the header) equal content."""
    original, whole = run.read_bytes(), checkpoint.load(run)
    rng = random.Random(0)
    refused = 0
    for _ in range(1000):
        run.write_bytes(mutated(original, rng))
        code, err = generate(run, capsys)
        if code == 0:
            assert checkpoint.load(run) == whole
        else:
            assert (code, err.count("\n")) == (1, 1)
            assert err.startswith("tiny-lm: error: ")
            assert "fault of tiny-lm" not in err
            refused += 1
    assert refused > 900


def changes():
    """(what is wrong, a function that changes tensors and metadata in place)."""

    def metadata(*keys, value):
        def change(tensors, metadata):
            inner = metadata
            for key in keys[:-1]:
                inner = inner[key]
            inner[keys[-1]] = value

        return change

    yield "a missing tensor", lambda tensors, _: tensors.pop(next(iter(tensors)))
    yield "an additional tensor", lambda tensors, _: tensors.update(more=[1.0])
    yield "another shape", lambda tensors, _: tensors[next(iter(tensors))].pop()
    yield "a vector for a matrix", lambda tensors, _: tensors.update({next(iter(tensors)): [1.0]})
    for name in ("gpt", None, [], 3):
        yield f"model {name}", metadata("model", value=name)
    for name in ("mlp", "attention", "modern"):
        yield f"the checkpoint of another rung: {name}", metadata("model", value=name)
    yield "a later format", metadata("format", value=2)
    yield "no config", lambda _, metadata: metadata.pop("config")
    yield "config a list", metadata("config", value=[])
    yield "a size of text", metadata("config", "context_length", value="4")
    yield "a size of 0", metadata("config", "context_length", value=0)
    yield "an unknown size", metadata("config", "n_experts", value=8)
    yield "another alphabet", metadata("tokenizer", "characters", value=["a", "b"])
    yield "an alphabet of numbers", metadata("tokenizer", "characters", value=[1, 2])
    yield "no alphabet", metadata("tokenizer", value={})
    yield "an unknown tokenizer", metadata("tokenizer", "kind", value="words")
    yield "a step behind the end", metadata("step", value=4)
    yield "a negative step", metadata("step", value=-1)
    yield "half a step", metadata("step", value=1.5)
    yield "no best", lambda _, metadata: metadata.pop("best")
    yield "a best of text", metadata("best", value={"step": "a", "val_loss": "b"})


@pytest.mark.parametrize(("wrong", "change"), list(changes()), ids=lambda value: str(value)[:40])
def test_a_whole_file_with_wrong_content_is_refused(run, wrong, change, capsys):
    tensors, metadata = checkpoint.load(run)
    if wrong.endswith(f": {metadata['model']}"):
        pytest.skip("the same rung")
    change(tensors, metadata)
    checkpoint.save(run, tensors, metadata)
    code, err = generate(run, capsys)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"tiny-lm: error: {run} ")
    assert "Error" not in err


def test_a_moment_too_many_is_refused_by_who_would_use_it(run, capsys):
    tensors, metadata = checkpoint.load(run)
    tensors["optimizer.q.x"] = [1.0]
    checkpoint.save(run, tensors, metadata)
    assert generate(run, capsys)[0] == 0
    with pytest.raises(UserError, match="averages do not fit"):
        load_run(run, to_train=True)


@pytest.mark.reference
def test_safetensors_and_pytorch_open_a_checkpoint(run):
    numpy = pytest.importorskip("safetensors.numpy")
    pytorch = pytest.importorskip("safetensors.torch")
    tensors, metadata = checkpoint.load(run)
    for loaded in (numpy.load_file(run), pytorch.load_file(run)):
        assert {name: tensor.tolist() for name, tensor in loaded.items()} == tensors
    with pytest.importorskip("safetensors").safe_open(run, framework="pt") as file:
        assert json.loads(file.metadata()["tiny_llm"]) == metadata
