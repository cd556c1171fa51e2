"""Numbers in safetensors: every kind of float there and back, and a table that fills the file."""

import json
import math
import struct

import pytest

from tiny_llm.files import safetensors
from tiny_llm.files.portable import ForeignError
from tiny_llm.files.safetensors import Stored, content, encoded, mapped, parse, rows

NUMBERS = {  # of each kind: the smallest above 0, the largest, one that is no ordinary fraction
    "F64": ("<d", [5e-324, 1.7976931348623157e308, math.pi, -0.0]),
    "F32": ("<f", [2.0**-149, 3.4028234663852886e38, 3.1415927410125732, -0.0]),
    "F16": ("<e", [2.0**-24, 65504.0, 3.140625, -0.0]),
}


def written(dtype, matrix):
    """The bytes of a file with this matrix in it, and metadata."""
    shape = len(matrix), len(matrix[0])
    return b"".join(content({"a": "b"}, {"m": Stored(dtype, shape, encoded("m", dtype, matrix))}))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_numbers_survive_there_and_back(dtype):
    form, row = NUMBERS[dtype]
    metadata, tensors = parse(written(dtype, [row, row[::-1]]))
    assert metadata == {"a": "b"}
    assert tensors["m"][:2] == (dtype, (2, 4))
    assert list(rows("m", tensors["m"])) == [row, row[::-1]]
    assert math.copysign(1, next(rows("m", tensors["m"]))[3]) == -1
    assert bytes(tensors["m"].parts[0])[: struct.calcsize(form)] == struct.pack(form, row[0])


def test_every_float16_is_read_as_it_is():
    bits = [n for n in range(2**16) if n >> 10 & 31 != 31]  # the others are not finite
    numbers = struct.pack(f"<{len(bits)}H", *bits)
    (row,) = rows("x", Stored("F16", (len(bits),), [numbers]))
    for n, value in zip(bits, row):
        exponent, fraction = n >> 10 & 31, n % 1024
        size = (fraction + 1024 * (exponent > 0)) * 2.0 ** (max(exponent, 1) - 25)
        assert value == (-size if n >> 15 else size)
    assert next(encoded("x", "F16", [row])) == numbers


def test_a_bfloat16_is_the_upper_half_of_a_float32():
    bits = [n for n in range(2**16) if n >> 7 & 255 != 255]
    numbers = struct.pack(f"<{len(bits)}H", *bits)
    (row,) = rows("x", Stored("BF16", (len(bits),), [numbers]))
    assert row[bits.index(0x3F80)] == 1.0
    assert row[bits.index(0xC049)] == -3.140625
    for n, value in zip(bits, row):
        assert struct.pack("<f", value) == struct.pack("<I", n << 16)


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even():
    one = 1.0
    for dtype, step in (("F16", 2.0**-10), ("F32", 2.0**-23)):
        row = [one + step / 2, one + 1.5 * step, one + 0.51 * step, one + 0.49 * step]
        _, tensors = parse(written(dtype, [row]))
        assert next(rows("m", tensors["m"])) == [one, one + 2 * step, one + step, one]


@pytest.mark.parametrize(("dtype", "number"), [("F16", 65520.0), ("F32", -3.5e38)])
def test_a_number_that_is_too_large_is_not_written(dtype, number):
    with pytest.raises(ValueError, match=r"m holds .*, too large for") as error:
        written(dtype, [[1.0, number]])
    assert f"{number:.6g}, too large for {dtype}" in str(error.value)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_is_not_finite_is_neither_written_nor_read(dtype, number):
    numbers = struct.pack("<2f", 1.0, number)
    numbers = numbers[2:4] + numbers[6:] if dtype == "BF16" else numbers
    if dtype in "F64 F16":
        numbers = struct.pack("<2d" if dtype == "F64" else "<2e", 1.0, number)
    with pytest.raises(ForeignError, match="m holds a number that is not finite"):
        list(rows("m", Stored(dtype, (2,), [numbers])))
    if dtype != "BF16":
        with pytest.raises(ValueError, match="m holds a number that is not finite"):
            written(dtype, [[1.0, number]])


def test_large_numbers_whose_sum_is_not_finite_are():
    assert next(rows("m", parse(written("F64", [[1e308] * 3]))[1]["m"])) == [1e308] * 3


def test_any_number_of_axes_is_read_and_the_wider_numbers_come_first():
    tensors = {
        "mask": Stored("BOOL", (1, 1, 3), [b"\1\1\0"]),
        "scalar": Stored("F32", (), [b"\0\0\0\0"]),
        "none": Stored("F64", (0, 4), []),
        "vector": Stored("F64", (1,), [b"\0" * 4, b"\0" * 4]),
    }
    whole = b"".join(content({}, tensors))
    length = int.from_bytes(whole[:8], "little")
    assert length % 8 == 0
    assert list(json.loads(whole[8 : 8 + length])) == ["none", "vector", "scalar", "mask"]
    metadata, read = parse(whole)
    assert metadata == {}
    assert {name: t[:2] for name, t in read.items()} == {n: t[:2] for n, t in tensors.items()}
    assert bytes(read["mask"].parts[0]) == b"\1\1\0"


def test_a_file_is_mapped_and_an_empty_one_is_too_short(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(written("F32", [[1.0, 2.0]]))
    assert list(rows("m", parse(mapped(path))[1]["m"])) == [[1.0, 2.0]]
    path.write_bytes(b"")
    with pytest.raises(ForeignError, match="0 bytes, too few for a header"):
        parse(mapped(path))
    with pytest.raises(OSError):
        mapped(tmp_path)


def file_of(table, body=b"\0" * 8):
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + body


def entry(**changes):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


REFUSED = {  # those that a checkpoint can have as well are in test_checkpoint.py
    "an unknown kind": (entry(dtype="F4"), "has numbers of an unknown kind"),
    "many axes": (entry(shape=[1] * 9), "a shape that is none"),
    "huge axes": (entry(shape=[2**59] * 8), "is not where it should be"),
    "negative": (entry(shape=[-2]), "a shape that is none"),
    "metadata": ({"__metadata__": [], **entry()}, "metadata are not a JSON object"),
    "too short": (entry(data_offsets=[0, 4], shape=[1]), "need 4 bytes, and it has 8"),
    "a kind that is a list": (entry(dtype=[]), "table of tensors is none"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_does_not_fit_is_refused(case):
    table, problem = REFUSED[case]
    with pytest.raises(ForeignError, match=problem):
        parse(file_of(table))
    assert parse(file_of(entry()))[1]["x"].shape == (2,)


@pytest.mark.reference
def test_safetensors_reads_what_is_written_and_writes_what_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("safetensors.torch")
    for dtype, (_, row) in NUMBERS.items():
        path = tmp_path / dtype
        path.write_bytes(written(dtype, [row, row]))
        assert theirs.load_file(path)["m"].tolist() == [row, row]
    tensor = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        theirs.save_file({"m": tensor.to(kind)}, tmp_path / "x")
        read = safetensors.parse(mapped(tmp_path / "x"))[1]["m"]
        assert list(rows("m", read)) == tensor.to(kind).double().tolist()
