"""A tiny model that has the tokens to answer with, and preferences about its answers."""

import json

from tiny_llm import AdamW, ModernConfig, ModernLanguageModel
from tiny_llm.beyond.chat import OWN, Message
from tiny_llm.beyond.pairs import laid_out
from tiny_llm.beyond.preferences import Preference, pair_of
from tiny_llm.files.portable import Chat
from tiny_llm.run.asked import OnlyAsked
from tiny_llm.run.options import Options
from tiny_llm.run.rungs import build_optimizer
from tiny_llm.run.saved import Run
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.training import loss_and_gradients

TOKENIZER = BPETokenizer.train("who sleeps? the cat. the dog. " * 9, 280, sorted(OWN.markers))
CHAT = Chat(OWN.jinja, (TOKENIZER.special_tokens["<|end|>"],))
WHO = ["who sleeps?", "sleeps who?", "the cat sleeps?", "the dog sleeps?", "who? who?"]


def base(model=None, context_length=24):
    """A run that has not begun, with this model, or with one of rung 3."""
    config = ModernConfig(TOKENIZER.vocab_size, context_length, 8, n_heads=2, n_layers=1)
    model = model or ModernLanguageModel(config, seed=1)
    rung = type(model).__name__.replace("LanguageModel", "").lower()
    return Run(rung, model, TOKENIZER, build_optimizer(Options()), Options(), chat=CHAT)


def taught(answer, steps=60, context_length=24):
    """One that has learned to say this when it is asked who sleeps."""
    run = base(context_length=context_length)
    preference = Preference(1, [Message("user", WHO[0])], answer, "")
    contexts, targets, (length, _) = laid_out([pair_of(preference, OWN, TOKENIZER)])
    optimizer, model = AdamW(0.02), OnlyAsked(run.model)
    for _ in range(steps):
        _, slopes = loss_and_gradients(model, contexts[:1], targets[:length])
        optimizer.update(run.model.parameters, slopes)
    return run


def preference_lines(count=10):
    """So many different ones, of which all prefer the same answer."""
    questions = [WHO[i % 5] * (1 + i // 5) for i in range(count)]
    return [
        json.dumps({"prompt": question, "chosen": "the cat.", "rejected": "the dog."})
        for question in questions
    ]
