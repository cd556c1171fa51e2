"""Write real_model_reference.json: what Hugging Face computes with the weights of SmolLM2-135M.

    pip install torch==2.13.0 transformers gguf
    python benchmarks/real_model_reference.py SmolLM2-135M-Instruct.Q4_1.gguf

The weights are those of the file, as floats (float32). The text is the beginning of the built-in
corpus, 201 tokens. Of each of the 200 distributions it keeps the logarithms of the KEPT likeliest
tokens and of the one that came: the rest is one event, so a Kullback-Leibler divergence from these
is at most the true one, and nearly all of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
KEPT, TOKENS, DIGITS = 48, 201, 4


def main(file: Path) -> None:
    """Compute, round, write."""
    name = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**name)
    model = AutoModelForCausalLM.from_pretrained(**name, dtype=torch.float32).eval()
    text = (ROOT / "corpus.txt").read_text("utf-8")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:TOKENS]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1]
    logs = logits.double().log_softmax(-1)
    best, tokens = logs.topk(KEPT)
    rounded = [[round(value, DIGITS) for value in row] for row in best.tolist()]
    came = logs[range(TOKENS - 1), ids[1:]].tolist()
    reference = {
        "text": tokenizer.decode(ids),
        "ids": ids,
        "likeliest": tokens.tolist(),
        "log_probabilities": rounded,
        "log_probability_of_the_next": [round(value, DIGITS) for value in came],
    }
    out = ROOT / "benchmarks" / "real_model_reference.json"
    out.write_text(json.dumps(reference, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{out.name}: {out.stat().st_size:,} bytes, loss {-sum(came) / len(came):.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
