"""The models that came after the rungs, in the one table of models, with what suits them."""

from __future__ import annotations

from tiny_llm.beyond.llama import LlamaConfig, LlamaLanguageModel
from tiny_llm.run.rungs import ON_TASKS, RUNGS, Rung


def plug_in() -> None:
    """From now on, a run can be one of these models."""
    options = {
        "optimizer": "adamw", "learning_rate": 0.008, "warmup_steps": 100, "batch_size": 4
    }  # fmt: skip
    RUNGS["llama"] = Rung(LlamaLanguageModel, LlamaConfig, repeat=18, options=options)
    sizes, options = ON_TASKS["modern"]
    ON_TASKS["llama"] = ({**sizes, "n_kv_heads": 1}, options)
