"""tiny_llm: language models in plain Python, every moving part in sight.

The book lies flat in this folder, to be read in the order of the imports below: a file imports only
what stands above it. Everything else stands in rooms behind it, each a folder. This file names what
is public, and plugs the rooms' faster product into chapter 3.
"""

import signal as _signal
import sys as _sys

_is_command = _sys.argv[0] == "-m" or _sys.argv[0].endswith("tiny-lm")
if _is_command and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Until `cli.main` cares for it, Ctrl-C ends the command without a traceback of its imports.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from tiny_llm.tokenizer import CharTokenizer
from tiny_llm.batches import Batches, Examples, Windows, split
from tiny_llm.matmul import plug_in as _plug_in
from tiny_llm.layers import cross_entropy
from tiny_llm.model import LanguageModel
from tiny_llm.mlp_lm import MLPConfig, MLPLanguageModel
from tiny_llm.optimizers import SGD, AdamW, cosine_schedule
from tiny_llm.training import evaluate, on_batches, train
from tiny_llm.sampling import Sampling, generate
from tiny_llm.gradcheck import check_model
from tiny_llm.attention_lm import AttentionConfig, AttentionLanguageModel
from tiny_llm.modern_block import ModernConfig, ModernLanguageModel
from tiny_llm.text.bpe import BPETokenizer
from tiny_llm.text.yardsticks import bigram_loss, guessing_loss
from tiny_llm.fast.products import Chosen as _Chosen

if _sys.byteorder != "little":  # lanes and files count on it, and nobody has asked for the other
    raise ImportError("tiny_llm needs a little-endian machine, and this one is big-endian")

_plug_in(_Chosen("float64"))

__version__ = "0.1.0"

__all__ = [
    "CharTokenizer",
    "Batches",
    "Examples",
    "Windows",
    "split",
    "cross_entropy",
    "LanguageModel",
    "MLPConfig",
    "MLPLanguageModel",
    "SGD",
    "AdamW",
    "cosine_schedule",
    "evaluate",
    "on_batches",
    "train",
    "Sampling",
    "generate",
    "check_model",
    "AttentionConfig",
    "AttentionLanguageModel",
    "ModernConfig",
    "ModernLanguageModel",
    "BPETokenizer",
    "bigram_loss",
    "guessing_loss",
]
