"""Hugging Face folders: there and back, what transformers wrote, what is refused, what is damaged.

`make_folders.py` wrote the folders in tests/references/. The tests marked `reference` let
transformers load what is written here.
"""

import json
import logging
import math
import random
import shutil
import struct
import unicodedata
import warnings

import make_folders
import make_references
import pytest
from conftest import memory_below

from tiny_llm import BPETokenizer, CharTokenizer, ModernConfig, ModernLanguageModel
from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.fast.tensors import shape
from tiny_llm.files import hugging_face, safetensors
from tiny_llm.files.portable import Chat, ForeignError, PortableModel, PortableTensor
from tiny_llm.files.safetensors import Stored
from tiny_llm.model import rows_of

END = make_references.END_OF_TEXT
BPE = BPETokenizer.train(make_references.BPE_CORPUS.read_text("utf-8"), 264, ["<|x|>", END])
CHAT = Chat("{{ messages[0]['content'] }} ä\n", (257, 3))
TOKENIZERS = {
    "char": (CharTokenizer("cab\n ä日"), Chat()),
    "gpt2": (BPE, Chat("", (BPE.special_tokens[END],))),
    "smollm": (BPETokenizer(BPE.vocabulary, BPE.merges, BPE.special_tokens, "smollm"), CHAT),
}
BUILDS = {
    "gpt2": lambda v: ModernLanguageModel(ModernConfig(v, 6, 8, n_heads=2, n_layers=2), 1),
    "gpt2 untied": lambda v: ModernLanguageModel(
        ModernConfig(v, 6, 8, n_heads=2, n_layers=1, tie_embeddings=False), 1
    ),
    "llama 3/1": lambda v: LlamaLanguageModel(
        LlamaConfig(v, 6, 12, 3, 1, n_layers=2, d_hidden=10, rope_theta=500.0), 1
    ),
    "llama 3/3 untied": lambda v: LlamaLanguageModel(
        LlamaConfig(v, 6, 6, 3, 3, 1, 7, tie_embeddings=False, norm_epsilon=1e-6), 1
    ),
}


def portable(model, tokenizer, chat=Chat()):  # noqa: B008
    tensors = {
        name: PortableTensor(shape(tensor), lambda tensor=tensor: iter(rows_of(tensor)))
        for name, tensor in model.parameters.items()
    }
    kind = "modern" if isinstance(model, ModernLanguageModel) else "llama"
    return PortableModel(kind, vars(model.config), tensors, tokenizer, chat)


def built(model):
    """The plain model of what was read."""
    cls, config = {
        "modern": (ModernLanguageModel, ModernConfig), "llama": (LlamaLanguageModel, LlamaConfig)
    }[model.kind]  # fmt: skip
    made = cls(config(**model.config))
    assert {name: t.shape for name, t in model.tensors.items()} == {
        name: start.shape for name, start in made.layout(made.config).items()
    }
    for name, tensor in model.tensors.items():
        rows = list(tensor.read())
        made.parameters[name] = rows if len(tensor.shape) == 2 else rows[0]
    return made


def rounded(tensor, form):
    return [[struct.unpack(form, struct.pack(form, x))[0] for x in row] for row in rows_of(tensor)]


@pytest.fixture(params=BUILDS)
def build(request):
    return BUILDS[request.param]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_model_survives(build, name, tmp_path):
    tokenizer, chat = TOKENIZERS[name]
    model = build(tokenizer.vocab_size)
    for dtype, form in (("f64", "<d"), ("f32", "<f"), ("f16", "<e")):
        hugging_face.write(tmp_path / dtype, portable(model, tokenizer, chat), dtype)
        assert hugging_face.is_folder(tmp_path / dtype)
        read = hugging_face.read(tmp_path / dtype)
        assert read.config == vars(model.config)
        assert read.tokenizer.state() == tokenizer.state()
        assert read.chat == chat
        assert list(read.tensors) == list(model.parameters)
        for tensor, ours in zip(read.tensors.values(), model.parameters.values()):
            assert list(tensor.read()) == rounded(ours, form)
            assert list(tensor.read()) == rounded(ours, form)  # anew each time


@pytest.mark.parametrize("name", make_folders.FOLDERS)
def test_what_transformers_wrote_computes_the_same(name):
    folder = make_folders.FOLDER / name
    read = hugging_face.read(folder)
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert read.tokenizer.encode(make_folders.TEXT) == results["ids"]
    assert read.chat == (make_folders.TEMPLATE if name == "hf_llama" else "", (0,))
    logits, _ = built(read).forward([make_folders.CONTEXT])
    for row, theirs in zip(logits, results["logits"]):
        assert row[:: make_folders.EVERY] == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_the_folders_stay_small():
    for name in make_folders.FOLDERS:
        sizes = [file.stat().st_size for file in (make_folders.FOLDER / name).iterdir()]
        assert len(sizes) > 5
        assert sum(sizes) < 25_000


# ---------------------------------------------------------------- forms that other programs write


@pytest.fixture(params=["gpt2", "llama 3/1"])
def folder(request, tmp_path):
    """A folder of either architecture."""
    model = portable(BUILDS[request.param](BPE.vocab_size), BPE)
    hugging_face.write(tmp_path / "model", model, "f32")
    return tmp_path / "model"


def is_llama(folder):
    return json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == "llama"


def change(folder, file, **entries):
    """Write these entries into a JSON file, and leave out those that are `...`."""
    path = folder / file
    value = {**json.loads(path.read_text("utf-8")), **entries}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not ...}), "utf-8")


def rewrite(folder, edit, file="model.safetensors"):
    """Let `edit` change the dict of tensors in a file."""
    metadata, tensors = safetensors.parse((folder / file).read_bytes())
    edit(tensors)
    (folder / file).write_bytes(b"".join(safetensors.content(metadata, tensors)))


def numbers_of(folder):
    return {n: list(t.read()) for n, t in hugging_face.read(folder).tensors.items()}


def test_names_may_lack_the_prefix_and_buffers_are_left_out(folder):
    before = numbers_of(folder)

    def edit(tensors):
        for name in list(tensors):
            tensors[name.partition(".")[2]] = tensors.pop(name)
        if is_llama(folder):
            name = "layers.0.self_attn.rotary_emb.inv_freq"
            tensors[name] = Stored("F32", (2,), [b"\0" * 8])
        else:
            tensors["h.0.attn.bias"] = Stored("U8", (1, 1, 6, 6), [b"\1" * 36])
            tensors["h.1.attn.masked_bias"] = Stored("F32", (), [b"\0" * 4])

    rewrite(folder, edit)
    assert numbers_of(folder) == before


def test_a_head_beside_the_table_that_it_is_tied_to_is_the_same(folder):
    before = numbers_of(folder)
    table = "model.embed_tokens.weight" if is_llama(folder) else "transformer.wte.weight"
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": tensors[table]}))
    assert numbers_of(folder) == before
    rewrite(
        folder,
        lambda tensors: tensors.update(
            {
                "lm_head.weight": tensors[table]._replace(
                    parts=[bytes(tensors[table].parts[0])[::-1]]
                )
            }
        ),
    )
    with pytest.raises(ForeignError, match=r"lm_head\.weight is another than the table"):
        hugging_face.read(folder)


def test_the_newer_and_the_older_forms_of_rotary_positions(folder):
    if not is_llama(folder):
        pytest.skip("GPT-2 has none")
    rope = {"rope_theta": 7, "rope_type": "default"}
    for entries, theta in (
        ({"rope_theta": ..., "rope_parameters": rope}, 7.0),
        ({"rope_theta": 9, "rope_parameters": None, "rope_scaling": None}, 9.0),
        ({"rope_theta": 9, "rope_scaling": {"type": "default"}}, 9.0),
        ({"rope_theta": ..., "rope_scaling": ...}, 10000.0),
        ({"rms_norm_eps": ..., "num_key_value_heads": 1}, 10000.0),
    ):
        change(folder, "config.json", **entries)
        assert hugging_face.read(folder).config["rope_theta"] == theta
    assert hugging_face.read(folder).config["norm_epsilon"] == 1e-6


def test_a_chat_is_read_from_any_of_its_files(folder):
    def chat():
        return hugging_face.read(folder).chat

    config, tokenizer, generation = "config.json", "tokenizer_config.json", "generation_config.json"
    assert chat() == ("", (BPE.special_tokens[END],))
    change(folder, generation, eos_token_id=[3, 5, 50256])
    assert chat() == ("", (3, 5))
    change(folder, generation, eos_token_id=None)
    change(folder, config, eos_token_id=7)
    assert chat().ends == (7,)
    change(folder, config, eos_token_id=...)
    assert chat().ends == (BPE.special_tokens[END],)
    change(folder, tokenizer, eos_token={"content": "<|x|>", "lstrip": False})
    assert chat().ends == (BPE.special_tokens["<|x|>"],)
    change(folder, tokenizer, model_max_length=10**30, chat_template="one", eos_token=None)
    assert chat() == ("one", ())
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "two"}]
    change(folder, tokenizer, chat_template=several)
    assert chat().template == "two"
    (folder / "chat_template.jinja").write_bytes("drei\r\nä".encode())
    assert chat().template == "drei\r\nä"
    (folder / tokenizer).unlink()
    (folder / generation).unlink()
    assert chat() == ("drei\r\nä", ())


def test_a_tokenizer_json_comes_before_the_files_of_gpt_2(folder):
    from tiny_llm.files import bpe_files

    smollm = TOKENIZERS["smollm"][0]
    (folder / "tokenizer.json").write_text(bpe_files.to_tokenizer_json(smollm), "utf-8")
    bpe_files.save(BPE, folder)
    assert hugging_face.read(folder).tokenizer.cut == "smollm"
    (folder / "tokenizer.json").unlink()
    assert hugging_face.read(folder).tokenizer.cut == "gpt2"
    (folder / "merges.txt").unlink()
    with pytest.raises(ForeignError, match="holds neither"):
        hugging_face.read(folder)


# ---------------------------------------------------------------- what is refused

BOTH = {
    "model_type": ("mamba", 'its model_type is "mamba", which is not known here; gpt2 and llama'),
    "vocab_size": (265, "its tokenizer has 264 tokens, and its model 265"),
    "tie_word_embeddings": ("yes", 'its tie_word_embeddings is "yes"'),
    "quantization_config": ({"bits": 4}, "its quantization_config is"),
    "sliding_window": (4096, "its sliding_window is 4096"),
    "add_cross_attention": (True, "its add_cross_attention is true"),
}
GPT2 = {
    "n_embd": (0, "its n_embd is 0, and not a whole number of at least 1"),
    "n_layer": (10**12, "it has no tensor h.2.ln_1.weight"),
    "n_positions": (7, "wpe.weight has the shape [6, 8], and not [7, 8]"),
    "n_head": (3, "its 3 heads cannot share 8 numbers evenly"),
    "n_inner": (9, "its n_inner is 9"),
    "activation_function": ("gelu", 'its activation_function is "gelu"'),
    "layer_norm_epsilon": (1e-6, "its layer_norm_epsilon is 1e-06"),
    "scale_attn_by_inverse_layer_idx": (True, "its scale_attn_by_inverse_layer_idx is true"),
    "scale_attn_weights": (False, "its scale_attn_weights is false"),
}
LLAMA = {
    "hidden_size": (None, "its hidden_size is null"),
    "num_hidden_layers": (3, "it has no tensor layers.2.input_layernorm.weight"),
    "intermediate_size": (11, "layers.0.mlp.gate_proj.weight has the shape [10, 12]"),
    "num_key_value_heads": (2, "its 3 heads cannot share 2 heads of keys evenly"),
    "num_attention_heads": (4, "its heads are 3 wide, so they cannot be turned in pairs"),
    "head_dim": (8, "its head_dim is 8"),
    "hidden_act": ("gelu", 'its hidden_act is "gelu"'),
    "attention_bias": (True, "its attention_bias is true"),
    "mlp_bias": (True, "its mlp_bias is true"),
    "rope_scaling": ({"rope_type": "llama3", "factor": 8.0}, "its rope_scaling is"),
    "rope_parameters": ({"rope_theta": 1e4, "rope_type": "yarn"}, "its rope_parameters is"),
    "partial_rotary_factor": (0.5, "its partial_rotary_factor is 0.5"),
    "rope_theta": (0, "its rope_theta is 0, and not above 0"),
    "rms_norm_eps": ("tiny", 'its rms_norm_eps is "tiny"'),
}


@pytest.mark.parametrize("entry", {**BOTH, **GPT2, **LLAMA})
def test_a_config_that_means_something_else_is_refused(folder, entry):
    known = {**BOTH, **(LLAMA if is_llama(folder) else GPT2)}
    if entry not in known:
        pytest.skip("of the other architecture")
    value, problem = known[entry]
    change(folder, "config.json", **{entry: value})
    refused_with(folder, problem)


def refused_with(folder, problem):
    with pytest.raises(ForeignError) as error:
        hugging_face.read(folder)
    assert problem in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refused_with(folder, name)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda t, n: t.pop(n), "it has no tensor"),
        (lambda t, n: t.update(more=t[n]), "it has a tensor more, which is not known here"),
        (lambda t, n: t.update({n.partition(".")[2]: t[n]}), "is there twice"),
        (lambda t, n: t.update({n: t[n]._replace(dtype="I32")}), "of the kind I32"),
        (lambda t, n: t.update({n: t[n]._replace(shape=t[n].shape[::-1])}), "has the shape"),
    ],
)
def test_tensors_that_are_not_those_of_the_model_are_refused(folder, edit, problem):
    rewrite(folder, lambda tensors: edit(tensors, next(n for n in tensors if "mlp" in n)))
    refused_with(folder, problem)


def test_a_number_that_is_not_finite_is_refused_when_it_is_read(folder):
    def edit(tensors):
        name = "model.norm.weight" if is_llama(folder) else "transformer.ln_f.weight"
        numbers = bytes(tensors[name].parts[0])[:-4] + struct.pack("<f", float("nan"))
        tensors[name] = tensors[name]._replace(parts=[numbers])

    rewrite(folder, edit)
    read = hugging_face.read(folder)
    with pytest.raises(ForeignError, match="weight holds a number that is not finite"):
        list(read.tensors["norm.weight" if is_llama(folder) else "ln_f.weight"].read())


@pytest.fixture
def shards(tmp_path):
    """A copy of the folder whose tensors are in several files."""
    shutil.copytree(make_folders.FOLDER / "hf_llama", tmp_path / "shards")
    return tmp_path / "shards"


def with_file(name):
    return lambda weight_map: {**weight_map, "model.norm.weight": name}


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (with_file("../model.safetensors"), "is no name of a file beside it"),
        (with_file("/etc/passwd"), "is no name of a file beside it"),
        (with_file("c:\\x.safetensors"), "is no name of a file beside it"),
        (with_file("\x1b.safetensors"), "is no name of a file beside it"),
        (with_file("x" * 5000 + ".safetensors"), "is no name of a file beside it"),
        (with_file("pytorch_model.bin"), "is no name of a file beside it"),
        (with_file("gone.safetensors"), "has no gone.safetensors"),
        (with_file(3), "weight_map does not say"),
        (lambda weight_map: None, "weight_map does not say"),
        (lambda weight_map: {}, "it has no tensor"),
    ],
)
def test_an_index_names_files_of_the_folder(shards, edit, problem):
    assert hugging_face.read(shards).kind == "llama"
    index = "model.safetensors.index.json"
    weight_map = json.loads((shards / index).read_text("utf-8"))["weight_map"]
    change(shards, index, weight_map=edit(weight_map))
    refused_with(shards, problem)


def test_a_missing_shard_is_named(shards):
    (shards / "model-00002-of-00002.safetensors").unlink()
    refused_with(shards, "has no model-00002-of-00002.safetensors")


# ---------------------------------------------------------------- writing


def test_only_a_folder_of_a_model_is_written_over(folder, tmp_path):
    model = hugging_face.read(folder)
    hugging_face.check_free(folder)
    hugging_face.write(folder, model, "f64")
    (tmp_path / "empty").mkdir()
    hugging_face.write(tmp_path / "empty", model, "f32")
    (folder / "chat_template.jinja").write_text("old")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    for place, problem in (
        (folder, r"holds chat_template\.jinja, which would be read with the new files"),
        (tmp_path / "other", "holds other files"),
        (tmp_path / "other" / "letter.txt", "is a file; name a folder"),
    ):
        with pytest.raises(ForeignError, match=problem):
            hugging_face.write(place, model, "f32")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]


def test_what_cannot_be_written_leaves_the_old_files(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = hugging_face.read(folder)
    large = PortableTensor((1,), lambda: iter([[70000.0]]))
    with pytest.raises(ValueError, match="holds 70000, too large for F16"):
        hugging_face.write(folder, model._replace(tensors={**model.tensors, "x": large}), "f16")
    with pytest.raises(ValueError, match="a lone surrogate"):
        hugging_face.write(folder, model._replace(tokenizer=CharTokenizer("\ud800")), "f16")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# ---------------------------------------------------------------- what is damaged

VALUES = [
    None, True, 0, -1, 3, 10**9, 10**17, 0.5, 1e308, "", "a", "\ud800", "\x1b[31m", "../x", [], {},
    [[]], {"a": 1}, [1, 2], ["a"], "x" * 9999,
]  # fmt: skip


def twisted(value, rng):
    """A JSON value with another one in some place of it."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        value = value.copy()
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = twisted(value[key], rng)
        if isinstance(value, dict) and rng.random() < 0.1:
            del value[key]
        return value
    return rng.choice(VALUES)


def damaged(content, name, rng):
    """A file's content with bytes changed, or, if it is JSON, with other values in it."""
    if rng.random() < 0.6 and name.endswith(".json"):
        return json.dumps(twisted(json.loads(content), rng)).encode()
    if rng.random() < 0.5 and name.endswith(".safetensors"):
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(twisted(json.loads(content[8 : 8 + length]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 3])):
        place = rng.randrange(len(data) + 1)
        data[place : place + rng.choice([0, 1, 9])] = rng.choice(
            [b"", b"\0", b"\xff\xff", b"9", b'"', b"[", b"[" * 5000, b"1" * 5000]
        )
    return bytes(data)


@pytest.mark.parametrize("name", make_folders.FOLDERS)
def test_a_damaged_folder_is_a_model_or_one_line(name, tmp_path):
    rng, refused = random.Random(name), 0
    source = make_folders.FOLDER / name
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    files.pop("results.json")
    shutil.copytree(source, tmp_path / "m")
    for _ in range(250):
        victim = rng.choice(sorted(files))
        content = damaged(files[victim], victim, rng)
        (tmp_path / "m" / victim).write_bytes(content)
        with memory_below(len(content) + 100 * 2**20):
            try:
                model = hugging_face.read(tmp_path / "m")
                for tensor in model.tensors.values():
                    assert sum(map(len, tensor.read())) == math.prod(tensor.shape)
            except ForeignError as error:
                refused += 1
                line = str(error)
                assert len(line) < 1500 and line.isprintable()
        (tmp_path / "m" / victim).write_bytes(files[victim])
    assert 100 < refused < 250


# ---------------------------------------------------------------- with transformers, tokenizers


def nasty_texts():
    """Several hundred: every kind of number and space, marks, controls, signs beyond 16 bits."""
    rng = random.Random("nasty")
    signs = [
        *"0123456789²³¹½¼Ⅷⅷ٣৩〇一௰𝟘𝟡🄀①⑳ \t\n\r\x0b\x0c\x85\u00a0\u1680\u2003\u2028\u2029\u202f",
        *"\u205f\u3000\x1c\x1d\x1e\x1f\x00\x01\x1b\x7f\u200b\u200d\ufeff\ufffd\u0301\u0308\u0e31",
        *"\u093f_'’\"aZäßИשع日本한😀👍🏽\U000e0041\U0010ffff",
        "👩\u200d👧", "🇩🇪", "'s", "'LL", "it's", "  ", "\n\n", "12", "3.5", "<|x|>",
    ]  # fmt: skip
    yield from make_references.HARD_TEXTS
    yield from signs
    for _ in range(400):
        yield "".join(rng.choices(signs, k=rng.randrange(1, 14)))
    numbers = [c for c in map(chr, range(0x20000)) if c.isnumeric() and known_for_long(c)]
    yield from ("a ".join(numbers[i : i + 50]) for i in range(0, len(numbers), 50))


def known_for_long(character):
    """Whether the character is in Unicode since 3.2, so that nobody differs about it."""
    return unicodedata.ucd_3_2_0.category(character)[0] == "N"


@pytest.mark.reference
@pytest.mark.parametrize("name", ["gpt2", "smollm"])
def test_tokenizers_gives_the_same_ids(name, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer, _ = TOKENIZERS[name]
    hugging_face.write(tmp_path, portable(BUILDS["gpt2"](tokenizer.vocab_size), tokenizer), "f16")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts, allowed = list(nasty_texts()), set(tokenizer.special_tokens)
    assert len(texts) > 450
    for text in texts:
        assert theirs.encode(text).ids == tokenizer.encode(text, allowed), ascii(text)


class Heard(logging.Handler):
    """Notes whatever is said."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.mark.reference
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("dtype", ["f64", "f32", "f16"])
def test_transformers_loads_what_is_written_without_a_word(build, name, dtype, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer, chat = TOKENIZERS[name]
    model = build(tokenizer.vocab_size)
    hugging_face.write(tmp_path, portable(model, tokenizer, chat), dtype)
    heard = Heard()
    logging.getLogger("transformers").addHandler(heard)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
            loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    finally:
        logging.getLogger("transformers").removeHandler(heard)
    assert (heard.lines, [str(w.message) for w in warned]) == ([], [])
    assert str(loaded.dtype) == f"torch.float{dtype[1:]}"
    assert not loaded.generation_config.eos_token_id or (
        torch.tensor(loaded.generation_config.eos_token_id).flatten().tolist() == [*chat.ends]
    )
    context, state = [3, 1, 4, 1, 5, 0], loaded.double().state_dict()
    with make_references.double_everywhere(), torch.no_grad():
        hugging = transformers.AutoModelForCausalLM.from_config(loaded.config).double().eval()
        hugging.load_state_dict(state)
        logits = hugging(torch.tensor([context])).logits[0].tolist()
    text = "ab\n\nc 日ä" if name == "char" else "ab\n"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(text)) == text
    if chat.template:
        assert theirs.apply_chat_template([{"content": "hi"}], tokenize=False) == "hi ä"
    ours, _ = built(hugging_face.read(tmp_path)).forward([context])
    for row, their in zip(ours, logits):
        assert row == pytest.approx(their, rel=1e-9, abs=1e-12)


@pytest.mark.reference
@pytest.mark.parametrize("name", make_folders.FOLDERS)
def test_the_stored_folders_compute_what_is_stored(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = make_folders.FOLDER / name
    stored = json.loads((folder / "results.json").read_text("utf-8"))["logits"]
    for row, their in zip(stored, make_folders.logits(folder)):
        assert row == pytest.approx(their, rel=1e-9, abs=1e-12)
