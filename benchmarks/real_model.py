"""Measure a real chat model, SmolLM2-135M-Instruct: how fast, in how much memory, how exactly.

    python3 benchmarks/real_model.py MODEL.gguf [PYTHON ...]   measure, with these interpreters
    python3 benchmarks/real_model.py --imported MODEL.gguf [PYTHON ...]   how it loads, imported
    python3 benchmarks/real_model.py --render                  what was measured before

Every interpreter reads the file in a process of its own, with one process and two that multiply.
An interpreter that has torch and transformers is measured with these, in float32, too. Accuracy is
measured against real_model_reference.json. It all adds to real_model.json, and renews the pages.
"""

from __future__ import annotations

import json
import math
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pages import write  # noqa: E402

RESULTS = ROOT / "benchmarks" / "real_model.json"
REFERENCE = ROOT / "benchmarks" / "real_model_reference.json"
READ, WRITTEN, REPEATED = 37, 30, 3  # tokens of a prompt, tokens behind it, times

Results = dict[str, Any]


def peak() -> float:
    """The most memory that this process had, in MB."""
    status = Path("/proc/self/status").read_text("ascii")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def speed(file: str, workers: int) -> Results:
    """In this process: seconds to load, tokens a second, the memory of the main process."""
    began = time.perf_counter()
    run = _loaded(file)
    loaded = time.perf_counter() - began
    from tiny_llm.fast.kv_cache import NOTHING, listen, read_on
    from tiny_llm.fast.shared import shared

    ids = json.loads(REFERENCE.read_text("utf-8"))["ids"]
    with shared(run.model, workers):
        listen(run.model, NOTHING, ids[:2])  # starts the helpers, and compiles on PyPy
        began = time.perf_counter()
        past = listen(run.model, NOTHING, ids[:READ])
        prompt = time.perf_counter() - began
        fastest = math.inf
        for _ in range(REPEATED):
            after, began = past, time.perf_counter()
            for token in ids[READ : READ + WRITTEN]:
                _, (after,) = read_on(run.model, [after], [[token]])
            fastest = min(fastest, time.perf_counter() - began)
    return {
        "load": loaded, "prompt": prompt / READ, "token": fastest / WRITTEN, "memory": peak()
    }  # fmt: skip


def torch_speed(file: str) -> Results:
    """The same token by token with PyTorch, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    path = Path(file)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    ids = json.loads(REFERENCE.read_text("utf-8"))["ids"]
    fastest = math.inf
    with torch.no_grad():
        for _ in range(REPEATED):
            past = model(torch.tensor([ids[:READ]]), use_cache=True).past_key_values
            began = time.perf_counter()
            for token in ids[READ : READ + WRITTEN]:
                out = model(torch.tensor([[token]]), past_key_values=past, use_cache=True)
                past = out.past_key_values
            fastest = min(fastest, time.perf_counter() - began)
    return {"token": fastest / WRITTEN, "memory": peak(), "threads": torch.get_num_threads()}


def accuracy(run: Any) -> Results:
    """In this process: how far the model's distributions are from those of the reference."""
    from tiny_llm.fast.kv_cache import NOTHING, read_on

    reference = json.loads(REFERENCE.read_text("utf-8"))
    ids, past = reference["ids"], NOTHING
    rows = zip(ids, ids[1:], reference["likeliest"], reference["log_probabilities"])
    divergence = agreed = loss = 0.0
    for token, following, likeliest, theirs in rows:
        (logits,), (past,) = read_on(run.model, [past], [[token]])
        highest = max(logits)
        total = highest + math.log(sum(math.exp(logit - highest) for logit in logits))
        ours = [logits[likely] - total for likely in likeliest]
        pairs = [(math.exp(log), log, own) for log, own in zip(theirs, ours)]
        rest = max(1 - sum(p for p, _, _ in pairs), 1e-12)  # one event
        own_rest = max(1 - sum(math.exp(own) for own in ours), 1e-12)
        divergence += sum(p * (log - own) for p, log, own in pairs)
        divergence += rest * math.log(rest / own_rest)
        agreed += logits[likeliest[0]] == highest
        loss -= logits[following] - total
    count, exact = len(ids) - 1, -sum(reference["log_probability_of_the_next"])
    return {
        "tokens": count, "divergence": divergence / count, "agreed": agreed / count,
        "perplexity": math.exp(loss / count), "exact": math.exp(exact / count),
    }  # fmt: skip


def _loaded(file: str) -> Any:
    from tiny_llm.beyond.models import plug_in
    from tiny_llm.run.models import open_model

    plug_in()
    return open_model(Path(file))


def measure(file: str, pythons: list[str]) -> Results:
    """Each interpreter in processes of its own, one after the other."""
    results: Results = {}
    for python in pythons:
        name = _ask(python, "name")["name"]
        for workers in 1, 2:
            results[f"{name}, {workers}"] = _ask(python, "speed", file, str(workers))
        try:
            results["PyTorch float32"] = _ask(python, "torch", file)
        except subprocess.CalledProcessError:
            print(f"{name} has no torch, transformers and gguf", file=sys.stderr)
        results[f"accuracy, {name}"] = _ask(python, "accuracy", file)
    return results


def imported(file: str, pythons: list[str]) -> Results:
    """How soon each interpreter has the model that `tiny-lm import` made of the file."""
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "model.safetensors")
        words = [sys.executable, "-m", "tiny_llm", "import", file, "-o", out, "--quiet"]
        subprocess.run(words, cwd=ROOT, check=True)
        for python in pythons:
            results[f"imported, {_ask(python, 'name')['name']}"] = _ask(python, "load", out)
    return results


def _ask(python: str, *words: str) -> Results:
    command = [python, str(Path(__file__).resolve()), "--part", *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: Results = json.loads(run.stdout.splitlines()[-1])
    print(python, *words[:1], words[2:], answer, file=sys.stderr, flush=True)
    return answer


def part(what: str, *rest: str) -> Results:
    """What a process of its own was asked for."""
    if what == "speed":
        return speed(rest[0], int(rest[1]))
    if what == "load":
        began = time.perf_counter()
        run = _loaded(rest[0])
        return {"load": time.perf_counter() - began, "memory": peak(), "kind": run.rung}
    if what == "torch":
        return torch_speed(*rest)
    if what == "accuracy":
        return accuracy(_loaded(rest[0]))
    version = ".".join(platform.python_version_tuple()[:2])
    return {"name": f"{platform.python_implementation()} {version}"}


def section(results: Results) -> str:
    """Two tables."""
    lines = [
        "| | tokens/s | a token of a prompt, ms | ready to read after, s | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for name, one in results.items():
        if "token" in one:
            kind, _, workers = name.partition(", ")
            how = f"{kind}, {workers} process{'es' * (workers == '2')}" if workers else kind
            rest = (
                "| | | {memory:.0f} |"
                if "load" not in one
                else ("| {0:.0f} | {load:.1f} | {memory:.0f} |")
            )
            cells = rest.format(1000 * one.get("prompt", 0), **one)
            lines.append(f"| {how} | {1 / one['token']:.1f} {cells}")
    lines += [
        "",
        "| int8 weights against floats | tokens | mean KL divergence, nats | same likeliest token |"
        " perplexity | of floats |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        if "divergence" in one:
            lines.append(
                f"| {name.partition(', ')[2]} | {one['tokens']} | {one['divergence']:.4f} | "
                f"{one['agreed']:.1%} | {one['perplexity']:.2f} | {one['exact']:.2f} |"
            )
    ready = [
        f"{one['load']:.1f} s on {name.partition(', ')[2]} ({one['memory']:.0f} MB)"
        for name, one in results.items()
        if name.startswith("imported, ")
    ]
    lines += ["", f"Imported once by `tiny-lm import`, it is ready after {' and '.join(ready)}."]
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and renew the page."""
    what, *rest = sys.argv[1:] or ["--render"]
    if what == "--part":
        print(json.dumps(part(*rest)))
        return
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if what != "--render":
        of, file = (imported, rest.pop(0)) if what == "--imported" else (measure, what)
        results.update(of(str(Path(file).resolve()), rest or [sys.executable]))
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write({"real_model": section(results)})


if __name__ == "__main__":
    main()
