"""A Hugging Face folder to a model, and a model to a folder that `transformers` loads.

    config.json               sizes, and what the model computes: hugging_face_config.py
    model.safetensors         the numbers, or an index and several files of them: safetensors.py
    tokenizer.json            or vocab.json and merges.txt: bpe_files.py, char_files.py
    tokenizer_config.json     among others the template of a chat, or chat_template.jinja
    generation_config.json    which tokens end an answer

This is how most open models are handed out (https://github.com/huggingface/transformers, 2018).
Two architectures are known here, GPT-2's and Llama's, and of these only what this project computes
as its makers do: all else is refused by name. Nothing in such a folder is ever executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Optional, Union

from tiny_llm.files import bpe_files, char_files, safetensors
from tiny_llm.files import hugging_face_config as configs
from tiny_llm.files.atomic import replacing
from tiny_llm.files.foreign import MOST_DIGITS, content_of, parsed_object, text_of
from tiny_llm.files.portable import Chat, ForeignError, PortableModel, PortableTensor
from tiny_llm.files.safetensors import Stored
from tiny_llm.text.bpe import END_OF_TEXT, BPETokenizer
from tiny_llm.text.shown import LONGEST_MESSAGE, shown
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.tokenizer import CharTokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG, GENERATION = "tokenizer_config.json", "generation_config.json"
TEMPLATE = "chat_template.jinja"
FILES = [CONFIG, WEIGHTS, bpe_files.WHOLE, TOKENIZER_CONFIG, GENERATION]  # that are written
READ_FIRST = [  # what other programs would read beside or before the files that are written
    INDEX, TEMPLATE, bpe_files.VOCAB, bpe_files.MERGES, "special_tokens_map.json",
    "added_tokens.json",
]  # fmt: skip
DTYPES = {"f64": ("F64", "float64"), "f32": ("F32", "float32"), "f16": ("F16", "float16")}
HEAD = "lm_head.weight"
DIGITS_OF_NO_LIMIT = 31  # 10^30 says in most folders that a text may have any length
CHUNK = 2**20  # bytes that are compared at a time
SHARD = re.compile(r"[A-Za-z0-9_.-]{1,200}\.safetensors")  # a file's name that is no path
# What older files carry though it is no parameter: masks, and the speeds of rotary positions.
BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def is_folder(path: Path) -> bool:
    """Whether there is a model of this kind, or what looks like one."""
    return (Path(path) / CONFIG).is_file()


# ---------------------------------------------------------------- reading


def read(folder: Path) -> PortableModel:
    """The model in a folder. Its files are mapped, and numbers decoded when a tensor is read.

    Raises ForeignError for what is damaged, missing, or would compute something else here.
    """
    folder = Path(folder)
    config = _json(folder / CONFIG)
    with _about(folder / CONFIG):
        family, fields = configs.family_of(config), configs.read(config)
    tokenizer = _read_tokenizer(folder)
    if tokenizer.vocab_size != fields["vocab_size"]:
        raise ForeignError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens, and its model "
            f"{fields['vocab_size']}"
        )
    tensors = _tensors(_stored(folder, family.prefix), family.kind, fields, folder)
    return PortableModel(
        family.kind, fields, tensors, tokenizer, _read_chat(folder, config, tokenizer)
    )


def _tensors(
    stored: Mapping[str, Stored], kind: str, fields: dict[str, Any], folder: Path
) -> dict[str, PortableTensor]:
    """The parameters, by our names. Raises ForeignError unless they are all there, and no more."""
    tensors: dict[str, PortableTensor] = {}
    with _about(folder):
        for name, shape in configs.shapes(kind, fields):
            if name not in stored:
                raise ForeignError(f"it has no tensor {name}")
            tensor = stored[name]
            if tensor.shape != shape:
                raise ForeignError(f"{name} has the shape {[*tensor.shape]}, and not {[*shape]}")
            if tensor.dtype not in safetensors.FLOATS:
                raise ForeignError(f"{name} has numbers of the kind {tensor.dtype}, and no floats")
            tensors[name] = PortableTensor(shape, partial(safetensors.rows, name, tensor))
        for name in sorted(stored.keys() - tensors.keys()):
            if name == HEAD:
                _check_tied(stored[name], stored[next(iter(tensors))])
            elif not BUFFERS.fullmatch(name):
                raise ForeignError(f"it has a tensor {shown(name)}, which is not known here")
    return tensors


def _check_tied(head: Stored, table: Stored) -> None:
    """Raises ForeignError unless an LM head is the table that it is said to be tied to."""
    (numbers,), (others,) = head.parts, table.parts
    chunks = (slice(start, start + CHUNK) for start in range(0, len(numbers), CHUNK))
    if head[:2] != table[:2] or any(bytes(numbers[c]) != bytes(others[c]) for c in chunks):
        raise ForeignError(f"{HEAD} is another than the table that it is tied to")


def _stored(folder: Path, prefix: str) -> dict[str, Stored]:
    """What all files of tensors hold, by names without the prefix."""
    stored: dict[str, Stored] = {}
    for path in _shards(folder):
        with _about(path):
            for name, tensor in safetensors.parse(safetensors.mapped(path))[1].items():
                name = name[len(prefix) :] if name.startswith(prefix) else name
                if name in stored:
                    raise ForeignError(f"the tensor {shown(name)} is there twice")
                stored[name] = tensor
    return stored


def _shards(folder: Path) -> list[Path]:
    """The file of all tensors, or the files that the index names, which lie in the folder."""
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.exists():
        return [folder / WEIGHTS]
    names = _json(index).get("weight_map")
    with _about(index):
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise ForeignError("its weight_map does not say which file has which tensor")
        files = sorted(set(names.values()))
        for name in files:
            if not SHARD.fullmatch(name):
                raise ForeignError(f"{shown(repr(name))} is no name of a file beside it")
    return [folder / name for name in files]


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / bpe_files.WHOLE
    if not path.exists():  # then the files of GPT-2; an error names them
        try:
            return bpe_files.load(folder)
        except (ValueError, OSError) as error:
            raise ForeignError(shown(error, LONGEST_MESSAGE)) from None
    whole = _json(path)
    with _about(path):
        known = char_files if char_files.is_char(whole) else bpe_files
        tokenizer: Tokenizer = known.from_settings(whole)
    return tokenizer


def _read_chat(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> Chat:
    """The template, and the ends as the first of three files names them."""
    settings = _json_if_there(folder / TOKENIZER_CONFIG)
    generation = _json_if_there(folder / GENERATION)
    with _about(folder / TOKENIZER_CONFIG):
        template = _template(settings.get("chat_template"))
        by_name = _id_of(settings.get("eos_token"), tokenizer)
    if (folder / TEMPLATE).exists():
        template = _text(folder / TEMPLATE)
    said: tuple[Any, ...] = (
        generation.get("eos_token_id"),
        config.get("eos_token_id"),
        by_name,
        [],
    )
    ends = next(end for end in said if end is not None)
    ends = ends if isinstance(ends, list) else [ends]
    if not all(type(end) is int for end in ends):
        raise ForeignError(f"{folder}: its eos_token_id is {shown(ends)}, which is no token")
    # An id beyond the vocabulary, as small examples have it, ends nothing.
    return Chat(template, tuple(end for end in ends if 0 <= end < tokenizer.vocab_size))


def _template(value: Any) -> str:
    """Older files may have several templates; the one with this name is for talking."""
    if isinstance(value, list):
        named = [e for e in value if isinstance(e, dict) and e.get("name") == "default"]
        value = named[0].get("template") if named else None
    if not isinstance(value, (str, type(None))):
        raise ForeignError("its chat_template is no text")
    return value or ""


def _id_of(token: Any, tokenizer: Tokenizer) -> Optional[int]:
    """Of a special token that stands for itself or is described."""
    name = token.get("content") if isinstance(token, dict) else token
    return _special(tokenizer).get(name) if isinstance(name, str) else None


def _special(tokenizer: Tokenizer) -> dict[str, int]:
    return tokenizer.special_tokens if isinstance(tokenizer, BPETokenizer) else {}


def _json(path: Path, most_digits: int = MOST_DIGITS) -> dict[str, Any]:
    """The object in a JSON file."""
    text = _text(path)
    with _about(path):
        return parsed_object(text, most_digits)


def _json_if_there(path: Path) -> dict[str, Any]:
    """The same, or an empty one if there is no such file."""
    return _json(path, DIGITS_OF_NO_LIMIT) if path.exists() else {}


def _text(path: Path) -> str:
    with _about(path):
        return text_of(content_of(path))


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Whatever is wrong within is one line that begins with the path."""
    try:
        yield
    except FileNotFoundError:
        raise ForeignError(f"{path.parent} has no {shown(path.name)}") from None
    except OSError as error:
        raise ForeignError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ForeignError(f"{path}: {shown(error, LONGEST_MESSAGE)}") from None


# ---------------------------------------------------------------- writing


def check_free(folder: Path) -> None:
    """Raises ForeignError unless `write` may put a model there: in a folder that is new or empty,
    or in the place of another model, of which nothing may stay that would be read in its stead."""
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ForeignError(f"{folder} is a file; name a folder")
    if any(folder.iterdir()) and not is_folder(folder):
        raise ForeignError(f"{folder} holds other files; name an empty folder, or a new one")
    for name in READ_FIRST:
        if (folder / name).exists():
            raise ForeignError(
                f"{folder} holds {name}, which would be read with the new files; name a new folder"
            )


def write(folder: Path, model: PortableModel, dtype: str) -> None:
    """Write the model to a folder, all of its files or none; `dtype` is one of DTYPES.

    Raises ForeignError as `check_free` does, ValueError for a number that is too large for the
    dtype, or a tokenizer that no such file can hold, and OSError if it cannot be written.
    """
    folder = Path(folder)
    check_free(folder)
    kind, name_of_kind = DTYPES[dtype]
    stored = {
        stored_name(model.kind, name): Stored(
            kind, tensor.shape, safetensors.encoded(name, kind, tensor.read())
        )
        for name, tensor in model.tensors.items()
    }
    special = _special(model.tokenizer)
    bos = special.get(END_OF_TEXT)
    ends = list(model.chat.ends) or ([] if bos is None else [bos])
    ids = {
        "bos_token_id": bos,
        "eos_token_id": ends if len(ends) > 1 else ends[0] if ends else None,
    }
    texts = {
        CONFIG: {**configs.write(model.kind, model.config), **ids, "dtype": name_of_kind},
        TOKENIZER_CONFIG: _tokenizer_config(model, ends),
        GENERATION: ids,
    }
    contents: dict[str, Iterable[Union[bytes, memoryview]]] = {
        WEIGHTS: safetensors.content({"format": "pt"}, stored),
        bpe_files.WHOLE: [_tokenizer_json(model.tokenizer).encode("utf-8")],
        **{name: [json.dumps(value, indent=2).encode() + b"\n"] for name, value in texts.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(*(folder / name for name in contents)) as files:
        for file, parts in zip(files, contents.values()):
            file.writelines(parts)


def stored_name(kind: str, name: str) -> str:
    """What a parameter is called in such a folder."""
    prefix = next(family.prefix for family in configs.FAMILIES.values() if family.kind == kind)
    return name if name == HEAD else prefix + name


def _tokenizer_json(tokenizer: Tokenizer) -> str:
    if isinstance(tokenizer, CharTokenizer):
        return char_files.to_tokenizer_json(tokenizer)
    if isinstance(tokenizer, BPETokenizer):
        return bpe_files.to_tokenizer_json(tokenizer)
    raise ValueError(f"there is no tokenizer.json for a tokenizer of the kind {tokenizer.kind}")


def _tokenizer_config(model: PortableModel, ends: list[int]) -> dict[str, Any]:
    names = {token: name for name, token in _special(model.tokenizer).items()}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config["context_length"],
    }
    if END_OF_TEXT in names.values():
        config["bos_token"] = END_OF_TEXT
    if ends and ends[0] in names:
        config["eos_token"] = names[ends[0]]
    if model.chat.template:
        config["chat_template"] = model.chat.template
    return config
