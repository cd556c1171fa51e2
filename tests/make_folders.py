"""Write tests/references/hf_*: folders as `transformers` writes them, with what it computes.

    pip install torch==2.13.0 transformers tokenizers
    python tests/make_folders.py

A tied GPT-2 in one file of float16, with GPT-2's two files of a tokenizer; and a Llama whose LM
head is its own, in several files of bfloat16, with a tokenizer.json that cuts numbers off first and
a template for talking. Both are tiny, with random weights. Beside them stand some of the logits
that these rounded weights give in float64, and what Hugging Face's tokenizer makes of a text.
"""

import json

from make_references import BPE_CORPUS, END_OF_TEXT, FOLDER, double_everywhere

FOLDERS = ["hf_gpt2", "hf_llama"]
CONTEXT = [3, 100, 7, 258, 7, 31]
EVERY = 20  # so many logits are stored for one that is compared
TEXT = "the model reads 1,234 tokens in ²½ lines\n\n  and 日本"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
VOCAB_SIZE = 262


def tokenizer(numbers_first):
    """A byte-level BPE that was trained on the corpus."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if numbers_first:
        cut = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cut])
    made.pre_tokenizer, made.decoder = cut, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([BPE_CORPUS.read_text("utf-8")], trainer)
    return made


def model(name):
    """With random weights that are far from how a model begins."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    both = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    if name == "hf_gpt2":
        made = GPT2LMHeadModel(GPT2Config(n_positions=8, n_embd=4, n_layer=2, n_head=2, **both))
    else:
        made = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=6, intermediate_size=5, num_hidden_layers=1,
                num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=32,
                rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-5,
                **both,
            )
        )  # fmt: skip
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1) / 2, std=0.4)
    return made


def logits(folder):
    """Of every position of CONTEXT, one in EVERY, by the model in the folder in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    with double_everywhere(), torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        rows = loaded(torch.tensor([CONTEXT])).logits[0]
    return [row[::EVERY].tolist() for row in rows]


def main():
    import torch
    from transformers import PreTrainedTokenizerFast

    for name in FOLDERS:
        folder, is_llama = FOLDER / name, name == "hf_llama"
        folder.mkdir(exist_ok=True)
        made = tokenizer(numbers_first=is_llama)
        if is_llama:
            fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END_OF_TEXT)
            fast.chat_template = TEMPLATE
            fast.save_pretrained(folder)
            model(name).to(torch.bfloat16).save_pretrained(folder, max_shard_size=4000)
        else:
            made.model.save(str(folder))
            model(name).half().save_pretrained(folder)
        results = {"ids": made.encode(TEXT).ids, "logits": logits(folder)}
        (folder / "results.json").write_text(json.dumps(results) + "\n", "utf-8")


if __name__ == "__main__":
    main()
