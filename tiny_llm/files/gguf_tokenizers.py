"""Tokenizers as GGUF has them, and which tokens end an answer.

    tokenizer.ggml.model    "gpt2": byte-level BPE; "rwkv": byte strings, the longest that fits
    tokenizer.ggml.pre      how a text is cut before that, by a name that llama.cpp knows
    ....tokens .token_type  every token by name, and whether it is ordinary, or stands for itself
    ....merges              "left right", the first learned first

Most tokenizers of the file's other kinds would be read here as something that they are not, so that
whatever is not known is refused. The names of llama.cpp's ways to cut stand for patterns; "default"
is none of GPT-2's, whatever it sounds like.

A character model becomes an "rwkv" tokenizer, whose tokens are any strings: it is the one kind for
which llama.cpp does not take some token for the end of every answer if the file names none ("gpt2"
then has token 11 end it, be that an ordinary letter). It has a limit of its own: llama.cpp does not
come back from a prompt with an unknown character whose first byte is that of a known one, such as è
where the model has é.
"""

from __future__ import annotations

import re
from array import array

from tiny_llm.files.gguf import Gguf
from tiny_llm.files.gguf_writer import Writable
from tiny_llm.files.portable import Chat, ForeignError
from tiny_llm.text.bpe import END_OF_TEXT, SIGN_OF_BYTE, BPETokenizer, parse_merges
from tiny_llm.text.shown import LONGEST_MESSAGE, shown
from tiny_llm.text.tokenizers import Tokenizer
from tiny_llm.tokenizer import CharTokenizer

MODEL, PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
MERGES, TEMPLATE = "tokenizer.ggml.merges", "tokenizer.chat_template"
END_KEYS = [f"tokenizer.ggml.{end}_token_id" for end in ("eos", "eot", "eom")]

CUT_OF_PRE = {"gpt-2": "gpt2", "smollm": "smollm"}
PRE_OF_CUT = {cut: pre for pre, cut in CUT_OF_PRE.items()}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of tokens
SPECIAL = {UNKNOWN, CONTROL, USER_DEFINED}  # those that text does not become by itself
ENDS = {  # what models call the end of what they say, or of all
    END_OF_TEXT, "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>",
    "<|return|>", "<|call|>", "<end_of_turn>", "<end_of_utterance>", "<eos>", "</s>", "<EOT>",
    "[EOS]", "[EOT]",
    # and, of models of code, of one file among several:
    "<|fim_pad|>", "<|fim_repo|>", "<|repo_name|>", "<reponame>", "<|file_sep|>",
}  # fmt: skip


def read_tokenizer(file: Gguf) -> tuple[Tokenizer, Chat]:
    """The tokenizer, and how the model was taught to talk.

    Raises ForeignError for a kind of tokenizer that is not known here, or parts that do not fit.
    """
    kind, names = file.text(MODEL), file.texts(TOKENS)
    if len(set(names)) != len(names):
        raise ForeignError("a token stands twice in its vocabulary")
    try:
        if kind == "rwkv":
            return CharTokenizer(map(_unescaped, names)), _chat(file, names, set())
        if kind != "gpt2":
            raise ForeignError(
                f"its tokenizer is of the kind {shown(repr(kind))}; only 'gpt2' is known here"
            )
        special = _special_tokens(file, names)
        vocabulary = {name: token for token, name in enumerate(names)}
        merges = parse_merges(file.texts(MERGES))
        return BPETokenizer(vocabulary, merges, special, _cut(file)), _chat(file, names, special)
    except ForeignError:
        raise
    except ValueError as error:
        message = shown(error, LONGEST_MESSAGE // 2)
        raise ForeignError(f"its tokenizer cannot be used here: {message}") from None


def _cut(file: Gguf) -> str:
    pre = file.text(PRE)
    if pre not in CUT_OF_PRE:
        raise ForeignError(
            f"its tokenizer cuts texts in the way {shown(repr(pre))}; "
            f"known here are {' and '.join(map(repr, CUT_OF_PRE))}"
        )
    if file.flag("tokenizer.ggml.add_space_prefix", False):
        raise ForeignError("its tokenizer begins every text with a space, which is not known here")
    return CUT_OF_PRE[pre]


def _special_tokens(file: Gguf, names: list[str]) -> set[str]:
    types = file.wholes(TYPES)
    if len(types) != len(names):
        raise ForeignError(f"it has {len(names)} tokens and {len(types)} types of them")
    return {name for name, kind in zip(names, types) if kind in SPECIAL}


def _chat(file: Gguf, names: list[str], special: set[str]) -> Chat:
    """The tokens that end an answer: those that the file names so, and those whose name says it."""
    ends = [file.whole(key) for key in END_KEYS if key in file.entries]
    for end in ends:
        if not 0 <= end < len(names):
            raise ForeignError(f"it ends answers with token {end}, and has {len(names)} tokens")
    ends += [token for token, name in enumerate(names) if name in ENDS and name in special]
    return Chat(file.text(TEMPLATE, ""), tuple(dict.fromkeys(ends)))


def entries_of(tokenizer: Tokenizer, chat: Chat) -> dict[str, Writable]:
    """The entries that say all of it. Raises ForeignError for another kind of tokenizer."""
    if isinstance(tokenizer, CharTokenizer):
        entries = _of_characters(tokenizer)
    elif isinstance(tokenizer, BPETokenizer):
        entries = _of_bpe(tokenizer, chat)
    else:
        raise ForeignError(f"GGUF has no tokenizer of the kind {tokenizer.kind!r}")
    entries.update(zip(END_KEYS, chat.ends))
    entries["tokenizer.ggml.add_bos_token"] = False
    if chat.template:
        entries[TEMPLATE] = chat.template
    return entries


def _of_bpe(tokenizer: BPETokenizer, chat: Chat) -> dict[str, Writable]:
    special = tokenizer.special_tokens
    names = sorted(tokenizer.vocabulary, key=tokenizer.vocabulary.__getitem__)
    entries: dict[str, Writable] = {
        MODEL: "gpt2",
        PRE: PRE_OF_CUT[tokenizer.cut],
        TOKENS: names,
        TYPES: array("i", [CONTROL if name in special else NORMAL for name in names]),
        MERGES: [*map(" ".join, tokenizer.merges)],
    }
    # No text in UTF-8 has the byte 255, so that a model never writes it: an end that does no harm.
    candidates = [*chat.ends[:1], special.get(END_OF_TEXT), *special.values()]
    candidates.append(tokenizer.vocabulary.get(SIGN_OF_BYTE[255]))
    end = next((token for token in candidates if token is not None), None)
    if end is not None:
        entries[END_KEYS[0]] = end
        entries["tokenizer.ggml.bos_token_id"] = special.get(END_OF_TEXT, end)
    return entries


def _of_characters(tokenizer: CharTokenizer) -> dict[str, Writable]:
    names = list(map(_escaped, tokenizer.itos))
    return {MODEL: "rwkv", TOKENS: names, TYPES: array("i", [NORMAL] * len(names))}


def _escaped(character: str) -> str:
    """A character as "rwkv" names it: what is not seen, or is none, as \\xe2\\x80\\xa8."""
    if character == "\\":
        return r"\\"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


_ESCAPES = {"t": b"\t", "n": b"\n", "r": b"\r"}


def _unescaped(name: str) -> str:
    """The inverse, also for \\t, \\n and \\r. Raises ValueError for bytes that are no text."""

    def byte(found: re.Match[str]) -> bytes:
        if found[1]:
            return bytes.fromhex(found[1])
        return _ESCAPES.get(found[2], found[2].encode()) if found[2] else found[0].encode()

    parts = re.finditer(r"\\(?:x([0-9a-f]{2})|(.))|[^\\]+", name, re.DOTALL)
    return b"".join(map(byte, parts)).decode("utf-8", "surrogatepass")
