"""A model in a GGUF file, and back.

    file --map--> container --names, sizes, tokenizer: all checked--> PortableModel
                     numbers <-- decoded, row by row, when they are asked for --+

What a model of llama.cpp may have and the models of this project have not, such as experts or
stretched rotary positions, is refused by name: without it the model would run, and be another one.
gguf.py tells the container, gguf_numbers.py the numbers, gguf_names.py and gguf_tensors.py the
tensors, gguf_tokenizers.py the tokens. (Gerganov's llama.cpp, 2023, decides what all of it means.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from tiny_llm.files import gguf, gguf_writer
from tiny_llm.files.gguf import Gguf
from tiny_llm.files.gguf_names import (
    ARCHITECTURES,
    AS_COLUMNS,
    HEAD,
    HEADS,
    POSITIONS,
    Part,
    parts_of,
    places,
    sizes_of,
)
from tiny_llm.files.gguf_numbers import ENCODERS, FORMS, singles
from tiny_llm.files.gguf_tensors import GgufTensor, columns
from tiny_llm.files.gguf_tokenizers import entries_of, read_tokenizer
from tiny_llm.files.gguf_writer import Outgoing, Writable
from tiny_llm.files.portable import ForeignError, PortableModel, PortableTensor
from tiny_llm.text.shown import shown

KIND_OF = {architecture.name: kind for kind, architecture in ARCHITECTURES.items()}
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}  # what most of a file's matrices are, by number
QUANTIZATION_VERSION = 2  # of ggml's blocks
GPT2_EPSILON = 1e-5  # of LayerNorm; rung 3 has no other
HIGHEST = 2**31  # of a size


# ---------------------------------------------------------------- reading


def read(path: Path) -> PortableModel:
    """The model in a file, whose numbers are decoded when they are asked for.

    Raises ForeignError with what is wrong, or what is not known here, and OSError if it cannot be
    read.
    """
    try:
        file = gguf.read(path)
        name = file.text("general.architecture")
        if name not in KIND_OF:
            raise ForeignError(
                f"its architecture is {shown(repr(name))}; "
                f"known here are {' and '.join(map(repr, KIND_OF))}"
            )
        kind = KIND_OF[name]
        tokenizer, chat = read_tokenizer(file)
        config = _config(file, name, tokenizer.vocab_size)
        return PortableModel(kind, config, _tensors(file, kind, config), tokenizer, chat)
    except ForeignError as error:
        raise ForeignError(f"{path} is damaged or no GGUF model for tiny-lm: {error}") from None


def _config(file: Gguf, name: str, vocab_size: int) -> dict[str, Any]:
    """The fields of the model's config. Raises ForeignError for sizes that do not fit together, and
    for every entry about the architecture that is not known here."""
    d, heads = _size(file, f"{name}.embedding_length"), _size(file, f"{name}.attention.head_count")
    config: dict[str, Any] = {
        "vocab_size": vocab_size,
        "context_length": _size(file, f"{name}.context_length"),
        "d_model": d,
        "n_heads": heads,
        "n_layers": _size(file, f"{name}.block_count"),
        "tie_embeddings": HEAD.theirs not in file.tensors,
    }
    if d % (2 * heads if name == "llama" else heads):
        raise ForeignError(f"its {heads} heads cannot share a width of {d}")
    width = d // heads
    # What may be said, but only if it says this:
    expected: dict[str, Any] = {
        "vocab_size": vocab_size,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.causal": True,
        "rope.dimension_count": width,
        "rope.scaling.type": "none",
        "expert_count": 0,
        "expert_used_count": 0,
    }
    if name == "llama":
        config.update(_more_of_llama(file, heads))
        _check_rest(file, name, {*READ, *READ_OF_LLAMA}, expected)
    else:
        _check_gpt2(file, d, heads)
        _check_rest(file, name, {*READ, *READ_OF_GPT2}, expected)
    return config


READ = {
    "context_length", "embedding_length", "attention.head_count", "block_count",
    "feed_forward_length", "attention.head_count_kv",
}  # fmt: skip
READ_OF_GPT2 = {"attention.layer_norm_epsilon"}
READ_OF_LLAMA = {"rope.freq_base", "attention.layer_norm_rms_epsilon"}


def _more_of_llama(file: Gguf, heads: int) -> dict[str, Any]:
    kv_heads = _size(file, "llama.attention.head_count_kv", heads)
    if heads % kv_heads:
        raise ForeignError(f"its {heads} heads cannot share {kv_heads} of keys and values evenly")
    more: dict[str, Any] = {
        "n_kv_heads": kv_heads,
        "d_hidden": _size(file, "llama.feed_forward_length"),
        "rope_theta": _shortest(file.number("llama.rope.freq_base", 10000.0)),
        "norm_epsilon": _shortest(file.number("llama.attention.layer_norm_rms_epsilon")),
    }
    for field in ("rope_theta", "norm_epsilon"):
        if not 0 < more[field] < math.inf:
            raise ForeignError(f"its {field} is {more[field]}, which is not above 0")
    return more


def _check_gpt2(file: Gguf, d: int, heads: int) -> None:
    epsilon = _shortest(file.number("gpt2.attention.layer_norm_epsilon"))
    if epsilon != GPT2_EPSILON:
        raise ForeignError(f"its LayerNorm has the epsilon {epsilon}; known is {GPT2_EPSILON}")
    hidden = _size(file, "gpt2.feed_forward_length")
    if hidden != 4 * d:
        raise ForeignError(f"its feed_forward_length is {hidden} and not four times its width {d}")
    if _size(file, "gpt2.attention.head_count_kv", heads) != heads:
        raise ForeignError("its heads share keys and values, which GPT-2's do not")


def _check_rest(file: Gguf, name: str, read: set[str], expected: dict[str, Any]) -> None:
    """Raises ForeignError for an entry that would make the model another one."""
    for key in file.entries:
        field = key[len(name) + 1 :]
        if not key.startswith(name + ".") or field in read:
            continue
        value = file.single(key)
        if field not in expected or value != expected[field]:
            value = shown(repr(value))
            raise ForeignError(f"its {shown(repr(key))} is {value}, which is not known here")


def _size(file: Gguf, key: str, default: Optional[int] = None) -> int:
    size = file.whole(key, default)
    if not 1 <= size < HIGHEST:
        raise ForeignError(f"its {key} is {size}")
    return size


def _shortest(value: float) -> float:
    """The number with the fewest digits that is this one as float32: 1e-05, not 9.99999975e-06."""
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if singles([short]) == [value]:
            return short
    return value


def _tensors(file: Gguf, kind: str, config: dict[str, Any]) -> dict[str, PortableTensor]:
    """All that the model has. Raises ForeignError if one is missing, of another shape, or extra."""
    if config["n_layers"] > len(file.tensors):
        raise ForeignError(f"it claims {config['n_layers']} blocks in {len(file.tensors)} tensors")
    tensors: dict[str, PortableTensor] = {}
    rest = set(file.tensors)
    for part, shape in parts_of(kind, config):
        if part.theirs not in rest:
            raise ForeignError(f"it has no tensor {part.theirs}")
        tensor = GgufTensor(part, file.tensors[part.theirs], config.get(part.lie, 1))
        if tensor.shape != shape:
            said = f"its tensor {part.theirs} has the shape {[*tensor.shape]}"
            raise ForeignError(f"{said}, and its sizes ask for {[*shape]}")
        tensors[part.ours] = tensor
        rest.remove(part.theirs)
    if rest:
        raise ForeignError(f"its tensor {shown(repr(min(rest)))} is not known here")
    return tensors


# ---------------------------------------------------------------- writing


def write(path: Path, model: PortableModel, dtype: str) -> None:
    """Write the model so that llama.cpp reads it. `dtype` of the matrices: "f32", "f16" or "q8_0".

    Vectors and the table of positions stay F32; a matrix whose rows in the file are no whole blocks
    of Q8_0 is F16. Raises ForeignError for a model or a number that GGUF cannot hold, and OSError
    when the file cannot be written; what stood at `path` before is then untouched.
    """
    if model.kind not in ARCHITECTURES:
        kinds = " and ".join(map(repr, ARCHITECTURES))
        raise ForeignError(f"GGUF has no architecture for a {model.kind!r} model, only for {kinds}")
    if dtype not in FILE_TYPES:
        raise ForeignError(f"{dtype!r} is no type to write; there are {', '.join(FILE_TYPES)}")
    outgoing = []
    for part, shape in parts_of(model.kind, model.config):
        tensor = model.tensors.get(part.ours)
        if tensor is None or tensor.shape != shape:
            raise ForeignError(f"the model has no {part.ours} of the shape {[*shape]}")
        outgoing.append(_outgoing(part, tensor, dtype, model.config.get(part.lie, 1)))
    if len(outgoing) != len(model.tensors):
        names = ", ".join({*model.tensors} - {part.ours for part, _ in parts_of(*model[:2])})
        raise ForeignError(f"the model has tensors that GGUF has no name for: {shown(names)}")
    entries = {
        **_entries(shown(Path(path).stem), model, dtype),
        **entries_of(model.tokenizer, model.chat),
    }
    gguf_writer.write(path, entries, outgoing)


def _entries(title: str, model: PortableModel, dtype: str) -> dict[str, Writable]:
    config, name = model.config, ARCHITECTURES[model.kind].name
    sizes = sizes_of(config)
    entries: dict[str, Writable] = {
        "general.architecture": name,
        "general.name": title,
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": QUANTIZATION_VERSION,
        f"{name}.context_length": sizes["c"],
        f"{name}.embedding_length": sizes["d"],
        f"{name}.feed_forward_length": sizes["f"],
        f"{name}.block_count": config["n_layers"],
        f"{name}.attention.head_count": config["n_heads"],
    }
    if name == "llama":
        entries.update({
            "llama.vocab_size": sizes["v"],
            "llama.attention.head_count_kv": config["n_kv_heads"],
            "llama.attention.layer_norm_rms_epsilon": float(config["norm_epsilon"]),
            "llama.rope.freq_base": float(config["rope_theta"]),
            "llama.rope.dimension_count": sizes["d"] // config["n_heads"],
        })  # fmt: skip
    else:
        entries["gpt2.attention.layer_norm_epsilon"] = GPT2_EPSILON
    return entries


def _outgoing(part: Part, tensor: PortableTensor, dtype: str, heads: int) -> Outgoing:
    shape = tensor.shape[::-1] if part.lie == AS_COLUMNS else tensor.shape
    form = dtype.upper()
    if len(shape) == 1 or part.ours == POSITIONS:
        form = "F32"
    elif shape[-1] % FORMS[form].length:
        form = "F16"

    def rows() -> Iterator[bytes]:
        plain = map(singles, tensor.read())
        for row in columns(plain) if part.lie == AS_COLUMNS else plain:
            if not math.isfinite(sum(row)):
                raise ForeignError(f"{part.ours} holds a number that is not finite as float32")
            try:
                yield ENCODERS[form](row)
            except OverflowError:
                raise ForeignError(f"{part.ours} holds a number too large for {form}") from None

    def parts() -> Iterator[bytes]:
        if part.lie not in HEADS:
            yield from rows()
            return
        here = list(rows())
        paired = dict(zip(places(len(here), heads), here))
        yield from (paired[place] for place in range(len(here)))

    return Outgoing(part.theirs, shape, form, parts)
