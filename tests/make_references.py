"""Write tests/references/*.json: what PyTorch and Hugging Face compute, for tests without them.

    pip install torch==2.13.0 transformers tokenizers gguf
    python tests/make_references.py

Two small GPT-2s in float64, tied and untied, with their logits, loss and every gradient, two small
Llamas likewise, a GPT-2 that learns preferences, and twenty steps of AdamW. Inputs are rounded, so
that the files stay small; results have all their digits. And a byte-level BPE: what Hugging Face's
tokenizers learn from the corpus, the ids that they give to texts that are easily cut wrong, and the
text of ids that make no whole characters. And blocks of every form of numbers in GGUF, with what
the package `gguf` makes of them, and one of the Llamas as a file that this package wrote.
"""

import base64
import json
import random
import tempfile
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).parent / "references"

SIZES = {"vocab_size": 11, "context_length": 6, "d_model": 8, "n_heads": 2, "n_layers": 2}
# Lengths differ, tokens occur twice in one context and in several contexts, one is never seen.
CONTEXTS = [[3, 1, 4, 1, 5, 9], [2, 6, 5], [10], [3, 3, 3, 8, 7]]
TARGETS = [1, 4, 1, 5, 9, 2, 6, 5, 3, 3, 3, 3, 8, 7, 0]

ADAMW = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.1}
ADAMW_STEPS = 20
SCHEDULE = {"peak": 0.1, "warmup_steps": 5, "floor": 0.1}
CLIP = 1.0

BPE_CORPUS = Path(__file__).parent.parent / "corpus.txt"
BPE_VOCAB_SIZE = 640
END_OF_TEXT = "<|endoftext|>"
HARD_TEXTS = [
    "",
    " ",
    "it's they're we've I'm you'll he'd don't IT'S 's's 'x ''s 'll'",
    "12 3,456.78 1st ²½Ⅷ ١٢٣ 3€",  # superscript, half, Roman, Arabic
    "\t\ttabs\tand\r\nlines\n\n\nand \x0b\x0c more",
    "runs   of    spaces     \n   before  and behind   ",
    "\u00a0no\u00a0break\u2003em\u3000wide\u2028line\x85next\x1cseparator\x1f",
    "snake_case __init__ a_b_1 _",
    "👩\u200d👩\u200d👦 👍🏽 🇩🇪 ❤\ufe0f",
    "e\u0301 n\u0303 \u0915\u094d\u0937\u093f \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "שלום مرحبا \u200f\u202b",
    "日本語のテキスト 中文。한국어 一二三",
    "\x00\x01\x1b[31m\x7f\ufeff\ufffd",
    "\U0001d400\U0001d7d8\U00010107\U0001f10b\U000e0041\U0010ffff",  # beyond 16 bits
    f"{END_OF_TEXT} the model {END_OF_TEXT}{END_OF_TEXT}",
    "the language model reads the text and guesses the next token.\n",
]


def hugging_face_model(config):
    """GPT2LMHeadModel in float64 with the sizes of our config."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = GPT2Config(
        vocab_size=config["vocab_size"],
        n_positions=config["context_length"],
        n_embd=config["d_model"],
        n_head=config["n_heads"],
        n_layer=config["n_layers"],
        tie_word_embeddings=config["tie_embeddings"],
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return GPT2LMHeadModel(settings).double()


def our_name(name):
    return name[len("transformer.") :] if name.startswith("transformer.") else name


def their_name(name):
    return name if name == "lm_head.weight" else "transformer." + name


def load_parameters(hugging_face, parameters):
    """Give the model these parameters, named as ours. Raises RuntimeError if any does not fit."""
    import torch

    state = {their_name(n): torch.tensor(p, dtype=torch.float64) for n, p in parameters.items()}
    if hugging_face.config.tie_word_embeddings:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    hugging_face.load_state_dict(state, strict=True)


def results(hugging_face, contexts, targets):
    """Logits, mean loss, and every gradient; contexts one by one, so that nothing is padded."""
    import torch

    pieces = [hugging_face(torch.tensor([context])).logits[0] for context in contexts]
    logits = torch.cat(pieces)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets))
    hugging_face.zero_grad()
    loss.backward()
    gradients = {our_name(n): p.grad.tolist() for n, p in hugging_face.named_parameters()}
    return {"logits": logits.tolist(), "loss": loss.item(), "gradients": gradients}


def random_tensor(rng, shape, mean=0.0, std=0.5):
    """Nested lists of normal numbers with four decimals."""
    if not shape:
        return round(rng.gauss(mean, std), 4)
    return [random_tensor(rng, shape[1:], mean, std) for _ in range(shape[0])]


def gpt2_reference(tied):
    """One GPT-2 with random parameters, and what it computes."""
    config = {**SIZES, "tie_embeddings": tied}
    hugging_face = hugging_face_model(config)
    rng = random.Random(f"tied: {tied}")
    parameters = {}
    for name, tensor in hugging_face.named_parameters():
        is_gain = ".ln_" in name and name.endswith("weight")
        parameters[our_name(name)] = random_tensor(rng, tuple(tensor.shape), float(is_gain))
    load_parameters(hugging_face, parameters)
    return {
        "config": config,
        "contexts": CONTEXTS,
        "targets": TARGETS,
        "parameters": parameters,
        **results(hugging_face, CONTEXTS, TARGETS),
    }


DPO_SIZES = {**SIZES, "context_length": 8, "n_layers": 1, "tie_embeddings": True}
DPO_SETTINGS = [{"beta": 0.1, "nll_weight": 0.0}, {"beta": 0.7, "nll_weight": 1.5}]
# Question, chosen answer, rejected answer: ragged; two begin alike, one fills the window.
DPO_PAIRS = [
    [[3, 1, 4], [1, 5, 0], [9, 0]],
    [[2], [0], [6, 5, 3, 5, 8, 7, 9, 0]],
    [[8, 8, 2, 6], [5, 5, 3, 0], [5, 5, 10, 10, 0]],
]


def padded_answer_logs(hugging_face, pairs):
    """The log-probability of every answer token, and a mask of them: both 2P x T, padded.

    The padding is a token like any other; only the mask tells it from the text."""
    import torch

    texts = [(question, answer) for question, *answers in pairs for answer in answers]
    longest = max(len(question) + len(answer) for question, answer in texts)
    rows, mask = [], []
    for question, answer in texts:
        padding = longest - len(question) - len(answer)
        rows.append(question + answer + [7] * padding)
        mask.append([0] * len(question) + [1] * len(answer) + [0] * padding)
    ids, mask = torch.tensor(rows), torch.tensor(mask, dtype=torch.float64)[:, 1:]
    logs = torch.log_softmax(hugging_face(ids[:, :-1]).logits, dim=-1)
    return logs.gather(2, ids[:, 1:, None])[:, :, 0] * mask, mask


def dpo_results(learner, reference, pairs, beta, nll_weight):
    """The paper's formula (its equation 7), the likelihood of the chosen answers beside it."""
    import torch

    logs, mask = padded_answer_logs(learner, pairs)
    with torch.no_grad():
        before, _ = padded_answer_logs(reference, pairs)
    rewards = beta * (logs - before).sum(1)
    chosen, rejected = rewards[0::2], rewards[1::2]
    nll = -logs[0::2].sum(1) / mask[0::2].sum(1)
    loss = (-torch.nn.functional.logsigmoid(chosen - rejected) + nll_weight * nll).mean()
    learner.zero_grad()
    loss.backward()
    return {
        "loss": loss.item(),
        "references": before.sum(1).reshape(-1, 2).tolist(),
        "rewards": torch.stack([chosen, rejected], 1).tolist(),
        "gradients": {our_name(n): p.grad.tolist() for n, p in learner.named_parameters()},
    }


def dpo_reference():
    """Preferences learned by a GPT-2 that is no longer its reference."""
    models, parameters = [], []
    for seed in ("learner", "reference"):
        rng, models = random.Random(seed), [*models, hugging_face_model(DPO_SIZES)]
        named = models[-1].named_parameters()
        parameters.append({our_name(n): random_tensor(rng, tuple(p.shape)) for n, p in named})
        load_parameters(models[-1], parameters[-1])
    return {
        "config": DPO_SIZES,
        "pairs": DPO_PAIRS,
        "learner": parameters[0],
        "reference": parameters[1],
        "results": [{**s, **dpo_results(*models, DPO_PAIRS, **s)} for s in DPO_SETTINGS],
    }


# Conversations as tokens, and the places of those that are learned: ragged, one with two answers,
# one that fills the window.
SFT_LESSONS = [
    [[3, 1, 4, 1, 5, 0], [4, 5]],
    [[2, 6, 0, 5, 3, 5, 0], [1, 2, 5, 6]],
    [[8, 8, 2, 6, 5, 5, 3, 10, 0], [8]],
]


def sft_results(hugging_face, lessons):
    """The mean over all learned tokens of a padded batch, whose other labels are -100."""
    import torch

    longest = max(len(ids) for ids, _ in lessons)
    rows = [ids + [7] * (longest - len(ids)) for ids, _ in lessons]
    labels = [
        [row[place] if place in asked else -100 for place in range(longest)]
        for row, (_, asked) in zip(rows, lessons)
    ]
    ids, labels = torch.tensor(rows), torch.tensor(labels)[:, 1:]
    logits = hugging_face(ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    hugging_face.zero_grad()
    loss.backward()
    gradients = {our_name(n): p.grad.tolist() for n, p in hugging_face.named_parameters()}
    return {"loss": loss.item(), "gradients": gradients}


def sft_reference():
    """Conversations learned by a GPT-2."""
    rng, hugging_face = random.Random("sft"), hugging_face_model(DPO_SIZES)
    parameters = {
        our_name(n): random_tensor(rng, tuple(p.shape)) for n, p in hugging_face.named_parameters()
    }
    load_parameters(hugging_face, parameters)
    results = sft_results(hugging_face, SFT_LESSONS)
    return {"config": DPO_SIZES, "lessons": SFT_LESSONS, "parameters": parameters, **results}


LLAMAS = {  # query heads on heads of keys and values; over 64 positions, where a wrong turn shows
    "llama_3_1": {"d_model": 12, "n_heads": 3, "n_kv_heads": 1, "n_layers": 2, "d_hidden": 10},
    "llama_9_3": {"d_model": 18, "n_heads": 9, "n_kv_heads": 3, "n_layers": 1, "d_hidden": 8},
}
LLAMA_SIZES = {"vocab_size": 11, "context_length": 80, "rope_theta": 500.0, "norm_epsilon": 1e-5}


@contextmanager
def double_everywhere():
    """Hugging Face's Llama computes some steps in float32 whatever it is given; not within this."""
    import safetensors.torch  # noqa: F401  # makes a table of dtypes when it is imported first
    import torch

    before = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = before


def llama_model(config):
    """LlamaForCausalLM in float64 with the sizes of our config. Use it in `double_everywhere`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["context_length"],
        hidden_size=config["d_model"],
        intermediate_size=config["d_hidden"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"],
        num_key_value_heads=config["n_kv_heads"],
        rms_norm_eps=config["norm_epsilon"],
        rope_theta=config["rope_theta"],
        tie_word_embeddings=config["tie_embeddings"],
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(settings).double()


def llama_examples(config):
    """Contexts of several lengths, one beyond 64 positions, and a target for each token."""
    rng, size = random.Random(0), config["vocab_size"]
    contexts = [[rng.randrange(size - 1) for _ in range(length)] for length in (70, 1, 9)]
    return contexts, [rng.randrange(size) for context in contexts for _ in context]


def llama_results(config, parameters):
    """What Hugging Face's Llama computes with these parameters, named as ours."""
    import torch

    with double_everywhere():
        model = llama_model(config)
        state = {n if n == "lm_head.weight" else "model." + n: torch.tensor(p, dtype=torch.float64)
                 for n, p in parameters.items()}  # fmt: skip
        if config["tie_embeddings"]:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state, strict=True)
        found = results(model, *llama_examples(config))
    gradients = {name.removeprefix("model."): g for name, g in found["gradients"].items()}
    return {**found, "gradients": gradients}


def llama_reference(name):
    """One Llama with random parameters, and what it computes."""
    config = {**LLAMA_SIZES, **LLAMAS[name], "tie_embeddings": name == "llama_9_3"}
    rng, parameters = random.Random(name), {}
    with double_everywhere():
        shapes = {n: tuple(p.shape) for n, p in llama_model(config).named_parameters()}
    for their, size in shapes.items():
        is_gain = len(size) == 1
        parameters[their.removeprefix("model.")] = random_tensor(
            rng, size, float(is_gain), 0.3 if is_gain else 0.4
        )
    return {"config": config, "parameters": parameters, **llama_results(config, parameters)}


def torch_adamw(tensors, rate=1e-3):
    """PyTorch's AdamW as ours is: only the matrix decays."""
    import torch

    return torch.optim.AdamW(
        [
            {"params": [tensors["matrix"]], "weight_decay": ADAMW["weight_decay"]},
            {"params": [tensors["vector"]], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(ADAMW["beta1"], ADAMW["beta2"]),
        eps=ADAMW["epsilon"],
    )


def adamw_reference():
    """Twenty steps with given slopes and a new learning rate each; only the matrix decays."""
    import torch

    rng = random.Random("AdamW")
    shapes = {"matrix": (3, 4), "vector": (5,)}
    start = {name: random_tensor(rng, shape) for name, shape in shapes.items()}
    gradients = []
    for step in range(ADAMW_STEPS):
        std = 10.0 ** (step % 5 - 2)  # slopes from 0.01 to 100
        gradients.append({name: random_tensor(rng, s, std=std) for name, s in shapes.items()})
    rates = [round(0.1 * 0.9**step, 6) for step in range(ADAMW_STEPS)]

    tensors = {n: torch.tensor(p, dtype=torch.float64) for n, p in start.items()}
    optimizer = torch_adamw(tensors)
    after = []
    for slopes, rate in zip(gradients, rates):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(slopes[name], dtype=torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        after.append({name: tensor.tolist() for name, tensor in tensors.items()})
    return {
        "options": ADAMW,
        "parameters": start,
        "gradients": gradients,
        "learning_rates": rates,
        "after": after,
    }


def training_reference():
    """Twenty steps as a run makes them: clipped slopes, warm-up and cosine, AdamW."""
    import torch
    from torch.optim import lr_scheduler as schedules

    rng = random.Random("training")
    shapes = {"matrix": (3, 4), "vector": (5,)}
    start = {name: random_tensor(rng, shape) for name, shape in shapes.items()}
    tensors = {n: torch.tensor(p, dtype=torch.float64) for n, p in start.items()}
    optimizer = torch_adamw(tensors, SCHEDULE["peak"])
    warmup = SCHEDULE["warmup_steps"]
    schedule = schedules.SequentialLR(
        optimizer,
        [
            schedules.LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup - 1),
            schedules.CosineAnnealingLR(
                optimizer, ADAMW_STEPS - warmup, eta_min=SCHEDULE["floor"] * SCHEDULE["peak"]
            ),
        ],
        milestones=[warmup],
    )
    steps = []
    for step in range(ADAMW_STEPS):
        std = 10.0 ** (step % 4 - 2)  # slopes from 0.01 to 10: some are clipped, some are not
        slopes = {name: random_tensor(rng, s, std=std) for name, s in shapes.items()}
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(slopes[name], dtype=torch.float64)
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), CLIP)
        rate = schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()
        after = {name: tensor.tolist() for name, tensor in tensors.items()}
        steps.append({"gradients": slopes, "norm": norm.item(), "rate": rate, "after": after})
    return {
        "options": ADAMW, "schedule": SCHEDULE, "clip": CLIP, "parameters": start, "steps": steps
    }  # fmt: skip


def train_hugging_face(texts, vocab_size):
    """Hugging Face's byte-level BPE after training; a pair has to occur twice."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def learned_merges(hugging_face):
    """The merges, each as two names with a space between."""
    merges = json.loads(hugging_face.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def bpe_reference():
    """Merges learned from the corpus, ids of hard texts, and texts of hard ids."""
    from tokenizers import decoders

    corpus = BPE_CORPUS.read_text("utf-8")
    hugging_face = train_hugging_face([corpus], BPE_VOCAB_SIZE)
    hugging_face.decoder = decoders.ByteLevel()
    rng = random.Random("BPE")
    size = hugging_face.get_vocab_size()
    id_lists = [[rng.randrange(size) for _ in range(rng.randrange(1, 9))] for _ in range(60)]
    return {
        "vocab_size": BPE_VOCAB_SIZE,
        "merges": learned_merges(hugging_face),
        "texts": [[text, hugging_face.encode(text).ids] for text in HARD_TEXTS],
        "decoded": [[ids, hugging_face.decode(ids)] for ids in id_lists],
    }


def as_text(data):
    return base64.b64encode(data).decode("ascii")


def gguf_blocks(form):
    """Two blocks of random bytes (of the forms of one number a block: 64), and their floats."""
    import gguf
    import numpy

    length, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[form]]
    rng = numpy.random.default_rng(len(form) + ord(form[1]))
    while True:
        blocks = rng.integers(0, 256, (2 if length > 1 else 64, size), dtype=numpy.uint8)
        for place in GGUF_SCALES.get(form, []):
            scales = rng.uniform(-0.1, 0.1, len(blocks)).astype(numpy.float16)
            blocks[:, place : place + 2] = scales.view(numpy.uint8).reshape(-1, 2)
        with numpy.errstate(all="ignore"):
            floats = gguf.quants.dequantize(blocks.reshape(1, -1), gguf.GGMLQuantizationType[form])
        if numpy.isfinite(floats).all():
            return {"data": as_text(blocks.tobytes()), "floats": as_text(floats.tobytes())}


def paired(matrix, heads):
    """The rows of queries or keys in the order of llama.cpp, as its own converter does it."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)


def gguf_file(reference):
    """The stored Llama as a file that the package `gguf` writes."""
    import gguf
    import numpy

    config = reference["config"]
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_context_length(config["context_length"])
    writer.add_embedding_length(config["d_model"])
    writer.add_block_count(config["n_layers"])
    writer.add_feed_forward_length(config["d_hidden"])
    writer.add_head_count(config["n_heads"])
    writer.add_head_count_kv(config["n_kv_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["d_model"] // config["n_heads"])
    writer.add_layer_norm_rms_eps(config["norm_epsilon"])
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list([chr(97 + i) for i in range(config["vocab_size"])])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["n_layers"])
    for name, numbers in reference["parameters"].items():
        their = name if name.startswith("lm_head") else "model." + name
        tensor = numpy.array(numbers, dtype=numpy.float32)
        for part, heads in (("q_proj", config["n_heads"]), ("k_proj", config["n_kv_heads"])):
            if part in name:
                tensor = paired(tensor, heads)
        writer.add_tensor(names.get_name(their, try_suffixes=(".weight",)), tensor)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return as_text(path.read_bytes())


GGUF_SCALES = {  # where a block has its numbers of 16 bits
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2],
    "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip
GGUF_FORMS = [
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K",
]  # fmt: skip


def gguf_reference():
    """Blocks with their floats, and a file."""
    blocks = {form: gguf_blocks(form) for form in GGUF_FORMS}
    return {"blocks": blocks, "file": gguf_file(read("llama_3_1"))}


def compute(name):
    """What belongs into references/NAME.json."""
    if name == "gguf":
        return gguf_reference()
    if name == "bpe":
        return bpe_reference()
    if name == "adamw":
        return adamw_reference()
    if name == "training":
        return training_reference()
    if name == "dpo":
        return dpo_reference()
    if name == "sft":
        return sft_reference()
    if name in LLAMAS:
        return llama_reference(name)
    return gpt2_reference(tied=name == "gpt2_tied")


def read(name):
    """The stored reference of this name."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


NAMES = ["gpt2_tied", "gpt2_untied", *LLAMAS, "dpo", "sft", "adamw", "training", "bpe", "gguf"]


def main():
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        text = json.dumps(compute(name), separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
