"""The container: what is written is found again, and no damaged file does more than say so."""

import random
import struct
from array import array

import pytest
from conftest import memory_below
from test_gguf_models import BPE, CHARACTERS, gpt2, llama, portable

from benchmarks.damage import by_accident, malicious_gguf
from tiny_llm.files import gguf, gguf_models
from tiny_llm.files.gguf_writer import Outgoing, write
from tiny_llm.files.portable import ForeignError

ENTRIES = {
    "general.architecture": "none",
    "a.flag": True,
    "a.size": 7,
    "a.number": 0.5,
    "a.text": "ä\n\U0001f600",
    "a.texts": ["", "b", "ü"],
    "a.wholes": array("i", [-1, 2]),
}
VECTOR = Outgoing("vector", (3,), "F32", lambda: [struct.pack("<3f", 1, 2, 3)])
MATRIX = Outgoing("matrix", (2, 32), "Q8_0", lambda: [bytes(range(34)), bytes(range(34))])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


def test_what_is_written_is_read(path):
    write(path, ENTRIES, [VECTOR, MATRIX])
    file = gguf.read(path)
    assert list(file.entries) == list(ENTRIES)
    assert file.flag("a.flag") is True and file.whole("a.size") == 7
    assert file.number("a.number") == 0.5 and file.text("a.text") == "ä\n\U0001f600"
    assert file.texts("a.texts") == ["", "b", "ü"] and file.wholes("a.wholes") == [-1, 2]
    assert file.whole("none", 3) == 3 and file.flag("none", False) is False
    assert file.tensors["vector"][:2] == ((3,), "F32")
    assert file.tensors["matrix"][:2] == ((2, 32), "Q8_0")
    assert bytes(file.tensors["matrix"].data) == bytes(range(34)) * 2
    content = path.read_bytes()
    assert gguf.is_gguf(content[:8]) and not gguf.is_gguf(b"GGML") and not gguf.is_gguf(b"")
    assert len(content) % 32 == 0 and content.index(bytes(range(34))) % 32 == 0


def header(version=3, tensors=0, entries=b"", count=None, magic=b"GGUF"):
    count = bool(entries) if count is None else count
    return magic + struct.pack("<IQQ", version, tensors, count) + entries


def string(text):
    return struct.pack("<Q", len(text)) + text


def entry(kind, value, key=b"k"):
    return string(key) + struct.pack("<I", kind) + value


def tensor(name=b"t", shape=(32,), form=0, offset=0, after=b""):
    body = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, form, offset)
    content = header(tensors=1) + string(name) + body + after
    return content + bytes(-len(content) % 32)


def two(first, second, offset, size=4096):
    """Two vectors of 32 floats."""
    content = header(tensors=2)
    for name, place in ((first, 0), (second, offset)):
        content += string(name) + struct.pack("<IQIQ", 1, 32, 0, place)
    return content + bytes(size)


NUMBER = struct.pack("<I", 1)
DAMAGED = {
    "empty": (b"", "does not begin with GGUF"),
    "three bytes": (b"GGU", "does not begin with GGUF"),
    "another format": (header(magic=b"GGML"), "does not begin with GGUF"),
    "magic alone": (b"GGUF", "it ends before 4 bytes"),
    "version 1": (header(1), "it is GGUF version 1; 2 and 3 are known"),
    "version 4": (header(4), "it is GGUF version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "it is big-endian"),
    "tensors without end": (header(tensors=2**63), "claims 9223372036854775808 tensors"),
    "entries without end": (header(count=2**64 - 1), "18446744073709551615 entries"),
    "no entry": (header(count=9), "it ends before 8 bytes"),
    "a key of 2^60 bytes": (header(entries=struct.pack("<Q", 2**60)), "it ends before 1152921"),
    "a long key": (header(entries=string(b"x" * 2000)), "it has a name of 2000 bytes"),
    "a key of no text": (header(entries=string(b"\xff")), "a name that is not text"),
    "an unknown type": (header(entries=entry(13, b"")), "its 'k' is of type 13"),
    "a huge string": (header(entries=entry(8, struct.pack("<Q", 2**62))), "it ends before"),
    "a huge array": (header(entries=entry(9, struct.pack("<IQ", 4, 2**61))), "it ends before"),
    "many strings": (header(entries=entry(9, struct.pack("<IQ", 8, 2**40))), "hold 1099511627776"),
    "nested arrays": (header(entries=entry(9, struct.pack("<IQ", 9, 1))), "is an array of arrays"),
    "an array of what": (header(entries=entry(9, struct.pack("<IQ", 99, 0))), "is of type 99"),
    "a key twice": (header(entries=entry(4, NUMBER) * 2, count=2), "it has two entries 'k'"),
    "no dimensions": (tensor(shape=()), "its tensor 't' has 0 dimensions"),
    "three dimensions": (tensor(shape=(1, 2, 3)), "has 3 dimensions"),
    "an empty shape": (tensor(shape=(0,)), "of shape [0] cannot be of form F32"),
    "a huge shape": (tensor(shape=(2**63, 2**63)), "its tensor 't' needs"),
    "half a block": (tensor(shape=(33,), form=8), "of shape [33] cannot be of form Q8_0"),
    "an unknown form": (tensor(form=17), "has numbers of form 17; known here are F32, F16"),
    "an offset beyond": (tensor(offset=2**40), "begins at 1099511627776 and not at 0"),
    "cut": (tensor(after=bytes(96)), "it ends within its tensor 't'"),
    "overlap": (two(b"a", b"b", 64), "its tensor 'b' begins at 64 and not at 128"),
    "a gap": (two(b"a", b"b", 160), "its tensor 'b' begins at 160 and not at 128"),
    "a tensor twice": (two(b"a", b"a", 128), "it has two tensors 'a'"),
    "an evil name": (two(b"\x1b[2J", b"\x1b[2J", 128), "two tensors '\\x1b[2J'"),
    "alignment 0": (
        header(entries=entry(4, struct.pack("<I", 0), b"general.alignment")),
        "general.alignment is 0, which is no power of two",
    ),
    "alignment 48": (
        header(entries=entry(4, struct.pack("<I", 48), b"general.alignment")),
        "is 48, which is no power of two",
    ),
    "alignment of text": (
        header(entries=entry(8, string(b"32"), b"general.alignment")),
        "its general.alignment is not a whole number",
    ),
}


@pytest.mark.parametrize(("content", "problem"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_container_is_one_line_and_takes_no_memory(content, problem, path):
    path.write_bytes(content)
    with memory_below(1_000_000), pytest.raises(ForeignError) as caught:
        gguf.read(path)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


def test_two_tensors_may_lie_where_they_should(path):
    path.write_bytes(two(b"a", b"b", 128))
    assert list(gguf.read(path).tensors) == ["a", "b"]


def test_another_alignment_and_the_older_version_are_read(path):
    entries = entry(4, struct.pack("<I", 64), b"general.alignment")
    content = header(2, 1, entries) + string(b"t") + struct.pack("<IQIQ", 1, 1, 0, 0)
    content += bytes(-len(content) % 64) + struct.pack("<f", 1.5)
    path.write_bytes(content)
    assert bytes(gguf.read(path).tensors["t"].data) == struct.pack("<f", 1.5)


@pytest.mark.parametrize(("ask", "key"), [
    ("whole", "a.text"), ("whole", "a.flag"), ("whole", "a.wholes"), ("number", "a.size"),
    ("text", "a.texts"), ("texts", "a.text"), ("texts", "a.wholes"), ("wholes", "a.texts"),
    ("flag", "a.size"), ("whole", "none"), ("texts", "none"),
])  # fmt: skip
def test_an_entry_of_another_type_is_refused_by_name(ask, key, path):
    write(path, ENTRIES, [])
    with pytest.raises(ForeignError, match=f"(its|no) {key}"):
        getattr(gguf.read(path), ask)(key)


@pytest.mark.parametrize("value", [["x"] * (2**17 + 1), ["x" * 2**20] * 9, ["\udcff"]])
def test_strings_are_made_only_of_what_is_moderate(value, path):
    """2^17 strings, 8 MB of them, and those that are text."""
    if value == ["\udcff"]:
        path.write_bytes(header(entries=entry(9, struct.pack("<IQ", 8, 1) + string(b"\xff"))))
    else:
        write(path, {"k": value}, [])
    with memory_below(1_000_000), pytest.raises(ForeignError, match="its k"):
        gguf.read(path).texts("k")


def test_a_tensor_of_another_size_or_a_long_name_is_not_written(path):
    for wrong in (VECTOR._replace(shape=(4,)), VECTOR._replace(name="x" * 64)):
        with pytest.raises(ForeignError):
            write(path, {}, [wrong])
    assert not path.exists()
    write(path, {}, [VECTOR._replace(name="x" * 63)])


# ---------------------------------------------------------------- hundreds of damaged files


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_damaged_model_is_one_line_or_a_model(build, dtype, path):
    """Bits flipped, parts missing, moved or doubled; and files that say what no writer would."""
    tokenizer = BPE if dtype == "f32" else CHARACTERS
    gguf_models.write(path, portable(build(tokenizer.vocab_size), tokenizer), dtype)
    whole = path.read_bytes()
    rng, refused = random.Random(build.__name__ + dtype), 0
    for number in range(80):
        if number % 2:
            content = by_accident(whole, rng)
        else:
            content = malicious_gguf({"m.gguf": whole}, rng)["m.gguf"]
        path.write_bytes(content)
        try:
            with memory_below(len(content) * 2 + 5_000_000):
                for tensor in gguf_models.read(path).tensors.values():
                    for row in tensor.read():
                        assert len(row) == tensor.shape[-1]
        except ForeignError as error:
            assert "\n" not in str(error) and str(error).isprintable(), number
            refused += 1
    assert 40 < refused < 80


# ---------------------------------------------------------------- with the package gguf


@pytest.mark.reference
def test_the_package_gguf_finds_the_same(path):
    package = pytest.importorskip("gguf")
    write(path, ENTRIES, [VECTOR, MATRIX])
    reader = package.GGUFReader(path)
    for key, value in ENTRIES.items():
        found = reader.get_field(key).contents()
        assert (array("i", found) if isinstance(value, array) else found) == value
    for tensor, ours in zip(reader.tensors, gguf.read(path).tensors.items()):
        assert (tensor.name, tensor.tensor_type.name) == (ours[0], ours[1].form)
        assert tuple(map(int, tensor.shape))[::-1] == ours[1].shape
        assert tensor.data.tobytes() == bytes(ours[1].data)
