"""EleutherAI's lm-evaluation-harness measures a served model as it measures others."""

import json
import math

import pytest
from answering import taught
from served import serving

from tiny_llm.cli import main
from tiny_llm.layers import softmax
from tiny_llm.run.saved import save_run

pytestmark = pytest.mark.clients
lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed: .[clients]")
pytest.importorskip("transformers", reason="transformers is not installed: .[reference]")

LINES = [
    {"question": f"{'who ' * (1 + number % 5)}sleeps?", "choices": [" the cat.", " the dog."],
     "label": number % 2, "number": number}
    for number in range(20)
]  # fmt: skip


@pytest.fixture(scope="module")
def run():
    return taught("the cat.", context_length=64)


def log_likelihood(run, question, choice):
    """Of a continuation, by the model itself."""
    encode = run.tokenizer.encode
    ids, before = encode(question + choice), len(encode(question))
    logits, _ = run.model.forward([ids[:-1]])
    return sum(math.log(softmax(logits[i - 1])[ids[i]]) for i in range(before, len(ids)))


def test_the_harness_finds_the_log_likelihoods_of_the_model(run, tmp_path, monkeypatch):
    for offline in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(offline, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    save_run(tmp_path / "m", run)
    folder, lines = tmp_path / "hf", tmp_path / "lines.jsonl"
    assert main(["export", "-c", str(tmp_path / "m"), "--to", "hf", "-o", str(folder)]) == 0
    lines.write_text("\n".join(map(json.dumps, LINES)), encoding="utf-8")
    task = {
        "task": "who_sleeps", "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(lines)}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{question}}", "target_delimiter": "",
        "doc_to_choice": "{{choices}}", "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    with serving(run, running=8, waiting=64) as server:
        found = lm_eval.simple_evaluate(
            model="local-completions",
            model_args={
                "model": "m", "tokenizer": str(folder), "tokenizer_backend": "huggingface",
                "base_url": f"http://127.0.0.1:{server.server_address[1]}/v1/completions",
                "num_concurrent": 4, "max_retries": 1, "max_length": 64,
            },
            tasks=[task], batch_size=1, log_samples=True, bootstrap_iters=0,
        )  # fmt: skip
    samples = found["samples"]["who_sleeps"]
    assert len(samples) == len(LINES)
    right = 0
    for sample in samples:
        line = sample["doc"]
        own = [log_likelihood(run, line["question"], choice) for choice in line["choices"]]
        theirs = [float(answer[0][0]) for answer in sample["resps"]]
        assert theirs == pytest.approx(own, abs=1e-9)
        right += own[line["label"]] > own[1 - line["label"]]
    assert found["results"]["who_sleeps"]["acc,none"] == right / len(LINES)
