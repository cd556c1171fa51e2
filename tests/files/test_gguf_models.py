"""Models in GGUF and back: the same numbers and logits, and one line for what is not known."""

import base64
import dataclasses
import random
from array import array

import make_references
import pytest
from conftest import memory_below

from tiny_llm import CharTokenizer, ModernConfig, ModernLanguageModel
from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.fast.packed import pack
from tiny_llm.fast.tensors import shape
from tiny_llm.files import gguf, gguf_models, gguf_writer
from tiny_llm.files.gguf_names import places
from tiny_llm.files.gguf_numbers import ENCODERS, FORMS, singles
from tiny_llm.files.portable import Chat, ForeignError, PortableModel, PortableTensor
from tiny_llm.text.bpe import END_OF_TEXT, BPETokenizer

CHARACTERS = CharTokenizer("ab c\n\t\\é☃\u2028\x00\x85\ud800'")
BPE = BPETokenizer.train("the cat sat on the mat, the dog sat on the log. " * 3, 280)
NUMBERED = BPETokenizer(BPE.vocabulary, BPE.merges, BPE.special_tokens, "smollm")


def rows_of(tensor):
    return tensor if isinstance(tensor[0], list) else [tensor]


def tensor_of(numbers):
    return PortableTensor(shape(numbers), lambda: iter(rows_of(numbers)))


def portable(model, tokenizer, chat=Chat()):  # noqa: B008
    kind = "llama" if isinstance(model, LlamaLanguageModel) else "modern"
    tensors = {name: tensor_of(numbers) for name, numbers in model.parameters.items()}
    return PortableModel(kind, vars(model.config), tensors, tokenizer, chat)


def numbers_of(tensor):
    rows = list(tensor.read())
    assert all(type(value) is float for row in rows for value in row)
    return rows if len(tensor.shape) == 2 else rows[0]


def loaded(found):
    """The model that what was found describes."""
    if found.kind == "llama":
        model = LlamaLanguageModel(LlamaConfig(**found.config))
    else:
        model = ModernLanguageModel(ModernConfig(**found.config))
    assert {n: t.shape for n, t in found.tensors.items()} == {
        name: shape(tensor) for name, tensor in model.parameters.items()
    }
    model.parameters = {name: numbers_of(tensor) for name, tensor in found.tensors.items()}
    return model


def rounded(model):
    """Its numbers as float32, all of them different from those that a model begins with."""
    rng = random.Random(1)
    for numbers in model.parameters.values():
        for row in rows_of(numbers):
            row[:] = singles(value + rng.gauss(0, 0.1) for value in row)
    return model


def gpt2(vocab_size, tied=True, d_model=8, heads=2):
    return rounded(ModernLanguageModel(ModernConfig(vocab_size, 6, d_model, heads, 2, tied)))


def llama(vocab_size, heads=3, kv_heads=1, tied=True, d_model=12):
    config = LlamaConfig(
        vocab_size, 6, d_model, heads, kv_heads, 2, 10, tied, rope_theta=500.0, norm_epsilon=1e-6
    )
    return rounded(LlamaLanguageModel(config))


MODELS = {
    "gpt2 tied": gpt2,
    "gpt2 untied": lambda v: gpt2(v, tied=False),
    "llama, 1 head of keys": llama,
    "llama, 3 heads of keys, untied": lambda v: llama(v, 9, 3, tied=False, d_model=18),
    "llama, a head of keys each": lambda v: llama(v, 2, 2, d_model=8),
}
TOKENIZERS = {"characters": CHARACTERS, "bpe": BPE, "numbered": NUMBERED}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_what_is_written_as_f32_is_read_again(build, tokenizer, path):
    model = build(tokenizer.vocab_size)
    gguf_models.write(path, portable(model, tokenizer), "f32")
    found = gguf_models.read(path)
    assert found.config == vars(model.config)
    assert found.tokenizer.state() == tokenizer.state()
    assert loaded(found).parameters == model.parameters


def test_numbers_are_read_as_often_as_one_likes(path):
    gguf_models.write(path, portable(llama(14), CHARACTERS), "f32")
    for tensor in gguf_models.read(path).tensors.values():
        assert list(tensor.read()) == list(tensor.read())


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
@pytest.mark.parametrize("build", [lambda: gpt2(14, False, 32), lambda: llama(14, 4, 2, True, 32)])
def test_what_is_rounded_is_rounded_once_and_where_llama_cpp_does_it(build, dtype, path):
    """A row of the file is what a product sums over: for GPT-2's layers a column here. The rows of
    down_proj are no whole blocks of Q8_0; vectors and the table of positions are not rounded."""
    model = build()
    gguf_models.write(path, portable(model, CHARACTERS), dtype)
    found = gguf_models.read(path).tensors
    for name, numbers in model.parameters.items():
        form = "F32" if name == "wpe.weight" or "norm" in name or not shape(numbers)[1:] else (
            "F16" if dtype == "f16" or "down_proj" in name else "Q8_0"
        )  # fmt: skip
        across = ".c_" in name and shape(numbers)[1:]
        rows = list(zip(*numbers)) if across else rows_of(numbers)
        rows = [FORMS[form].decode(ENCODERS[form](list(row))) for row in rows]
        expected = [list(row) for row in zip(*rows)] if across else rows
        assert found[name].form == form, name
        assert list(found[name].read()) == expected, name
    if dtype == "f16":  # what is rounded already stays
        gguf_models.write(path, PortableModel(*gguf_models.read(path)), dtype)
        again = gguf_models.read(path).tensors
        assert all([*again[n].read()] == [*found[n].read()] for n in found)


def test_a_matrix_is_packed_as_its_floats_are(path):
    model = llama(14)
    gguf_models.write(path, portable(model, CHARACTERS), "f32")
    for name, tensor in gguf_models.read(path).tensors.items():
        if len(tensor.shape) == 2:
            ours, theirs = tensor.packed(True), pack(model.parameters[name], True)
            assert (ours.numbers, ours.scales, ours.is_table) == (theirs.numbers, theirs.scales, 1)


def test_raw_blocks_come_in_the_order_of_this_project(path):
    for model in (llama(14, 4, 2, True, 32), gpt2(14)):
        gguf_models.write(path, portable(model, CHARACTERS), "q8_0")
        for name, tensor in gguf_models.read(path).tensors.items():
            raw = tensor.raw()
            if raw is None:
                assert ".c_" in name
                continue
            flat = [value for row in tensor.read() for value in row]
            assert FORMS[tensor.form].decode(raw) == flat


# ---------------------------------------------------------------- the order of rows


def test_a_model_that_another_program_wrote_has_the_logits_of_hugging_face(path):
    """Those of 70 positions. Without the right order of rows they would be others."""
    reference = make_references.read("llama_3_1")
    path.write_bytes(base64.b64decode(make_references.read("gguf")["file"]))
    found = gguf_models.read(path)
    assert found.config == reference["config"]
    assert found.tokenizer.itos == list("abcdefghijk")
    contexts, _ = make_references.llama_examples(reference["config"])
    model = loaded(found)
    assert farthest(model.forward(contexts)[0], reference["logits"]) < 1e-5
    for part in ("q_proj", "k_proj"):
        wrong = {**model.parameters}
        for name in wrong:
            if part in name:
                heads = model.config.n_heads if part == "q_proj" else model.config.n_kv_heads
                there = places(len(wrong[name]), heads)
                wrong[name] = [row for _, row in sorted(zip(there, wrong[name]))]
        other = LlamaLanguageModel(model.config)
        other.parameters = wrong
        assert farthest(other.forward(contexts)[0], reference["logits"]) > 0.01


def farthest(ours, theirs):
    return max(abs(a - b) for rows in zip(ours, theirs) for a, b in zip(*rows))


def test_rows_of_a_head_are_paired_in_the_file(path):
    assert [places(6, 1).index(row) for row in range(6)] == [0, 3, 1, 4, 2, 5]
    assert places(12, 2) == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    model = llama(14)
    gguf_models.write(path, portable(model, CHARACTERS), "f32")
    data = gguf.read(path).tensors["blk.1.attn_k.weight"].data
    rows = [FORMS["F32"].decode(data[i : i + 48]) for i in range(0, len(data), 48)]
    here = model.parameters["layers.1.self_attn.k_proj.weight"]
    assert rows == [here[0], here[2], here[1], here[3]]


# ---------------------------------------------------------------- tokens


def test_a_chat_is_kept(path):
    chat = Chat("{{ messages }}\n", (5, 3))
    tokenizer = BPETokenizer.from_merges([], [END_OF_TEXT, "<|im_start|>", "<|im_end|>"])
    gguf_models.write(path, portable(gpt2(259), tokenizer, chat), "f32")
    found = gguf_models.read(path).chat
    assert found.template == chat.template
    assert found.ends == (5, 3, 256, 258)  # those that were said, and those whose names say it


def test_a_template_with_half_a_character_is_not_written(path):
    with pytest.raises(ForeignError, match="holds half a character"):
        gguf_models.write(path, portable(gpt2(14), CHARACTERS, Chat("a\ud800")), "f32")
    assert not path.exists()


def test_without_a_token_that_ends_a_text_it_is_one_that_no_text_has(path):
    """Else llama.cpp would take token 11, a comma, for it."""
    tokenizer = BPETokenizer.from_merges([("t", "h")], [])
    gguf_models.write(path, portable(gpt2(257), tokenizer), "f32")
    (end,) = gguf_models.read(path).chat.ends
    assert tokenizer.token_bytes(end) == b"\xff"


def test_a_vocabulary_may_lack_bytes(path):
    names = [name for name in BPE.vocabulary if name not in ("!", "ÿ")]
    tokenizer = BPETokenizer({n: i for i, n in enumerate(names)}, BPE.merges, [END_OF_TEXT])
    gguf_models.write(path, portable(gpt2(len(names)), tokenizer), "f32")
    assert gguf_models.read(path).tokenizer.state() == tokenizer.state()


# ---------------------------------------------------------------- what is not known, in one line


def rewritten(path, change, tokenizer=BPE, build=llama):
    """A good file with other entries or tensors in it."""
    gguf_models.write(path, portable(build(tokenizer.vocab_size), tokenizer), "f32")
    file = gguf.read(path)
    entries = {}
    for key, value in file.entries.items():
        if value.length is None:
            entries[key] = file.single(key)
        elif value.type == gguf.STRING:
            entries[key] = file.texts(key)
        else:
            entries[key] = array("i", file.wholes(key))
    tensors = {
        name: gguf_writer.Outgoing(name, e.shape, e.form, lambda e=e: [bytes(e.data)])
        for name, e in file.tensors.items()
    }
    change(entries, tensors)
    gguf_writer.write(path, entries, list(tensors.values()))


def with_entry(key, value):
    return lambda entries, tensors: entries.update({key: value})


def without(key):
    return lambda entries, tensors: (entries if key in entries else tensors).pop(key)


def more_tensors(name):
    def change(entries, tensors):
        tensors[name] = gguf_writer.Outgoing(name, (4,), "F32", lambda: [bytes(16)])

    return change


def renamed(token, name):
    def change(entries, tensors):
        names = entries["tokenizer.ggml.tokens"]
        names[token] = name

    return change


NOT_KNOWN = [
    (with_entry("general.architecture", "qwen2"), "its architecture is 'qwen2'"),
    (without("general.architecture"), "it has no general.architecture"),
    (without("llama.context_length"), "it has no llama.context_length"),
    (without("llama.attention.layer_norm_rms_epsilon"), "layer_norm_rms_epsilon"),
    (with_entry("llama.context_length", 0), "its llama.context_length is 0"),
    (with_entry("llama.context_length", "6"), "is not a whole number"),
    (with_entry("llama.block_count", 3), "it has no tensor blk.2.attn_norm.weight"),
    (with_entry("llama.block_count", 10**9), "claims 1000000000 blocks in 20 tensors"),
    (with_entry("llama.block_count", 1), "its tensor 'blk.1.attn_k.weight' is not known"),
    (with_entry("llama.attention.head_count", 5), "its 5 heads cannot share a width of 12"),
    (with_entry("llama.attention.head_count_kv", 2), "cannot share 2 of keys and values evenly"),
    (with_entry("llama.attention.head_count", array("i", [3, 3])), "is not a whole number"),
    (with_entry("llama.attention.key_length", 8), "key_length' is 8"),
    (with_entry("llama.rope.dimension_count", 2), "dimension_count' is 2"),
    (with_entry("llama.rope.scaling.type", "linear"), "is 'linear'"),
    (with_entry("llama.rope.scaling.factor", 8.0), "is 8.0"),
    (with_entry("llama.rope.freq_base", 0.0), "its rope_theta is 0.0"),
    (with_entry("llama.expert_count", 8), "expert_count' is 8"),
    (with_entry("llama.logit_scale", 0.5), "logit_scale' is 0.5"),
    (with_entry("llama.vocab_size", 7), "vocab_size' is 7"),
    (with_entry("llama.feed_forward_length", 11), "has the shape [10, 12]"),
    (without("output_norm.weight"), "it has no tensor output_norm.weight"),
    (more_tensors("blk.0.attn_q.bias"), "its tensor 'blk.0.attn_q.bias' is not known"),
    (more_tensors("rope_freqs.weight"), "its tensor 'rope_freqs.weight' is not known"),
    (with_entry("tokenizer.ggml.model", "llama"), "its tokenizer is of the kind 'llama'"),
    (with_entry("tokenizer.ggml.pre", "default"), "cuts texts in the way 'default'"),
    (without("tokenizer.ggml.pre"), "it has no tokenizer.ggml.pre"),
    (with_entry("tokenizer.ggml.add_space_prefix", True), "begins every text with a space"),
    (without("tokenizer.ggml.merges"), "it has no tokenizer.ggml.merges"),
    (with_entry("tokenizer.ggml.merges", ["t h e"]), "a merge is two tokens"),
    (with_entry("tokenizer.ggml.merges", ["t zzz"]), "needs 'zzz'"),
    (with_entry("tokenizer.ggml.token_type", array("i", [1])), "tokens and 1 types"),
    (with_entry("tokenizer.ggml.eos_token_id", 280), "ends answers with token 280"),
    (renamed(3, "\u4e2d"), "stands for no byte"),
    (renamed(3, "!"), "a token stands twice"),
    (with_entry("tokenizer.chat_template", "x" * (2**20 + 1)), "is far longer than"),
]


@pytest.mark.parametrize(("change", "problem"), NOT_KNOWN, ids=[p for _, p in NOT_KNOWN])
def test_what_is_not_known_is_refused_by_name(change, problem, path):
    rewritten(path, change)
    with pytest.raises(ForeignError, match="is damaged or no GGUF model") as caught:
        gguf_models.read(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "problem"), [
    (with_entry("gpt2.attention.layer_norm_epsilon", 1e-6), "has the epsilon 1e-06"),
    (with_entry("gpt2.feed_forward_length", 16), "is 16 and not four times"),
    (with_entry("gpt2.attention.head_count_kv", 1), "its heads share keys and values"),
    (without("position_embd.weight"), "it has no tensor position_embd.weight"),
    (with_entry("tokenizer.ggml.tokens", ["a", "bc"]), "single characters"),
    (with_entry("tokenizer.ggml.tokens", ["a", "\\xff"]), "its tokenizer cannot be used here"),
])  # fmt: skip
def test_what_is_not_gpt_2_is_refused_by_name(change, problem, path):
    rewritten(path, change, CHARACTERS, gpt2)
    with pytest.raises(ForeignError) as caught:
        gguf_models.read(path)
    assert problem in str(caught.value)


def test_what_means_nothing_is_let_be(path):
    """Entries that say what is so anyway, or are about other things."""
    rewritten(path, lambda entries, tensors: entries.update({
        "llama.rope.scaling.type": "none", "llama.expert_count": 0, "llama.attention.key_length": 4,
        "general.tags": ["a", "b"], "split.count": 0, "tokenizer.ggml.add_space_prefix": False,
    }))  # fmt: skip
    assert loaded(gguf_models.read(path)).parameters == llama(BPE.vocab_size).parameters


def test_a_number_that_is_none_is_noticed_when_it_is_read(path):
    gguf_models.write(path, portable(gpt2(14), CHARACTERS), "f32")
    content = path.read_bytes()
    path.write_bytes(content[:-32] + b"\0\0\xc0\x7f" + content[-28:])
    tensor = gguf_models.read(path).tensors["h.1.mlp.c_proj.bias"]
    with pytest.raises(ForeignError, match=r"ffn_down\.bias holds a number that is not finite"):
        list(tensor.read())


@pytest.mark.parametrize(("value", "dtype", "problem"), [
    (1e39, "f32", "is not finite as float32"),
    (7e4, "f16", "too large for F16"),
    (1e8, "q8_0", "too large for Q8_0"),
    (float("nan"), "f32", "is not finite"),
    (float("inf"), "q8_0", "is not finite"),
])  # fmt: skip
def test_a_number_that_cannot_be_written_leaves_the_old_file(value, dtype, problem, path):
    model = llama(14, 4, 2, True, 32)
    model.parameters["layers.0.self_attn.k_proj.weight"][3][5] = value
    path.write_bytes(b"old")
    with pytest.raises(ForeignError, match=problem):
        gguf_models.write(path, portable(model, CHARACTERS), dtype)
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_has_no_place_in_gguf_is_not_written(path):
    whole = portable(gpt2(14), CHARACTERS)
    for model, dtype, problem in (
        (whole._replace(kind="mlp"), "f32", "no architecture for a 'mlp' model"),
        (whole, "q4_0", "'q4_0' is no type to write"),
        (whole._replace(tensors={}), "f32", "the model has no wte.weight"),
        (whole._replace(tensors={**whole.tensors, "x": tensor_of([1.0])}), "f32", "no name for: x"),
    ):
        with pytest.raises(ForeignError, match=problem):
            gguf_models.write(path, model, dtype)
    assert not path.exists()


def test_a_model_is_read_without_its_numbers(path):
    """A file of 4 MB is ready in far less, since nothing is decoded before it is asked for."""
    model = gpt2(14, True, 8)
    wide = dataclasses.replace(model.config, context_length=2**17)
    whole = portable(model, CHARACTERS)
    table = PortableTensor((2**17, 8), lambda: iter([[0.5] * 8] * 2**17))
    whole = whole._replace(config=vars(wide), tensors={**whole.tensors, "wpe.weight": table})
    gguf_models.write(path, whole, "f32")
    with memory_below(1_000_000):
        found = gguf_models.read(path)
        assert next(found.tensors["wpe.weight"].read()) == [0.5] * 8


# ---------------------------------------------------------------- with the package gguf


@pytest.mark.reference
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_the_package_gguf_reads_what_is_written(tokenizer, dtype, path):
    numpy, package = pytest.importorskip("numpy"), pytest.importorskip("gguf")
    model = llama(tokenizer.vocab_size, 4, 2, True, 32)
    gguf_models.write(path, portable(model, tokenizer, Chat("hello", (1,))), dtype)
    reader = package.GGUFReader(path)
    for key, value in {
        "general.architecture": "llama", "general.name": "model", "llama.context_length": 6,
        "llama.attention.head_count_kv": 2, "llama.rope.freq_base": 500.0,
        "tokenizer.ggml.eos_token_id": 1, "tokenizer.chat_template": "hello",
    }.items():  # fmt: skip
        assert reader.get_field(key).contents() == value
    names = reader.get_field("tokenizer.ggml.tokens").contents()
    assert len(names) == len(set(names)) == tokenizer.vocab_size
    for tensor in reader.tensors:
        theirs = package.quants.dequantize(tensor.data, tensor.tensor_type)
        heads = {"q": 4, "k": 2}.get(tensor.name[-8:-7]) if "attn_" in tensor.name else None
        ours = {t._part.theirs: t for t in gguf_models.read(path).tensors.values()}[tensor.name]
        here = numpy.array(numbers_of(ours), dtype=numpy.float32)
        if heads and tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            here = make_references.paired(here, heads)
        assert (here == theirs.reshape(here.shape)).all(), tensor.name
