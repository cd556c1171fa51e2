"""Byte-level byte-pair encoding: tokens that are learned from a text, as in GPT-2.

    text --pieces--> " lowest" --UTF-8--> bytes --merges, the first learned first--> " low" "est"

Characters make long sequences, and words make a vocabulary that is never complete. Between the two,
start with the 256 bytes, of which any text consists, and make a new token of the pair of
neighbours that occurs most often, again and again. Gage (1994) so compressed data, Sennrich et al.
(2016) found the vocabulary of a translator with it, and Radford et al. (2019) began with bytes:

    aaabdaaabac    aa occurs most often, so let Z = aa
    ZabdZabac      then ab: Y = ab
    ZYdZYac        then ZY: X = ZY
    XdXac          no pair occurs twice

To encode, the same merges are applied to each piece in the order in which they were learned. Tokens
are named as GPT-2 names them in its files: a sign for each byte, where Ġ stands for the space.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import chain
from operator import add
from typing import Any, Callable, NamedTuple, Optional, Union

from tiny_llm.text.pretokenize import CUTS, pieces
from tiny_llm.text.shown import shown

END_OF_TEXT = "<|endoftext|>"
GONE = -1  # in the place of a token that has joined its left neighbour
MOST_MISSING = 32  # bytes without a token: 13 stand in no text, and rare ones may have got none
RAREST_PAIR = 2  # a pair that occurs once is no pattern
MOST_CACHED, LONGEST_CACHED = 2**17, 64  # pieces, and characters in a piece, that are remembered

# GPT-2's order of the bytes: first those that Latin-1 shows as a sign of their own.
_SIGNS = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
BYTE_ORDER = _SIGNS + sorted(set(range(256)).difference(_SIGNS))
SIGN_OF_BYTE = dict(zip(BYTE_ORDER, [*map(chr, _SIGNS), *map(chr, range(256, 512))]))
BYTE_OF_SIGN = {sign: byte for byte, sign in SIGN_OF_BYTE.items()}

Merge = tuple[str, str]  # two tokens by name; the new one is named by both names together


class Step(NamedTuple):
    """A moment in the encoding of a piece: which merge was done (None: none yet), and its ids."""

    merge: Optional[int]
    ids: list[int]


class BPETokenizer:
    """A vocabulary of byte strings, and the merges that make them from bytes.

    vocabulary: name -> id, as in GPT-2's vocab.json; merges: pairs of names, as in its merges.txt,
    the first learned first; special_tokens: those names of the vocabulary that stand for themselves
    and are never made from text unless `encode` is told so; cut: how a text becomes pieces, one of
    `pretokenize.CUTS`. A byte that has no token is left out of what is encoded.
    Raises ValueError, with what is wrong, for parts that do not fit together.
    """

    kind, unit = "bpe", "token"

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Iterable[Merge],
        special_tokens: Iterable[str] = (),
        cut: str = "gpt2",
    ) -> None:
        self.vocabulary, self.merges = dict(vocabulary), list(merges)
        if cut not in CUTS:
            raise ValueError(f"{shown(repr(cut))} is no way to cut a text; there are {[*CUTS]}")
        self.cut, self.pieces = cut, CUTS[cut]
        special = set(special_tokens)
        _check_vocabulary(self.vocabulary, self.merges, special)
        self.special_tokens = {name: self.vocabulary[name] for name in self._in_order(special)}
        names = self._in_order(self.vocabulary)
        self._tokens = [utf8(n) if n in special else _bytes_of_name(n) for n in names]
        self._byte_ids = {
            byte: self.vocabulary[sign]
            for byte, sign in SIGN_OF_BYTE.items()
            if sign in self.vocabulary
        }
        pairs = [(self.vocabulary[left], self.vocabulary[right]) for left, right in self.merges]
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._made = [self.vocabulary[left + right] for left, right in self.merges]
        self._ids_of_pieces = _Cache(self._encode_piece)

    def _in_order(self, names: Iterable[str]) -> list[str]:
        return sorted(names, key=self.vocabulary.__getitem__)

    @classmethod
    def from_merges(
        cls, merges: Iterable[Merge], special_tokens: Iterable[str] = (END_OF_TEXT,)
    ) -> BPETokenizer:
        """With ids laid out as in GPT-2: the bytes, the tokens of the merges, the special ones."""
        merges, special_tokens = list(merges), list(special_tokens)
        return cls(_standard_vocabulary(merges, special_tokens), merges, special_tokens)

    @classmethod
    def train(
        cls,
        texts: Union[str, Iterable[str]],
        vocab_size: int,
        special_tokens: Iterable[str] = (END_OF_TEXT,),
    ) -> BPETokenizer:
        """Learn the merges from one text or several, until there are `vocab_size` tokens.

        The pair that occurs most often comes first; among equals, the one with the smaller ids. The
        vocabulary stays smaller when no pair occurs twice any more.
        Raises ValueError for a size below that of the bytes and special tokens, or bad text.

        >>> tokenizer = BPETokenizer.train("aaabdaaabac", vocab_size=260)
        >>> tokenizer.merges
        [('a', 'a'), ('a', 'b'), ('aa', 'ab')]
        >>> [tokenizer.token_bytes(token) for token in tokenizer.encode("aaabdaaabac")]
        [b'aaab', b'd', b'aaab', b'a', b'c']
        """
        special_tokens = list(special_tokens)
        least = 256 + len(special_tokens)
        if vocab_size < least:
            raise ValueError(
                f"a vocabulary of {vocab_size} tokens is too small: 256 bytes and "
                f"{len(special_tokens)} special tokens make {least}"
            )
        counts: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            utf8(text)
            counts.update(pieces(text))
        return cls.from_merges(
            _learn(_Words(counts), vocab_size - len(special_tokens)), special_tokens
        )

    @property
    def vocab_size(self) -> int:
        """The number of different tokens, V."""
        return len(self._tokens)

    def encode(self, text: str, allowed_special: Collection[str] = frozenset()) -> list[int]:
        """The ids of the text. Of the special tokens it makes those in `allowed_special` alone.

        Raises ValueError for a lone surrogate, which is no character, and for a name in
        `allowed_special` that is no special token.
        """
        utf8(text)
        if not allowed_special:
            return self._encode(text)
        for name in allowed_special:
            if name not in self.special_tokens:
                raise ValueError(
                    f"{name!r} is no special token of this tokenizer, whose special tokens are "
                    f"{shown(', '.join(self.special_tokens) or 'none')}"
                )
        longest_first = sorted(allowed_special, key=len, reverse=True)
        parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
        ids = self._encode(parts[0])
        for name, plain in zip(parts[1::2], parts[2::2]):
            ids += [self.special_tokens[name], *self._encode(plain)]
        return ids

    def _encode(self, text: str) -> list[int]:
        if len(self._ids_of_pieces) > MOST_CACHED:
            self._ids_of_pieces.clear()
        return list(chain.from_iterable(map(self._ids_of_pieces.__getitem__, self.pieces(text))))

    def _encode_piece(self, piece: str) -> list[int]:
        ids = self._ids_of_bytes(piece)
        for _ in self._merge(ids):
            pass
        return _left(ids)

    def _ids_of_bytes(self, piece: str) -> list[int]:
        ids = self._byte_ids
        return [ids[byte] for byte in piece.encode("utf-8") if byte in ids]

    def _merge(self, ids: list[int]) -> Iterator[int]:
        """Merge in place, leaving GONE behind, and yield the number of each merge once it is done.

        The first learned of all possible merges is always the next, at its leftmost place. All
        possible ones wait in a heap, so that a piece of n bytes takes n log n time, not n².
        """
        ranks, end = self._ranks, len(ids)
        before, after = list(range(-1, end - 1)), list(range(1, end + 1))
        waiting = [
            (ranks[pair], place) for place, pair in enumerate(zip(ids, ids[1:])) if pair in ranks
        ]
        heapify(waiting)
        while waiting:
            rank, place = heappop(waiting)
            right = after[place]
            if right == end or ranks.get((ids[place], ids[right])) != rank:
                continue  # another merge has taken one of the two
            ids[place], ids[right] = self._made[rank], GONE
            after[place] = right = after[right]
            if right < end:
                before[right] = place
            for first, second in ((before[place], place), (place, right)):
                if first >= 0 and second < end and (ids[first], ids[second]) in ranks:
                    heappush(waiting, (ranks[ids[first], ids[second]], first))
            yield rank

    def steps(self, piece: str) -> Iterator[Step]:
        """The encoding of one piece, from its bytes on, merge by merge. Raises as `encode` does."""
        utf8(piece)
        ids = self._ids_of_bytes(piece)
        yield Step(None, list(ids))
        for rank in self._merge(ids):
            yield Step(rank, _left(ids))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that make no UTF-8 become the replacement character.

        Raises ValueError for an unknown id.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`. Raises ValueError for an unknown id."""
        ids = list(ids)
        if ids:
            self.token_bytes(min(ids))
            self.token_bytes(max(ids))
        return b"".join(map(self._tokens.__getitem__, ids))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token. Raises ValueError for an unknown id."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        return self._tokens[token]

    def state(self) -> dict[str, Any]:
        """All that is needed to build it again, as plain data for JSON."""
        special = list(self.special_tokens)
        state: dict[str, Any] = {"kind": self.kind, "merges": [*map(" ".join, self.merges)]}
        state["special"] = special
        if self.cut != "gpt2":
            state["cut"] = self.cut
        if self.cut != "gpt2" or self.vocabulary != _standard_vocabulary(self.merges, special):
            state["vocabulary"] = self._in_order(self.vocabulary)
        return state

    @classmethod
    def from_state(cls, state: Any) -> BPETokenizer:
        """The inverse of `state`. Raises ValueError for anything else."""
        if not isinstance(state, dict) or state.get("kind") != cls.kind:
            raise ValueError("this is not the state of a BPE tokenizer")
        for key in {"merges", "special", *state} - {"kind", "cut"}:
            names = state.get(key)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"the {key} of a BPE tokenizer is a list of strings")
        merges, special = parse_merges(state["merges"]), state["special"]
        if "vocabulary" not in state:
            return cls.from_merges(merges, special)
        names = state["vocabulary"]
        if len(set(names)) != len(names):
            raise ValueError("a token stands twice in the vocabulary")
        vocabulary = {name: token for token, name in enumerate(names)}
        return cls(vocabulary, merges, special, state.get("cut", "gpt2"))


def utf8(text: str) -> bytes:
    """The bytes of a text. Raises ValueError, with what to do, for a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start + 1} of the text is {text[error.start]!r}, a lone surrogate, "
            f"which stands for a byte that is no UTF-8, or for half of a character; remove it"
        ) from None


def parse_merges(lines: Iterable[str]) -> list[Merge]:
    """Merges from lines of two names with a space between. Raises ValueError for another line."""
    merges = []
    for line in lines:
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise ValueError(
                f"a merge is two tokens with a space between them, not {shown(repr(line))}"
            )
        merges.append((left, right))
    return merges


def _bytes_of_name(name: str) -> bytes:
    """b" low" for GPT-2's name Ġlow. Raises ValueError for a sign that stands for no byte."""
    try:
        return bytes(map(BYTE_OF_SIGN.__getitem__, name))
    except KeyError as error:
        raise ValueError(
            f"the token {shown(repr(name))} holds {error}, which stands for no byte in a "
            f"byte-level vocabulary"
        ) from None


def _left(ids: list[int]) -> list[int]:
    return [token for token in ids if token != GONE]


class _Cache(dict[str, list[int]]):
    """The ids of pieces, computed when a piece is first asked for. Most of a text is repetition."""

    def __init__(self, compute: Callable[[str], list[int]]) -> None:
        self.compute = compute

    def __missing__(self, piece: str) -> list[int]:
        ids = self.compute(piece)
        if len(piece) <= LONGEST_CACHED:
            self[piece] = ids
        return ids


def _standard_vocabulary(merges: list[Merge], special_tokens: list[str]) -> dict[str, int]:
    """GPT-2's layout of ids. Two merges may make the same token, which then has one id."""
    names = [SIGN_OF_BYTE[byte] for byte in BYTE_ORDER]
    names += [left + right for left, right in merges]
    names += special_tokens
    return {name: token for token, name in enumerate(dict.fromkeys(names))}


def _check_vocabulary(vocabulary: dict[str, int], merges: list[Merge], special: set[str]) -> None:
    """Raises ValueError unless these can encode any text, and decode any id."""
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(f"the ids of {len(vocabulary)} tokens must be the numbers from 0 on")
    made = {left + right for left, right in merges} | BYTE_OF_SIGN.keys()
    for name in special:
        if not name or name not in vocabulary:
            raise ValueError(f"the special token {shown(repr(name))} is not in the vocabulary")
        if name in made:
            raise ValueError(
                f"the special token {shown(repr(name))} is also the name of an ordinary one; "
                f"choose another"
            )
    missing = sum(sign not in vocabulary for sign in BYTE_OF_SIGN)
    if missing > MOST_MISSING:
        raise ValueError(
            f"the vocabulary has no token for {missing} of the 256 bytes, so there are texts that "
            f"it cannot encode; a byte-level vocabulary lacks {MOST_MISSING} at most"
        )
    for left, right in merges:
        for name in (left, right, left + right):
            if name not in vocabulary or name in special:
                raise ValueError(
                    f"the merge of {shown(repr(left))} and {shown(repr(right))} needs "
                    f"{shown(repr(name))}, which is no ordinary token of the vocabulary"
                )


class _Words:
    """The different pieces of a text, how often each occurs, and how often each pair in them.

    A piece is a string whose characters are token ids, `chr(id)`, and a pair two of them: Python
    then replaces a pair in a piece at C speed.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        character_of_byte = {byte: chr(token) for token, byte in enumerate(BYTE_ORDER)}
        self.times = list(counts.values())
        self.words = [
            piece.encode("utf-8").decode("latin-1").translate(character_of_byte) for piece in counts
        ]
        self.pair_counts: Counter[str] = Counter()
        self.places: dict[str, set[int]] = defaultdict(set)  # pair -> the words that hold it
        for number, word in enumerate(self.words):
            for pair in map(add, word, word[1:]):
                self.pair_counts[pair] += self.times[number]
                self.places[pair].add(number)

    def replace(self, pair: str, token: str) -> set[str]:
        """Write `token` for `pair` in every word, and return the pairs that occur more often now.

        Only the words that hold the pair are looked at.
        """
        grown = set()
        for number in self.places.pop(pair):
            old, times = self.words[number], self.times[number]
            new = self.words[number] = old.replace(pair, token)
            for other in map(add, old, old[1:]):
                self.pair_counts[other] -= times
            for other in map(add, new, new[1:]):
                self.pair_counts[other] += times
                if token in other:
                    self.places[other].add(number)
                    grown.add(other)
        return grown


def _learn(words: _Words, size: int) -> list[Merge]:
    """The merges that give `size` tokens with the bytes; fewer when no pair is left to merge.

    The heap holds the most frequent pair on top, by the count that it had when it was put there.
    """
    names = [SIGN_OF_BYTE[byte] for byte in BYTE_ORDER]
    tokens = {name: token for token, name in enumerate(names)}
    merges: dict[Merge, None] = {}  # a set that keeps its order
    heap = [(-count, pair) for pair, count in words.pair_counts.items()]
    heapify(heap)
    while heap and len(names) < size:
        count, pair = heappop(heap)
        now = words.pair_counts[pair]
        if now != -count:  # other merges have taken some of them
            if now >= RAREST_PAIR:
                heappush(heap, (-now, pair))
            continue
        if now < RAREST_PAIR:
            break
        left, right = (names[ord(token)] for token in pair)
        merges[left, right] = None
        token = tokens.setdefault(left + right, len(names))
        if token == len(names):
            names.append(left + right)
        for grown in words.replace(pair, chr(token)):
            heappush(heap, (-words.pair_counts[grown], grown))
    return list(merges)
