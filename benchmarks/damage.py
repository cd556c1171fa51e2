"""Damage on purpose: every kind of file that a command reads, broken at random and with malice.

    python3 benchmarks/damage.py                          10,000 cases of each kind, and the counts
    python3 benchmarks/damage.py --only metrics/123       one case again, with what it printed

A case takes a well-formed file, damages it, and gives it to a command that reads such files, in a
terminal. Half of the cases are accidents: bits that flipped, parts that are missing, moved or too
many. The other half is an attacker's: a file that is well-formed, with the right checksum, and says
what no writer would: sizes of 10^9, numbers of the wrong sign or type, NaN, lists a thousand deep,
commands to the terminal in its strings. Whatever it is, the command gives its result or one line
that says what is wrong; it neither crashes nor hangs, takes no memory beyond the file's size and
MORE, prints nothing that a terminal would obey, and leaves the file as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm import CharTokenizer, ModernConfig, ModernLanguageModel
from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.cli import main
from tiny_llm.fast.tensors import shape
from tiny_llm.files import checkpoint, gguf, gguf_models, hugging_face
from tiny_llm.files.checkpoint import METADATA
from tiny_llm.files.gguf_numbers import FORMS
from tiny_llm.files.portable import PortableModel, PortableTensor
from tiny_llm.model import rows_of
from tiny_llm.text.bpe import BPETokenizer

SECONDS = 5.0  # of the processor: no case may take longer
WAITING = 60.0  # of the clock: nor may it wait for what never comes
MORE = 200 * 2**20  # bytes of memory beyond the size of the files
CHUNK = 250  # cases that one process runs; what it dies of is then known
EVIL = "\x1b]0;x\x07\x9b31m\x7f\u202e\u2066\r"  # what a terminal would obey
COMMANDS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200f\u2028-\u202e\u2066-\u2069]")
TEXT = "the cat sat on the mat and the dog sat on the log. \nA cat! " * 12
TINY = {
    "mlp": ["--context-length", "4", "--d-embedding", "3", "--d-hidden", "5"],
    "attention": ["--context-length", "4", "--d-model", "4", "--d-hidden", "5"],
    "modern": ["--context-length", "4", "--d-model", "4", "--n-heads", "2", "--n-layers", "2"],
}

Files = dict[str, bytes]  # name -> content


class Kind(NamedTuple):
    """A kind of file: well-formed examples, what an attacker makes of one, and who reads it.

    `{}` in a command is the folder. The first file of an example is the one that is damaged by
    accident; `by_malice` may change any.
    """

    examples: list[Files]
    by_malice: Callable[[Files, random.Random], Files]
    commands: list[str]
    is_same: Callable[[bytes, bytes], bool] = lambda old, new: True  # if it was accepted


class Outcome(NamedTuple):
    """What became of a case."""

    code: Optional[int]
    printed: str
    problem: str  # "": none
    seconds: float


# ------------------------------------------------------------------------------ accidents


def by_accident(content: bytes, rng: random.Random) -> bytes:
    """The content with bits flipped, and parts removed, added, moved, doubled or overwritten."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        size = len(data)
        place, length = rng.randrange(size + 1), rng.choice([1, 1, 2, 8, 50, max(1, size // 3)])
        part = bytes(data[place : place + length])
        kind = rng.randrange(8)
        if kind == 0 and part:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + 1] = rng.choice([b"\0", b"\xff", b"9", b'"', b"{", b"[", b"\n"])
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = bytes(rng.randrange(256) for _ in range(length))
        elif kind == 5:
            data[place:place] = part
        elif kind == 6:
            other = rng.randrange(size + 1)
            data[other : other + length] = part
        else:
            data[place : place + length] = bytes(len(part))
    return bytes(data)


# ------------------------------------------------------------------------------ malice

RAW = {  # JSON that json.dumps does not write, in the place of these strings
    "@deep@": "[" * 2000 + "]" * 2000,
    "@deeper@": '{"a":' * 100_000,
    "@rather deep@": "[" * 300 + "]" * 300,
    "@digits@": "9" * 200_000,
    "@overflow@": "1e999",
    "@400 digits@": "1" + "0" * 400,
    "@many@": "[" + "[]," * 200_000 + "0]",
}
VALUES: list[Any] = [
    *RAW, 0, 1, 2, 3, -1, -(10**9), 10**6, 10**9, 10**12, 10**17, 2**63, 2**64, 0.5, 1e308, -1e308,
    5e-324, 1e-310, -0.0, float("nan"), float("inf"), True, False, None, "", "a", "\0", "\ud800",
    EVIL, EVIL * 1000, "x" * 10**6, [], {}, [EVIL], {EVIL: EVIL}, [[1.0]], list(range(1000)),
]  # fmt: skip


def written(value: Any) -> str:
    """As JSON, with what only an attacker writes."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(json.dumps(name), raw)
    return text


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of all that is in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def twisted(value: Any, rng: random.Random) -> Any:
    """The JSON value with other values, names or sizes in a place or two, or in every string."""
    value = json.loads(json.dumps(value))
    if rng.random() < 0.1:
        return in_every_string(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        # Containers have few places and long lists many: each depth is as likely as another.
        found = list(places(value))
        small = [(container, key) for container, key in found if len(container) < 30]
        container, key = rng.choice(small if small and rng.random() < 0.8 else found)
        kind = rng.randrange(10)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice([EVIL, "x" * 10**5, "", "\ud800"])] = copy.deepcopy(
                rng.choice(VALUES)
            )
        elif kind == 2 and isinstance(container[key], (int, float)):
            container[key] = container[key] * rng.choice([-1, 2, 10, 1e6, 1e300]) + 1
        elif kind == 3 and isinstance(container[key], str):
            container[key] += EVIL
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
        if not value:
            break
    return value


def in_every_string(value: Any) -> Any:
    """With commands to the terminal behind every string, names of fields aside."""
    if isinstance(value, dict):
        return {name: in_every_string(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [in_every_string(inner) for inner in value]
    return value + EVIL if isinstance(value, str) else value


def malicious_json(content: bytes, rng: random.Random) -> bytes:
    """A JSON file, twisted."""
    return written(twisted(json.loads(content), rng)).encode("utf-8", "surrogatepass")


def malicious_checkpoint(files: Files, rng: random.Random) -> Files:
    """With another run in it, other tensors or another table, and the right checksum."""
    name = next(iter(files))
    length = int.from_bytes(files[name][:8], "little")
    header, body = json.loads(files[name][8 : 8 + length]), files[name][8 + length :]
    own = header.pop("__metadata__")
    metadata, table = json.loads(own[METADATA]), header
    kind = rng.randrange(10)
    if kind < 7:
        text = written(twisted(metadata, rng))
        if rng.random() < 0.5:  # rather where it matters: sizes, options, and how far the run is
            part = rng.choice(["config", "training", "recent", "best", "tokenizer"])
            text = written({**metadata, part: twisted(metadata[part] or [0], rng)})
    else:
        text = own[METADATA]
    if kind == 7:
        table = twisted(table, rng)
    elif kind == 8:
        numbers = bytearray(body)
        for _ in range(rng.choice([1, 5, len(body) // 8])):
            place = rng.randrange(len(body) // 8) * 8
            numbers[place : place + 8] = rng.choice(
                [b"\xff" * 8, b"\0" * 7 + b"\x7f", b"\xff" * 6 + b"\xef\x7f", b"\1" + b"\0" * 7]
            )
        body = bytes(numbers)
    elif kind == 9:
        old = rng.choice(list(table))
        table = {rng.choice([EVIL, "optimizer." + EVIL, "x" * 9999]) if n == old else n: entry
                 for n, entry in table.items()}  # fmt: skip
    return {**files, name: signed(text, table, body)}


def signed(text: str, table: Any, body: bytes) -> bytes:
    """A checkpoint of this metadata, table and body, whose checksum is right where it can be."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(Exception):  # a table that is none has no checksum
        for name in sorted(table):
            begin, end = table[name]["data_offsets"]
            dtype = [] if table[name]["dtype"] == "F64" else [table[name]["dtype"]]
            said = json.dumps([name, table[name]["shape"], *dtype]).encode()
            digest.update(said + body[begin:end])
    own = {METADATA: text, "sha256": digest.hexdigest()}
    whole = {"__metadata__": own, **table} if isinstance(table, dict) else table
    header = written(whole).encode()
    return len(header).to_bytes(8, "little") + header + body


def malicious_metrics(files: Files, rng: random.Random) -> Files:
    """Some of its lines, twisted."""
    name = next(iter(files))
    lines: list[Any] = [json.loads(line) for line in files[name].splitlines()]
    for _ in range(rng.choice([1, 1, 2, len(lines)])):
        place = rng.randrange(len(lines))
        lines[place] = twisted(lines[place] or [0], rng)
    if rng.random() < 0.2:
        lines = rng.choice([lines[:1], lines[::-1], lines * 50])
    return {**files, name: "\n".join(map(written, lines)).encode()}


def malicious_tokenizer(files: Files, rng: random.Random) -> Files:
    """tokenizer.json, vocab.json or merges.txt, twisted."""
    name = rng.choice(list(files))
    if name.endswith(".json"):
        return {**files, name: malicious_json(files[name], rng)}
    lines = files[name].decode().split("\n")
    for _ in range(rng.choice([1, 2])):
        other = [EVIL, f"{EVIL} {EVIL}", "", "a", "a b c", "x" * 10**5, "Ġ Ġ" * 1000, lines[-2]]
        lines[rng.randrange(len(lines))] = rng.choice(other)
    return {**files, name: "\n".join(lines).encode()}


def malicious_tokens(files: Files, rng: random.Random) -> Files:
    """The description twisted; or other ids, rightly described."""
    (name, ids), (beside, content) = files.items()
    description = json.loads(content)
    if rng.random() < 0.5:
        ids = b"".join(rng.choice([ids[:2], b"\xff\xff"]) for _ in range(len(ids) // 2))
        description["sha256"] = hashlib.sha256(ids).hexdigest()
    if rng.random() < 0.7:
        description = twisted(description, rng)
    return {name: ids, beside: written(description).encode("utf-8", "surrogatepass")}


GGUF_NUMBERS = [0, 1, 2, 3, 7, 31, 33, 2**20, 2**31, 2**32 - 1]
GGUF_VALUES = [  # type and value of an entry, as they are in a file
    *(struct.pack("<II", 4, number) for number in GGUF_NUMBERS),
    *(struct.pack("<Id", 12, number) for number in (0.0, -1.0, 1e308, float("nan"))),
    *(struct.pack("<If", 6, number) for number in (0.0, -1.0, 1e38, float("nan"), float("inf"))),
    struct.pack("<I?", 7, True),
    struct.pack("<Iq", 11, -1),
    struct.pack("<IQ", 8, 2**63),
    struct.pack("<IQ", 8, len(EVIL.encode())) + EVIL.encode(),
    struct.pack("<IQ", 8, 2) + b"\xff\xfe",
    struct.pack("<IIQ", 9, 8, 2**60),
    struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 1000,
    struct.pack("<IIQ", 9, 8, 0),
    struct.pack("<IIQ", 9, 8, 2**18) + bytes(8 * 2**18),
    struct.pack("<IIQ", 9, 0, 2**20) + bytes(2**20),
]


def malicious_gguf(files: Files, rng: random.Random) -> Files:
    """With other values, sizes, forms, places or names in its entries and tensors."""
    name = next(iter(files))
    entries, tensors, numbers = gguf_parts(files[name])
    n_entries, n_tensors = len(entries), len(tensors)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place, other = rng.randrange(len(entries)), rng.randrange(len(tensors))
        kind = rng.randrange(8)
        if kind < 3:
            entries[place] = entries[place][0], rng.choice(GGUF_VALUES)
        elif kind == 3:
            strange = rng.choice([EVIL, "x" * 10**5, "", entries[0][0]])
            entries[place] = strange, entries[place][1]
        elif kind == 4:
            tensors[other][rng.randrange(1, 4)] = rng.choice([*GGUF_NUMBERS, 2**63, 2**64 - 1])
        elif kind == 5:
            tensors[other][0] = rng.choice([EVIL, "x" * 10**5, "", tensors[0][0]])
        elif kind == 6:
            n_entries, n_tensors = rng.choice([(2**64 - 1, n_tensors), (n_entries, 2**63), (1, 1)])
        else:
            numbers = rng.choice([numbers[:-1], b"\xff" * len(numbers), numbers[::-1]])
    content = b"GGUF" + struct.pack("<IQQ", rng.choice([2, 3, 3, 3]), n_tensors, n_entries)
    for key, value in entries:
        content += struct.pack("<Q", len(key.encode())) + key.encode() + value
    for title, columns, form, offset, rows in tensors:
        shape = [columns, rows] if rows else [columns]
        content += struct.pack("<Q", len(title.encode())) + title.encode()
        content += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, form % 2**32, offset)
    return {**files, name: content + bytes(-len(content) % 32) + numbers}


def gguf_parts(content: bytes) -> tuple[list[tuple[str, bytes]], list[list[Any]], bytes]:
    """(entries as key and bytes, tensors as name, columns, form, offset and rows, all numbers)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        path.write_bytes(content)
        file = gguf.read(path)
    entries = []
    for key, (kind, length, data) in file.entries.items():
        begin = struct.pack("<I", kind) if length is None else struct.pack("<IIQ", 9, kind, length)
        if kind == gguf.STRING and length is None:
            begin += struct.pack("<Q", len(data))
        entries.append((key, begin + bytes(data)))
    tensors, numbers = [], b""
    for name, (sizes, form, data) in file.tensors.items():
        rows = sizes[0] if len(sizes) == 2 else 0
        tensors.append([name, sizes[-1], FORMS[form].number, len(numbers), rows])
        numbers += bytes(data) + bytes(-len(data) % 32)
    return entries, tensors, numbers


WORDS = [
    "--steps=1e9", "--steps", "--lr", "-1", "--lr=1e308", "nan", "--prompt", EVIL, f"--{EVIL}",
    "'", '"', "\\", "#", "--recipe=a", "--debug", "--", "--help", "--model", "--d-model=0",
    "--temperature=inf", "x" * 10**4, "\0", "\n", "--tokenizer=bpe", "--vocab-size=3", "--data=",
    f"--data={EVIL}", "--resume=x", "--n-layers=1000000000000", f"-n {EVIL}", "--lines",
]  # fmt: skip


def malicious_recipe(files: Files, rng: random.Random) -> Files:
    """With words that no recipe has."""
    name = next(iter(files))
    words = files[name].decode().split(" ")
    for _ in range(rng.choice([1, 1, 2, 5, 300])):
        words.insert(rng.randrange(len(words) + 1), rng.choice(WORDS))
    return {name: " ".join(words).encode()}


# Not too many: a text costs what its length and its alphabet ask for, 5 s at 25 KB.
PARTS = [
    EVIL, "\0", "\n" * 500, "\r\n", "\ufeff", "\u2028", "x" * 500, " " * 500, "<|endoftext|>",
    "".join(map(chr, range(0x100, 0x180))), "a\u0301" * 100, "\U0010ffff", "ש", "\x85", "%s{}",
]  # fmt: skip
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-7", "cp1252"]


def malicious_text(files: Files, rng: random.Random) -> Files:
    """With characters that are hard on whoever shows them, in one of many encodings."""
    name = next(iter(files))
    text = files[name].decode()
    for _ in range(rng.choice([1, 1, 3, 10])):
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(PARTS) * rng.choice([1, 1, 4]) + text[place:]
    encoding = rng.choice(["utf-8"] * 5 + ENCODINGS)
    return {**files, name: text.encode(encoding, "ignore")}


# ------------------------------------------------------------------------------ well-formed files


def same_checkpoint(old: bytes, new: bytes) -> bool:
    """Whether two files hold the same, to the last bit."""
    with tempfile.TemporaryDirectory() as folder:
        path, contents = Path(folder) / "m", []
        for content in old, new:
            path.write_bytes(content)
            tensors, metadata = checkpoint.load(path)
            contents.append(({name: list(tensor) for name, tensor in tensors.items()}, metadata))
        return contents[0] == contents[1]


def foreign_models() -> Iterator[tuple[PortableModel, str]]:
    """Each architecture, with each kind of tokenizer, and a form for its numbers."""
    characters, bpe = CharTokenizer.from_text(TEXT), BPETokenizer.train(TEXT, 265)
    for tokenizer, dtype in ((characters, "f32"), (bpe, "f16")):
        sizes = {"vocab_size": tokenizer.vocab_size, "context_length": 4, "n_layers": 2}
        models = {
            "modern": ModernLanguageModel(ModernConfig(**sizes, d_model=32, tie_embeddings=False)),
            "llama": LlamaLanguageModel(LlamaConfig(**sizes, d_model=32, d_hidden=32)),
        }
        for kind, model in models.items():
            tensors = {
                name: PortableTensor(shape(tensor), partial(iter, rows_of(tensor)))
                for name, tensor in model.parameters.items()
            }
            yield PortableModel(kind, vars(model.config), tensors, tokenizer), dtype


def gguf_examples(folder: Path) -> list[Files]:
    """These models as GGUF files, half of them with numbers in blocks."""
    examples: list[Files] = []
    for model, dtype in foreign_models():
        gguf_models.write(folder / "m.gguf", model, "q8_0" if dtype == "f32" else dtype)
        examples.append({"m.gguf": (folder / "m.gguf").read_bytes()})
    return examples


def folder_examples(folder: Path) -> list[Files]:
    """These models as Hugging Face folders: each of their files may be the damaged one."""
    examples: list[Files] = []
    for number, (model, dtype) in enumerate(foreign_models()):
        made = folder / f"h{number}"
        hugging_face.write(made, model, dtype)
        files = {f"h/{path.name}": path.read_bytes() for path in sorted(made.iterdir())}
        examples += [{first: files[first], **files} for first in files]
    return examples


def malicious_folder(files: Files, rng: random.Random) -> Files:
    """One of its files twisted: JSON, or the table of tensors."""
    name = rng.choice(list(files))
    if name.endswith(".json"):
        return {**files, name: malicious_json(files[name], rng)}
    length = int.from_bytes(files[name][:8], "little")
    header = malicious_json(files[name][8 : 8 + length], rng)
    return {**files, name: len(header).to_bytes(8, "little") + header + files[name][8 + length :]}


def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds, with examples that the commands themselves make in this folder."""
    text = folder / "t.txt"
    text.write_text(TEXT, encoding="utf-8")

    def made(*words: str) -> None:
        out, err = io.StringIO(), io.StringIO()
        with printing_to(out, err):
            code = main([*words, "--quiet"])
        if code:
            raise RuntimeError(f"cannot make an example: {words}: {err.getvalue()}")

    def content(*names: str) -> Files:
        return {name: (folder / name).read_bytes() for name in names}

    runs: list[Files] = []
    packed: list[Files] = []
    for model, more in (
        ("mlp", []),
        ("attention", ["--lines"]),
        ("modern", []),
        ("modern", ["--tokenizer", "bpe", "--vocab-size", "260", "--no-tie-embeddings"]),
    ):
        out = folder / "m"
        words = ["--data", str(text), "--model", model, *TINY[model], *more]
        made("train", *words, "--out", str(out), "--steps", "4", "--eval-every", "2", "-n", "0")
        runs.append(content("m"))
        made("quantize", str(out), "-o", str(folder / "m8"))
        packed.append({"m": content("m8")["m8"]})
    tokenizer, pair, tokens = folder / "b.json", folder / "pair", folder / "t.bin"
    for out in (tokenizer, pair):
        made("tokenizer", "train", "--data", str(text), "--vocab-size", "265", "-o", str(out))
    made("prepare", str(text), "-o", str(tokens))
    metrics = content("m.metrics.jsonl")["m.metrics.jsonl"]
    tiny = " ".join(TINY["mlp"])
    train = f"train {tiny} --steps 1 -n 2 -o {{}}/out/n"
    foreign = [
        "generate -c MODEL -n 3",
        "generate -c MODEL -n 3 --int8",
        "chat -c MODEL",
        "eval -c MODEL --data {}/t.txt",
        "attention -c MODEL",
        "report MODEL -n 2 -o {}/out/r.html",
        "tokenizer show cat --tokenizer MODEL",
        "import MODEL -o {}/out/n",
        "export -c MODEL --to gguf -o {}/out/x.gguf",
        "export -c MODEL --to hf -o {}/out/x",
    ]
    recipe = f"{tiny} --lr 0.1 --seed 3  # as usual\n--prompt 'the cat'".encode()
    documents = {"d/a.txt": TEXT.encode(), "d/b.txt": b"another one"}
    return {
        "checkpoint": Kind(
            runs,
            malicious_checkpoint,
            ["generate -c {}/m -n 3", "generate -c {}/m -n 3 --num-samples 2 --temperature 2",
             "eval -c {}/m --data {}/t.txt", "eval -c {}/m --data {}/corpus.txt",
             "attention -c {}/m", "attention -c {}/m --full -p the", "trace -c {}/m",
             "trace -c {}/m --full --forward-only", "report {}/m -n 3 -o {}/out/r.html",
             "report {}/m -n 3 -o {}/out/r.html --data {}/t.txt",
             "train --resume {}/m --data {}/t.txt -o {}/out/n -n 3",
             "train --resume {}/m --data {}/t.txt -o {}/out/n -n 3 --steps 6 --stop-after 5"],
            same_checkpoint,
        ),
        "int8": Kind(
            packed,
            malicious_checkpoint,
            ["generate -c {}/m -n 3", "eval -c {}/m --data {}/t.txt", "attention -c {}/m",
             "trace -c {}/m --full --forward-only", "report {}/m -n 3 -o {}/out/r.html",
             "train --resume {}/m --data {}/t.txt -o {}/out/n -n 3",
             "quantize {}/m -o {}/out/q"],
            same_checkpoint,
        ),
        "metrics": Kind(
            [{"m.metrics.jsonl": metrics, **run} for run in (runs[0], runs[2])],
            malicious_metrics,
            ["plot {}/m.metrics.jsonl", "plot {}/m.metrics.jsonl --log --svg {}/out/p.svg",
             "plot {}/m.metrics.jsonl --val", "report {}/m -n 2 -o {}/out/r.html",
             "report {}/m -n 2 -o {}/out/r.html --metrics {}/m.metrics.jsonl",
             "train --resume {}/m --data {}/t.txt -o {}/out/n -n 0 --steps 5"],
        ),
        "tokenizer": Kind(
            [content("b.json"), content("pair/vocab.json", "pair/merges.txt")],
            malicious_tokenizer,
            ["tokenizer show thecatis --tokenizer {}/FILE",
             train + " --data {}/t.txt --tokenizer-file {}/FILE",
             "prepare {}/t.txt -o {}/out/p.bin --tokenizer-file {}/FILE"],
        ),
        "tokens": Kind(
            [content("t.bin", "t.bin.json"), content("t.bin.json", "t.bin")],
            lambda files, rng: malicious_tokens(dict(sorted(files.items())), rng),
            [train + " --data {}/t.bin", "train --data {}/t.bin --model modern --steps 1 -n 2 "
             + " ".join(TINY["modern"]) + " -o {}/out/n", "trace --data {}/t.bin",
             "eval -c {}/run --data {}/t.bin", "prepare {}/t.txt -o {}/out/p.bin"],
        ),
        "recipe": Kind(
            [{"r.txt": recipe}],
            malicious_recipe,
            ["train --recipe {}/r.txt --data {}/t.txt --steps 1 -n 2 -o {}/out/n"],
        ),
        "text": Kind(
            [{"x.txt": TEXT.encode()}, documents],
            malicious_text,
            [train + " --data {}/FIRST", train + " --data {}/FIRST --lines",
             train + " --data {}/FIRST --tokenizer bpe --vocab-size 260",
             "train --data {}/FIRST --encoding latin-1 --steps 1 -n 2 -o {}/out/n " + tiny,
             "eval -c {}/run --data {}/FIRST", "trace --data {}/FIRST",
             "tokenizer train --data {}/FIRST -o {}/out/b.json --vocab-size 260",
             "prepare {}/FIRST -o {}/out/p.bin", "prepare {}/d -o {}/out/p.bin",
             "prepare {}/d {}/FIRST -o {}/out/p.bin --tokenizer bpe --vocab-size 260 --workers 1"],
        ),
        "gguf": Kind(
            gguf_examples(folder),
            malicious_gguf,
            [words.replace("MODEL", "{}/m.gguf") for words in foreign],
        ),
        "hf": Kind(
            folder_examples(folder),
            malicious_folder,
            [words.replace("MODEL", "{}/h") for words in foreign],
        ),
    }  # fmt: skip


# ------------------------------------------------------------------------------ one case


class Campaign:
    """All cases of all kinds, each repeatable by its number, in a folder that may be written to."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.here, self.seed = folder / "case", seed
        making = folder / "making"
        making.mkdir()
        self.kinds = kinds(making)
        corpus = Path(__file__).resolve().parent.parent / "corpus.txt"
        self.always = {
            "run": (making / "m").read_bytes(),
            "t.txt": TEXT.encode(),
            "corpus.txt": corpus.read_bytes(),
            "d/b.txt": b"another document",
        }

    def case(self, name: str, number: int) -> Outcome:
        """Damage a file of this kind and read it."""
        rng, kind = random.Random(f"{self.seed}/{name}/{number}"), self.kinds[name]
        whole = rng.choice(kind.examples)
        first = next(iter(whole))
        by_malice = rng.random() < 0.5
        if by_malice:
            files = kind.by_malice(whole, rng)
        else:
            files = {**whole, first: by_accident(whole[first], rng)}
        shutil.rmtree(self.here, ignore_errors=True)
        for path, content in {**self.always, **files}.items():
            (self.here / path).parent.mkdir(parents=True, exist_ok=True)
            (self.here / path).write_bytes(content)
        command = rng.choice(kind.commands).replace("FILE", first.split("/")[0])
        words = command.replace("FIRST", first).replace("{}", str(self.here)).split()
        outcome = watched(words, sum(map(len, files.values())))
        problem = outcome.problem
        for path, content in files.items():
            if not problem and (self.here / path).read_bytes() != content:
                problem = f"{path} was changed"
        is_accident = outcome.code == 0 and not problem and not by_malice
        if is_accident and not kind.is_same(whole[first], files[first]):
            problem = "damage went unnoticed"
        return outcome._replace(problem=problem and f"{' '.join(words)}: {problem}")


class Terminal(io.StringIO):
    """A terminal without colour, 80 columns wide, that understands UTF-8."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Hanging(BaseException):
    """A command that takes too long. No `except Exception` stops it."""


def watched(words: list[str], size: int) -> Outcome:
    """Run a command on files of this size in all, and see whether it keeps what is promised."""
    out, err = Terminal(), Terminal()
    code, problem, began = None, "", time.process_time()
    try:
        with time_limit(), memory_limit(size + MORE), printing_to(out, err):
            code = main(words)
    except Hanging:
        problem = f"takes longer than {SECONDS} s"
    except BaseException as error:
        problem = f"{type(error).__name__} goes through main: {error}"[:300]
    seconds = time.process_time() - began
    printed = out.getvalue() + err.getvalue()
    return Outcome(code, printed, problem or complaint(code, printed, err.getvalue()), seconds)


@contextlib.contextmanager
def printing_to(out: io.StringIO, err: io.StringIO) -> Iterator[None]:
    """Standard output and standard error go there."""
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield


def complaint(code: Optional[int], printed: str, err: str) -> str:
    """What is wrong with what a command printed; "": nothing."""
    found = COMMANDS.search(printed)
    if found:
        return f"prints {found[0]!r} in {printed[max(0, found.start() - 40) : found.end() + 20]!r}"
    for phrase in ("Traceback", "fault of tiny-lm", "not enough memory"):
        if phrase in printed and "--debug" not in printed:
            return err[-300:]
    errors = [line for line in err.split("\n") if line.startswith("tiny-lm: error: ")]
    if code not in (0, 1, 2) or len(errors) != (code != 0):
        return f"exit code {code} and {len(errors)} errors: {err[-300:]}"
    if code and not err.rstrip("\n").endswith(errors[0]):
        return f"prints behind its error: {err[-300:]}"
    if any(len(line) > 2000 for line in err.split("\n")):
        return f"a line of {max(map(len, err.split(chr(10))))} characters"
    return ""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raises Hanging in whatever takes too much of the processor, or waits for too long."""

    def stop(*_: object) -> None:
        raise Hanging

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
              (signal.SIGALRM, signal.ITIMER_REAL, WAITING))  # fmt: skip
    for number, timer, seconds in timers:
        signal.signal(number, stop)
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for _, timer, _ in timers:
            signal.setitimer(timer, 0)


@contextlib.contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Only so many more bytes of memory than now. Where nobody knows how many these are: any."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if sys.implementation.name == "cpython":  # another's collector dies where it gets no memory
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ------------------------------------------------------------------------------ all of them


def run_all(campaign: Campaign, name: str, numbers: range) -> tuple[Counter[str], list[str], float]:
    """(how many were accepted, refused, wrong), the problems, the longest time."""
    counts: Counter[str] = Counter()
    problems, longest = [], 0.0
    for number in numbers:
        outcome = campaign.case(name, number)
        longest = max(longest, outcome.seconds)
        counts["wrong" if outcome.problem else "refused" if outcome.code else "accepted"] += 1
        if outcome.problem:
            problems.append(f"{name}/{number}: {outcome.problem}")
    return counts, problems, longest


def in_process(campaign: Campaign, name: str, numbers: range) -> Any:
    """`run_all` in a process of its own, whose death is a problem, too."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(run_all(campaign, name, numbers), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status or not text:
        return {"wrong": 1}, [f"{name}/{numbers[0]}-{numbers[-1]}: died with {status}"], 0.0
    return json.loads(text)


def environment() -> None:
    """A terminal that knows neither colours nor live lines: then nothing it obeys is printed."""
    os.environ.update(TERM="dumb", NO_COLOR="1", COLUMNS="80", LINES="24")
    os.environ.pop("TINY_LM_MATMUL", None)


def parsed_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind (%(default)s)")
    parser.add_argument("--kinds", help="comma-separated (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND/NUMBER", help="one case, shown in full")
    return parser.parse_args()


def run() -> int:
    """Print a row for each kind, and every problem. Exit code 1 if there is one."""
    args = parsed_arguments()
    environment()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), args.seed)
        if args.only:
            name, _, number = args.only.partition("/")
            outcome = campaign.case(name, int(number))
            print(outcome.printed, outcome._replace(printed=""), sep="\n")
            return 1 if outcome.problem else 0
        print(f"{'':<12}{'cases':>8}{'accepted':>10}{'refused':>9}{'wrong':>7}{'longest':>10}")
        wrong = 0
        for name in (args.kinds or ",".join(campaign.kinds)).split(","):
            total: Counter[str] = Counter()
            longest = 0.0
            for first in range(0, args.cases, CHUNK):
                numbers = range(first, min(first + CHUNK, args.cases))
                counts, problems, seconds = in_process(campaign, name, numbers)
                total.update(counts)
                longest = max(longest, seconds)
                for problem in problems:
                    print(f"  {problem!r}", flush=True)
            row = f"{total['accepted']:>10,}{total['refused']:>9,}{total['wrong']:>7,}"
            print(f"{name:<12}{args.cases:>8,}{row}{longest:>8.2f} s", flush=True)
            wrong += total["wrong"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(run())
