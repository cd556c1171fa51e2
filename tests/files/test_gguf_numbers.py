"""Every form of numbers in GGUF means what the package `gguf` says that it means, to the bit."""

import base64
import math
import random
import struct
from array import array

import make_references
import pytest

from tiny_llm.files.gguf_numbers import ENCODERS, FORMS, singles

BLOCKS = make_references.read("gguf")["blocks"]


def stored(form):
    """(bytes of blocks, their floats as bytes of float32)"""
    return [base64.b64decode(BLOCKS[form][part]) for part in ("data", "floats")]


def bits(floats):
    """As bytes of float32, -0.0 told from 0.0. Raises for a number that is none of float32."""
    assert singles(floats) == floats
    return struct.pack(f"<{len(floats)}f", *floats)


def test_every_form_has_a_reference():
    assert sorted(BLOCKS) == sorted(FORMS)
    assert len({form.number for form in FORMS.values()}) == len(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_stored_blocks_are_decoded_to_the_bit(form):
    data, floats = stored(form)
    assert len(data) % FORMS[form].size == 0
    assert bits(FORMS[form].decode(data)) == floats
    assert bits(FORMS[form].decode(memoryview(data))) == floats


@pytest.mark.parametrize("form", FORMS)
def test_one_other_bit_gives_another_number(form):
    """So every byte of a block counts, in every form."""
    data, _ = stored(form)
    for place in range(FORMS[form].size):
        other = bytearray(data)
        other[place] ^= 1
        assert FORMS[form].decode(other) != FORMS[form].decode(data)


@pytest.mark.parametrize("form", ENCODERS)
def test_what_was_decoded_is_encoded_to_the_same_numbers(form):
    """Q8_0 has a scale for each block: its own numbers come back if one of them is 127."""
    rng = random.Random(0)
    row = [rng.gauss(0, 1) for _ in range(64)]
    once = FORMS[form].decode(ENCODERS[form](row))
    assert FORMS[form].decode(ENCODERS[form](once)) == once
    assert len(ENCODERS[form](row)) == 64 // FORMS[form].length * FORMS[form].size


def test_f16_is_rounded_to_nearest_and_halves_to_even():
    one = 2.0**-10  # the distance of neighbours from 1 on
    row = [1 + one / 2, 1 + 3 * one / 2, 1 + one / 2 + 1e-9, -1 - one / 2, 65519.99, 2.0**-25]
    expected = [1.0, 1 + 2 * one, 1 + one, -1.0, 65504.0, 0.0]
    assert FORMS["F16"].decode(ENCODERS["F16"](row)) == expected


def test_q8_0_rounds_halves_away_from_zero_and_keeps_the_largest():
    row = [127.0, 0.5, -0.5, 1.5, 2.5, -2.5, 0.49, -127.0] + [0.0] * 24
    expected = [127.0, 1.0, -1.0, 2.0, 3.0, -3.0, 0.0, -127.0] + [0.0] * 24
    assert FORMS["Q8_0"].decode(ENCODERS["Q8_0"](row)) == expected


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-39, 1e-20])
def test_q8_0_of_nearly_nothing_is_nothing(tiny):
    decoded = FORMS["Q8_0"].decode(ENCODERS["Q8_0"]([tiny, -tiny] * 16))
    assert all(value == 0 for value in decoded)


@pytest.mark.parametrize(
    ("form", "large"), [("F32", 1e39), ("F16", 65520.0), ("Q8_0", 1e7), ("Q8_0", 1e39)]
)
def test_what_is_too_large_is_an_overflow(form, large):
    with pytest.raises(OverflowError):
        ENCODERS[form]([large] + [0.0] * 31)


def test_what_is_no_number_stays_none():
    for form, nan in (("F32", b"\0\0\xc0\x7f"), ("F16", b"\0\x7e"), ("BF16", b"\xc0\x7f")):
        assert math.isnan(FORMS[form].decode(nan)[0])


# ---------------------------------------------------------------- with the package gguf


@pytest.mark.reference
@pytest.mark.parametrize("form", FORMS)
def test_random_blocks_are_decoded_as_the_package_gguf_does(form):
    numpy, gguf = pytest.importorskip("numpy"), pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[form]
    assert gguf.GGML_QUANT_SIZES[kind] == (FORMS[form].length, FORMS[form].size)
    assert kind.value == FORMS[form].number
    data = numpy.random.default_rng(1).integers(0, 256, (1, 300 * FORMS[form].size), numpy.uint8)
    with numpy.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(data, kind).ravel()
    ours = numpy.array(array("f", FORMS[form].decode(data.tobytes())), dtype=numpy.float32)
    numbers = ~numpy.isnan(theirs)
    assert numbers.sum() > 250 * FORMS[form].length
    assert (numpy.isnan(ours) == ~numbers).all()
    assert ours[numbers].tobytes() == theirs[numbers].tobytes()


@pytest.mark.reference
@pytest.mark.parametrize("size", [1e-42, 1e-39, 1e-30, 1e-6, 1.0, 1e5])
def test_q8_0_is_encoded_as_the_package_gguf_does(size):
    numpy, gguf = pytest.importorskip("numpy"), pytest.importorskip("gguf")
    row = numpy.random.default_rng(2).normal(0, size, (1, 3200))
    with numpy.errstate(all="ignore"):
        theirs = gguf.quants.quantize(
            row.astype(numpy.float32), gguf.GGMLQuantizationType.Q8_0
        ).tobytes()
    assert ENCODERS["Q8_0"](row[0].tolist()) == theirs
