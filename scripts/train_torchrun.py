"""Go on with a run in PyTorch, on as many processes as there are, and save what comes of it.

    tiny-lm export -c RUN.safetensors --to torch -o FOLDER
    torchrun --nproc-per-node 2 scripts/train_torchrun.py FOLDER [--stop-after K]
    tiny-lm import FOLDER -o RUN.safetensors

Every process has the whole model, and learns from its share of each batch; the gradients are
averaged while the backward still runs (DistributedDataParallel). Batches, schedule and clipping are
those of the run, by the same code: what PyTorch does here is forward, backward, update. With --fsdp
each process keeps only a part of the weights and of the optimizer's averages.

On GPUs the products are in bfloat16 and everything else in float32; on processors all is in one of
float32 and float64. A process that has gone ends the others; the last checkpoint goes on, with any
number of processes.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

try:
    import torch
    import torch.distributed as dist
    import torch.nn.functional as F
    from torch import Tensor, nn
except ImportError:
    sys.exit("PyTorch is not installed: pip install 'tiny-llm-demo[torch]'")

from tiny_llm.batches import Batches  # noqa: E402
from tiny_llm.beyond.models import plug_in  # noqa: E402
from tiny_llm.files import atomic, checkpoint, hugging_face, safetensors  # noqa: E402
from tiny_llm.files.safetensors import Stored  # noqa: E402
from tiny_llm.run.begin import VAL_TOKENS, schedule_of  # noqa: E402
from tiny_llm.run.errors import UserError  # noqa: E402
from tiny_llm.run.metrics import Metrics  # noqa: E402
from tiny_llm.run.saved import MOMENT, Best  # noqa: E402
from tiny_llm.run.steps import Step  # noqa: E402
from tiny_llm.run.torch_folder import METRICS, RUN, Continued, read, verify  # noqa: E402
from tiny_llm.text.corpus import Spread  # noqa: E402
from tiny_llm.text.orders import Shuffled  # noqa: E402
from tiny_llm.view.progress import Progress  # noqa: E402
from tiny_llm.view.terminal import style_for  # noqa: E402

PATIENCE = timedelta(seconds=50)  # to wait for another process
GONE = ("peer", "onnection", "imed out", "ETIMEDOUT")  # in what gloo says of one
NOTHING = -100  # a target that is none: padding
STATE = {"m": "exp_avg", "v": "exp_avg_sq"}  # AdamW's averages, as PyTorch calls them
DTYPES = {"float32": torch.float32, "float64": torch.float64}

# ---------------------------------------------------------------- the model


class Part(nn.Module):
    """Some of the parameters, by the names that they have in a checkpoint."""

    def __init__(self, begins: str, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.begins = begins
        own = {n[len(begins) :]: w for n, w in weights.items() if n.startswith(begins)}
        self.own = nn.ParameterDict({n.replace(".", "/"): nn.Parameter(w) for n, w in own.items()})

    def w(self, name: str) -> Tensor:
        """The parameter of this name."""
        found: Tensor = self.own[name.replace(".", "/")]
        return found


class Gpt2Block(Part):
    """Rung 3's `block`: attention and the feed-forward network, each added to x."""

    def __init__(self, begins: str, weights: dict[str, Tensor], config: Any, drop: float) -> None:
        super().__init__(begins, weights)
        self.n_heads, self.drop = config.n_heads, drop

    def forward(self, x: Tensor) -> Tensor:
        """B x T x D -> B x T x D."""
        q, k, v = self.linear("attn.c_attn", self.layer_norm("ln_1", x)).chunk(3, -1)
        drop = self.drop if self.training else 0.0
        mixed = attention(heads(q, self.n_heads), heads(k, self.n_heads), heads(v, self.n_heads),
                          drop)  # fmt: skip
        x = x + self.dropped(self.linear("attn.c_proj", mixed))
        wide = self.linear("mlp.c_fc", self.layer_norm("ln_2", x))
        active = F.gelu(wide, approximate="tanh")
        return x + self.dropped(self.linear("mlp.c_proj", active))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """GPT-2 stores these as inputs x outputs."""
        return x @ self.w(name + ".weight") + self.w(name + ".bias")

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        """Over the last axis."""
        return F.layer_norm(x, x.shape[-1:], self.w(name + ".weight"), self.w(name + ".bias"))

    def dropped(self, x: Tensor) -> Tensor:
        """Some of it, while it trains."""
        return F.dropout(x, self.drop, self.training)


class Gpt2(Part):
    """Rung 3."""

    def __init__(self, weights: dict[str, Tensor], config: Any, drop: float) -> None:
        super().__init__("", {n: w for n, w in weights.items() if not n.startswith("h.")})
        names = (f"h.{layer}." for layer in range(config.n_layers))
        self.blocks = nn.ModuleList(Gpt2Block(name, weights, config, drop) for name in names)
        self.head = "wte.weight" if config.tie_embeddings else "lm_head.weight"
        self.drop = drop

    def forward(self, tokens: Tensor) -> Tensor:
        """B x T -> B x T x V."""
        x = F.embedding(tokens, self.w("wte.weight")) + self.w("wpe.weight")[: tokens.shape[1]]
        x = F.dropout(x, self.drop, self.training)
        for block in self.blocks:
            x = block(x)
        x = F.layer_norm(x, x.shape[-1:], self.w("ln_f.weight"), self.w("ln_f.bias"))
        return x @ self.w(self.head).T


class LlamaBlock(Part):
    """The same with Llama's parts."""

    def __init__(self, begins: str, weights: dict[str, Tensor], config: Any) -> None:
        super().__init__(begins, weights)
        self.config = config

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """B x T x D -> B x T x D."""
        size = self.config
        normed = rms_norm(x, self.w("input_layernorm.weight"), size.norm_epsilon)
        q, k, v = (F.linear(normed, self.w(f"self_attn.{part}_proj.weight")) for part in "qkv")
        q = rotate(heads(q, size.n_heads), cosines, sines)
        k = rotate(heads(k, size.n_kv_heads), cosines, sines)
        serves = size.n_heads // size.n_kv_heads
        k, v = (y.repeat_interleave(serves, 1) for y in (k, heads(v, size.n_kv_heads)))
        x = x + F.linear(attention(q, k, v), self.w("self_attn.o_proj.weight"))
        normed = rms_norm(x, self.w("post_attention_layernorm.weight"), size.norm_epsilon)
        gate = F.linear(normed, self.w("mlp.gate_proj.weight"))
        up = F.linear(normed, self.w("mlp.up_proj.weight"))
        return x + F.linear(F.silu(gate) * up, self.w("mlp.down_proj.weight"))


class Llama(Part):
    """beyond/llama.py."""

    def __init__(self, weights: dict[str, Tensor], config: Any, drop: float = 0.0) -> None:
        super().__init__("", {n: w for n, w in weights.items() if not n.startswith("layers.")})
        names = (f"layers.{layer}." for layer in range(config.n_layers))
        self.blocks = nn.ModuleList(LlamaBlock(name, weights, config) for name in names)
        self.head = "embed_tokens.weight" if config.tie_embeddings else "lm_head.weight"
        self.config = config

    def forward(self, tokens: Tensor) -> Tensor:
        """B x T -> B x T x V."""
        table, size = self.w("embed_tokens.weight"), self.config
        pairs = torch.arange(size.head_width // 2, dtype=torch.float64, device=tokens.device)
        places = torch.arange(tokens.shape[1], dtype=torch.float64, device=tokens.device)
        angles = places[:, None] * size.rope_theta ** (-2 * pairs / size.head_width)
        turn = angles.cos().to(table.dtype), angles.sin().to(table.dtype)
        x = F.embedding(tokens, table)
        for block in self.blocks:
            x = block(x, *turn)
        return F.linear(rms_norm(x, self.w("norm.weight"), size.norm_epsilon), self.w(self.head))


def heads(x: Tensor, count: int) -> Tensor:
    """B x T x D -> B x H x T x W."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, drop: float = 0.0) -> Tensor:
    """B x H x T x W three times -> B x T x D: softmax(q k^T / sqrt(W)) v, with no look ahead."""
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=drop)
    return mixed.transpose(1, 2).flatten(2)


def rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """As LayerNorm, without the mean."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * gain


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Number i makes a pair with number i + W / 2, which turns by its angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosines - b * sines, b * cosines + a * sines], -1)


MODELS = {"modern": Gpt2, "llama": Llama}


def named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters by the names that they have in a checkpoint."""
    for part in model.modules():
        if isinstance(part, Part):
            for key, parameter in part.own.items():
                yield part.begins + key.replace("/", "."), parameter


# ---------------------------------------------------------------- batches


class Share(NamedTuple):
    """What one process learns from a batch."""

    tokens: Tensor  # B x T, filled up with zeros
    targets: Tensor  # B x T, NOTHING where there is none


def share_of(contexts: Any, targets: Any, rank: int, count: int, device: Any) -> Share:
    """The contexts of this process, one after the other. Where there are too few, the last batch of
    a pass, a process may get one that asks for nothing."""
    first, last = (len(contexts) * part // count for part in (rank, rank + 1))
    mine, given = contexts[first:last] or contexts[:1], iter(targets)
    for context in contexts[:first]:
        for _ in context:
            next(given)
    width = max(map(len, mine))
    rows = [context + [0] * (width - len(context)) for context in mine]
    wanted = [
        [next(given) if i < len(c) else NOTHING for i in range(width)] for c in mine[: last - first]
    ]
    wanted = wanted or [[NOTHING] * width]
    return Share(torch.tensor(rows, device=device), torch.tensor(wanted, device=device))


def summed_loss(model: nn.Module, share: Share) -> Tensor:
    """Cross-entropy, summed over the predictions: softmax and logarithm in one."""
    logits = model(share.tokens)
    return F.cross_entropy(
        logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)),
        share.targets.flatten(), ignore_index=NOTHING, reduction="sum",
    )  # fmt: skip


# ---------------------------------------------------------------- a run


class Trainer:
    """A run that goes on."""

    def __init__(self, folder: Path, run: Continued, args: argparse.Namespace) -> None:
        self.folder, self.run, self.args = folder, run, args
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else "cpu"
        self.dtype = torch.float32 if gpu else DTYPES[args.dtype]
        self.step, self.best, self.recent = run.step, run.best, run.recent
        weights = {
            name: self._tensor(stored)
            for name, stored in run.tensors.items()
            if not name.startswith(MOMENT)
        }
        self.model: Any = MODELS[run.rung](weights, run.config, run.options.dropout)
        self.optimizer = self._optimizer()
        self.wrapped = self._wrapped()
        length = run.config.context_length
        self.batches = Batches(
            run.train.examples(length, True), run.options.batch_size, run.options.seed, Shuffled
        )
        self.held_out = Spread(run.val.examples(length, True), VAL_TOKENS)

    def _tensor(self, stored: Stored) -> Tensor:
        (part,) = stored.parts
        whole = torch.frombuffer(bytearray(part), dtype=torch.float64)
        return whole.reshape(stored.shape).to(self.device, self.dtype)

    def _wrapped(self) -> Any:
        """The model that knows of the other processes."""
        if self.args.compile:
            self.model.compile()
        if self.args.fsdp:
            return self.model
        return nn.parallel.DistributedDataParallel(self.model)

    def _optimizer(self) -> torch.optim.Optimizer:
        """Behind `--fsdp`, which puts parts of the parameters in their place, with its averages."""
        options = self.run.options
        if self.args.fsdp:
            from torch.distributed.fsdp import fully_shard

            for block in self.model.blocks:
                fully_shard(block)
            fully_shard(self.model)
        # As they are between steps: within, FSDP puts whole ones in their place.
        self.parameters = parameters = dict(named(self.model))
        if options.optimizer == "sgd":
            return torch.optim.SGD(parameters.values(), options.learning_rate)
        groups = [
            {"params": [p for p in parameters.values() if p.dim() > 1]},
            {"params": [p for p in parameters.values() if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, options.learning_rate, (options.beta1, options.beta2), 1e-8,
            options.weight_decay,
        )  # fmt: skip
        for name, parameter in parameters.items() if self.step else ():
            state = optimizer.state[parameter]
            state["step"] = torch.tensor(float(self.step))
            for short, long in STATE.items():
                whole = self._tensor(self.run.tensors[f"{MOMENT}{short}.{name}"])
                state[long] = like(whole, parameter)
        return optimizer

    def learn(self) -> Step:
        """One step."""
        began, options = time.perf_counter(), self.run.options
        accumulation = options.gradient_accumulation_steps
        first = self.step * accumulation
        parts = [self.batches.batch(first + part) for part in range(accumulation)]
        predictions = sum(len(targets) for _, targets in parts)
        rate = schedule_of(options)(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # What is dropped follows from the step and the process, as it does here from the step.
        torch.manual_seed((options.seed * 1_000_003 + self.step) * 4096 + self.rank)
        self.optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for number, part in enumerate(parts):
            with self._quiet(number < accumulation - 1), self._precision():
                summed = summed_loss(
                    self.wrapped, share_of(*part, self.rank, self.count, self.device)
                )
            with self._quiet(number < accumulation - 1):
                # A mean over processes of what are parts of one mean over all predictions.
                (summed * self.count / predictions).backward()
            total += summed.detach().double().cpu()
        dist.all_reduce(total)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.grad_clip or float("inf"))
        self.optimizer.step()
        self.step += 1
        norm = norm.full_tensor() if self.args.fsdp else norm
        loss = float(total) / predictions
        self.recent.add(loss)
        return Step(self.step, loss, rate, predictions, float(norm), None, None,
                    time.perf_counter() - began)  # fmt: skip

    def _quiet(self, is_quiet: bool) -> Any:
        """Gradients of a batch that others follow in its step are not sent yet."""
        if self.args.fsdp:
            self.model.set_requires_gradient_sync(not is_quiet)
            return nullcontext()
        return self.wrapped.no_sync() if is_quiet else nullcontext()

    def _precision(self) -> Any:
        if self.device == "cpu":
            return nullcontext()
        return torch.autocast("cuda", torch.bfloat16)

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss on the held-out part, each process its share of it."""
        self.wrapped.eval()
        sums = torch.zeros(2, dtype=torch.float64)
        at_once = self.run.options.batch_size
        for first in range(0, len(self.held_out), at_once):
            numbers = range(first, min(first + at_once, len(self.held_out)))
            share = share_of(*self.held_out.take(numbers), self.rank, self.count, self.device)
            sums[0] += summed_loss(self.wrapped, share).double().cpu()
            sums[1] += (share.targets != NOTHING).sum().cpu()
        dist.all_reduce(sums)
        self.wrapped.train()
        return float(sums[0] / sums[1])

    def save(self, folder: Path) -> None:
        """The run as it is. All processes take part, the first one writes."""
        tensors = {}
        for name, parameter in self.parameters.items():
            tensors[name] = whole_of(parameter)
            for short, long in STATE.items() if self.run.options.optimizer == "adamw" else ():
                state = self.optimizer.state[parameter]
                tensors[f"{MOMENT}{short}.{name}"] = whole_of(state[long])
        if self.rank:
            return
        metadata = {
            **self.run.metadata, "step": self.step, "best": self.best and self.best.__dict__,
            "recent": dataclasses.asdict(self.recent),
        }  # fmt: skip
        order = [name for name in self.run.tensors if name in tensors]
        order += [name for name in tensors if name not in order]
        stored = {name: stored_of(tensors[name]) for name in order}
        checkpoint.write(folder / RUN, stored, metadata)
        self._save_model(folder, stored)

    def _save_model(self, folder: Path, stored: dict[str, Stored]) -> None:
        """The weights for those who read Hugging Face's folders: after the checkpoint, which is
        what counts."""
        path = folder / hugging_face.WEIGHTS
        kind = self.run.rung
        weights = {
            hugging_face.stored_name(kind, name): tensor
            for name, tensor in stored.items()
            if not name.startswith(MOMENT)
        }
        atomic.replace_file(path, safetensors.content({"format": "pt"}, weights))


def like(whole: Tensor, parameter: Tensor) -> Tensor:
    """The part of it that this process keeps, as of the parameter."""
    if not hasattr(parameter, "device_mesh"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh: Any = parameter
    return distribute_tensor(whole, mesh.device_mesh, mesh.placements)


def whole_of(tensor: Any) -> Tensor:
    """All of it as doubles, in the memory of the processor."""
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    found: Tensor = whole.detach().double().cpu().contiguous()
    return found


def stored_of(tensor: Tensor) -> Stored:
    """As it lies in a file."""
    content = ctypes.string_at(tensor.data_ptr(), tensor.nbytes)
    return Stored("F64", tuple(tensor.shape), [content])


# ---------------------------------------------------------------- the command


def train(trainer: Trainer, folder: Path, args: argparse.Namespace) -> None:
    """Up to its end, or to --stop-after."""
    options, is_first = trainer.run.options, trainer.rank == 0
    last = min(args.stop_after or options.steps, options.steps)
    style = style_for(sys.stderr, "auto")
    progress = Progress(sys.stderr, style, options.steps, trainer.step, not is_first)
    progress.note(
        f"{folder}: step {trainer.step} of {options.steps}, {trainer.count} processes, "
        f"{trainer.dtype} on {trainer.device}"
    )
    metrics = Metrics(folder / METRICS, trainer.step) if is_first else None
    while trainer.step < last and not is_exhausted(trainer):
        step = trainer.learn()
        if step.loss != step.loss or step.loss == float("inf"):
            raise UserError(f"step {step.number} has a loss of {step.loss}; the checkpoint before "
                            f"it is left as it was")  # fmt: skip
        is_best = False
        if step.number % options.eval_every == 0 or step.number == options.steps:
            val_loss, train_loss = trainer.evaluate(), trainer.recent.take()
            is_best = not trainer.best or val_loss < trainer.best.val_loss
            trainer.best = Best(step.number, val_loss) if is_best else trainer.best
            step = dataclasses.replace(step, train_loss=train_loss, val_loss=val_loss)
        progress.step(step)
        if metrics:
            metrics.write(step)
        if step.number == last or step.number % (args.save_every or options.eval_every) == 0:
            trainer.save(folder)
    progress.note(f"saved {folder}: step {trainer.step}")


def is_exhausted(trainer: Trainer) -> bool:
    """Whether its patience has run out, as in `train`."""
    options, best = trainer.run.options, trainer.best
    if not options.patience or not best:
        return False
    return trainer.step - best.step >= options.patience * options.eval_every


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="made by tiny-lm export --to torch")
    parser.add_argument("--stop-after", type=int, metavar="K", help="end at step K of the run")
    parser.add_argument("--save-every", type=int, metavar="N", help="steps (each validation)")
    parser.add_argument("--tokens", type=Path, help="where the token file is on this machine")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="on processors")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--fsdp", action="store_true", help="share out the weights themselves")
    return parser.parse_args()


def checked(args: argparse.Namespace, rank: int, count: int) -> Continued:
    """The run. Raises UserError if it cannot go on like this."""
    run = read(args.folder, args.tokens)
    if run.options.batch_size % count:
        raise UserError(
            f"{count} processes cannot share batches of {run.options.batch_size} contexts evenly; "
            f"take a number of processes that divides it"
        )
    if args.stop_after and args.stop_after <= run.step:
        raise UserError(f"--stop-after {args.stop_after} lies behind: the run is at {run.step}")
    if rank == 0:
        verify(run)
    return run


def main() -> int:
    """The exit code: 0, or 1 with one line that says why."""
    args = arguments()
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 0))
    if not count:
        print("start it with torchrun, for example: torchrun --nproc-per-node 2 "
              f"{sys.argv[0]} FOLDER", file=sys.stderr)  # fmt: skip
        return 2
    plug_in()
    try:
        run = checked(args, rank, count)
    except UserError as error:
        return refused(error, rank)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    signal.signal(signal.SIGTERM, lambda *_: gone(args.folder, rank))
    try:
        train(Trainer(args.folder, run, args), args.folder, args)
        dist.barrier()
    except UserError as error:
        return refused(error, rank)
    except RuntimeError as error:
        if (
            "peer" not in str(error)
            and "onnection" not in str(error)
            and "imed out" not in str(error)
        ):
            raise
        gone(args.folder, rank)
    return 0


def refused(error: UserError, rank: int) -> int:
    """Say why, once: all processes find the same, and the first that ends ends the others."""
    if rank:
        time.sleep(10)
    else:
        print(f"train_torchrun: error: {error}", file=sys.stderr, flush=True)
    return 1


def gone(folder: Path, rank: int) -> None:
    """Another process has gone: say what is left, and go."""
    print(
        f"train_torchrun: process {rank} ends, because another one has gone; {folder} holds the "
        f"last checkpoint: start it again, with any number of processes",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo may abort a process that has done its work and ends as usual
