"""Measure from which size on a second process pays: where `PAYS` in `fast/workers.py` comes from.

    python3 benchmarks/workers.py

Trains models of rung 3 of growing size by one process and by two, in turn, and prints for each how
many multiply-adds a step takes (as `workers.step_cost` counts them), and the ratio of the times.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tiny_llm import AdamW, ModernConfig, ModernLanguageModel
from tiny_llm.fast import bench, workers

SIZES = (
    bench.Size("", ModernConfig(40, 8, 16, n_heads=4, n_layers=1), 2),
    bench.Size("", ModernConfig(40, 16, 24, n_heads=4, n_layers=1), 2),
    bench.Size("", ModernConfig(40, 16, 24, n_heads=4, n_layers=1), 8),
    bench.Size("", ModernConfig(40, 16, 32, n_heads=4, n_layers=2), 8),
    bench.Size("", ModernConfig(65, 32, 48, n_heads=4, n_layers=2), 8),
    bench.Size("", ModernConfig(65, 64, 64, n_heads=4, n_layers=2), 8),
    bench.Size("", ModernConfig(65, 64, 96, n_heads=4, n_layers=3), 8),
)
ROUNDS = 3


def seconds(size: bench.Size) -> list[float]:
    """A step by one process and by two: each the best of several, in turn."""
    contexts, targets = bench.random_batch(size, seed=0)
    model, optimizer = ModernLanguageModel(size.config, seed=0), AdamW()
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index in range(2):
            with workers.Workers(model, index + 1, "auto") as group:

                def step(group: workers.Workers = group) -> None:
                    _, gradients = group.gradients(contexts, targets)
                    optimizer.update(model.parameters, gradients)

                best[index] = min(best[index], bench.best_seconds(step, seconds=1.0, least=3))
    return best


def main() -> None:
    """Measure and print."""
    print(f"{platform.python_implementation()} {platform.python_version()}\n")
    print(f"{'multiply-adds':>13}{'one, ms':>10}{'two, ms':>10}{'speed':>8}")
    for size in SIZES:
        one, two = seconds(size)
        cost = workers.step_cost(ModernLanguageModel(size.config, seed=0), size.sequences)
        print(f"{cost:>13,}{one * 1e3:>10.1f}{two * 1e3:>10.1f}{one / two:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
