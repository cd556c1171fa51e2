"""Text as it comes: whole characters, and none that a stop text may begin."""

from hypothesis import given
from hypothesis import strategies as st

from tiny_llm.text.stream import TextStream


def single_bytes(token):
    return bytes([token])


def streamed(data, stop=""):
    """What comes after each byte, what comes at the end, and the stream."""
    stream = TextStream(single_bytes, stop)
    return [stream.add(byte) for byte in data], stream.end(), stream


@given(st.text(st.sampled_from("abé日\U0001f600"), max_size=12), st.text("abé", max_size=3))
def test_text_comes_up_to_the_stop_text_wherever_tokens_end(text, stop):
    pieces, rest, stream = streamed(text.encode(), stop)
    before, found, _ = text.partition(stop) if stop else (text, "", "")
    assert "".join(pieces) + rest == before
    assert stream.stopped == bool(found)
    if not stop:  # then a character comes with its last byte
        assert rest == ""


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=4))
def test_only_what_may_begin_the_stop_text_is_held_back(text, stop):
    stream, shown = TextStream(single_bytes, stop), ""
    for end, byte in enumerate(text.encode(), start=1):
        shown += stream.add(byte)
        held = text[len(shown) : end]
        if not stream.stopped:
            assert stop.startswith(held)
            assert not any(
                stop.startswith(text[start:end]) for start in range(len(shown))
            )  # nothing shown could still have turned out to be its beginning


def test_a_stop_text_across_tokens_by_hand():
    tokens = [b"one ", b"<", b"b> two", b"<en", b"d", b"> three"]
    stream = TextStream(tokens.__getitem__, "<end>")
    assert [stream.add(i) for i in range(5)] == ["one ", "", "<b> two", "", ""]
    assert not stream.stopped
    assert stream.add(5) == ""
    assert stream.stopped
    assert stream.add(0) == stream.end() == ""


def test_a_beginning_of_the_stop_text_comes_when_the_text_ends_with_it():
    pieces, rest, stream = streamed(b"a<en", "<end>")
    assert (pieces, rest) == (["a", "", "", ""], "<en")
    assert not stream.stopped
    assert stream.end() == ""


def test_bytes_that_are_no_text_are_marked():
    assert streamed(b"a\xffb")[0] == ["a", "\ufffd", "b"]
    assert streamed("é".encode()[:1])[:2] == ([""], "\ufffd")
    assert streamed(b"\xc3\n", "\n")[0] == ["", "\ufffd"]
