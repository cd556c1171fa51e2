"""tiny_llm: language models in plain Python, every moving part in sight.

The files in reading order, which is the order in which data flow: a module imports only what stands
above it (this one and the command line may import all). The public names are listed in that order.
"""

from tiny_llm.tokenizer import CharTokenizer
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.token_file import open_tokens
from tiny_llm.batches import Batches, Lines, split, split_lines
from tiny_llm.text.yardsticks import bigram_loss, guessing_loss
from tiny_llm.layers import cross_entropy
from tiny_llm.mlp_lm import MLPConfig, MLPLanguageModel
from tiny_llm.gradcheck import check_model
from tiny_llm.optimizers import SGD, AdamW, cosine_schedule
from tiny_llm.training import evaluate, train
from tiny_llm.sampling import generate, generate_batch
from tiny_llm.attention_lm import AttentionConfig, AttentionLanguageModel
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel

__version__ = "0.1.0"

__all__ = [
    "CharTokenizer",
    "BPETokenizer",
    "open_tokens",
    "Batches",
    "Lines",
    "split",
    "split_lines",
    "bigram_loss",
    "guessing_loss",
    "cross_entropy",
    "MLPConfig",
    "MLPLanguageModel",
    "check_model",
    "SGD",
    "AdamW",
    "cosine_schedule",
    "evaluate",
    "train",
    "generate",
    "generate_batch",
    "AttentionConfig",
    "AttentionLanguageModel",
    "ModernConfig",
    "ModernLanguageModel",
]
