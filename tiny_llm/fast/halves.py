"""The two halves of a packed model: half of its heads, of its feed-forward and of its vocabulary.

    x --+--> queries, keys, values of heads 0-4 --> attention --> half of what is mixed --+
        |                                                                                (+)--> x
        +--> queries, keys, values of heads 5-8 --> attention --> the other half ---------+

A head works on its own until the last matrix of attention adds all of them up, and a number of the
feed-forward until its last matrix does. So a half has the outputs that belong to its heads and its
numbers, and reads the inputs of the last matrices that come from there. What it makes of these is
a part of a sum, which only the two together know: tensor parallelism (Shoeybi et al., 2019,
Megatron-LM). shared.py gives each half to a process.

Inputs are rounded half by half, in one process, too: so both give the same bits.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Callable, NamedTuple

from tiny_llm.fast.packed import Kernel, Packed
from tiny_llm.matmul import Matrix, Rows
from tiny_llm.model import LanguageModel

Range = tuple[int, int]  # from, to
Add = Callable[[Matrix], Matrix]  # the rows of one half -> the sum of both halves' rows


class Ranges(NamedTuple):
    """What a half has of one matrix, in order, and of which side."""

    outputs: list[Range]
    inputs: list[Range]


class Sizes(NamedTuple):
    """What decides where a model is cut."""

    heads: int
    key_heads: int  # each serves `heads` / `key_heads` heads of queries
    head_width: int
    hidden: int  # numbers of the feed-forward
    vocabulary: int

    def of(self, half: int) -> dict[str, list[Range]]:
        """What this half has of heads, heads of keys, the feed-forward and the vocabulary."""
        group = self.heads // self.key_heads
        heads = _half(self.heads, half)
        keys = range(heads.start // group, (heads.stop - 1) // group + 1)
        hidden, vocabulary = _half(self.hidden, half), _half(self.vocabulary, half)
        width = self.head_width
        return {
            "q": [(heads.start * width, heads.stop * width)],
            "kv": [(key * width, (key + 1) * width) for key in keys],
            "qkv": [
                (part * self.heads * width + heads.start * width,
                 part * self.heads * width + heads.stop * width) for part in range(3)
            ],
            "hidden": [(hidden.start, hidden.stop)],
            "vocabulary": [(vocabulary.start, vocabulary.stop)],
        }  # fmt: skip


# The end of a name: what a half has of the outputs, and of the inputs. None: all.
CUTS = {
    "self_attn.q_proj.weight": ("q", None),
    "self_attn.k_proj.weight": ("kv", None),
    "self_attn.v_proj.weight": ("kv", None),
    "self_attn.o_proj.weight": (None, "q"),
    "mlp.gate_proj.weight": ("hidden", None),
    "mlp.up_proj.weight": ("hidden", None),
    "mlp.down_proj.weight": (None, "hidden"),
    "attn.c_attn.weight": ("qkv", None),
    "attn.c_attn.bias": ("qkv", None),
    "attn.c_proj.weight": (None, "q"),
    "mlp.c_fc.weight": ("hidden", None),
    "mlp.c_fc.bias": ("hidden", None),
    "mlp.c_proj.weight": (None, "hidden"),
    "embed_tokens.weight": ("vocabulary", None),
    "wte.weight": ("vocabulary", None),
    "lm_head.weight": ("vocabulary", None),
}


class Pieces:
    """Kernels side by side, in the place of one: the outputs of one after those of the other."""

    def __init__(self, kernels: Sequence[Any]) -> None:
        self.kernels, self.unit = kernels, kernels[0].unit
        self.outputs = sum([kernel.outputs for kernel in kernels])

    def sums(self, factors: Sequence[int]) -> list[int]:
        """As a kernel has it."""
        return [total for kernel in self.kernels for total in kernel.sums(factors)]

    def part(self, start: int, stop: int) -> Pieces:
        """The outputs from start to stop alone. Whole pieces are shared, not copied."""
        parts, first = [], 0
        for kernel in self.kernels:
            begin, end = max(start - first, 0), min(stop - first, kernel.outputs)
            if begin < end:
                whole = end - begin == kernel.outputs
                parts.append(kernel if whole else kernel.part(begin, end))
            first += kernel.outputs
        return Pieces(parts)

    def numbers_of(self, output: int) -> array[int]:
        """The int8 weights of one output: K."""
        for kernel in self.kernels:
            if output < kernel.outputs:
                numbers: array[int] = kernel.numbers_of(output)
                return numbers
            output -= kernel.outputs
        raise IndexError("there is no such output")

    def numbers(self) -> list[bytes]:
        """The int8 weights of every input: K times M."""
        return [b"".join(pieces) for pieces in zip(*[kernel.numbers() for kernel in self.kernels])]


class Table(Packed):
    """Half of the outputs of a table all of whose rows can be looked up."""

    whole: Packed

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: Any) -> Any:
        return self.whole[index]


class Summed(Packed):
    """Half of the inputs of a matrix: what it makes of them is a part of each sum."""

    add: Add

    def multiply(
        self, a: Rows, transposed: bool, in_floats: Callable[[Rows, Rows], Matrix]
    ) -> Matrix:
        """As Packed has it, of both halves together."""
        return self.add(super().multiply(a, transposed, in_floats))


def sizes_of(model: Any) -> Sizes:
    """Where the model can be cut. Raises ValueError for one that cannot."""
    parts = [CUTS[end] for name in model.parameters for end in CUTS if name.endswith("." + end)]
    if not parts:
        raise ValueError("this kind of model is run by one process; leave --workers out")
    config, hidden = model.config, 0
    for name, tensor in model.parameters.items():
        if name.endswith(("mlp.down_proj.weight", "mlp.c_proj.weight")):
            hidden = tensor.inputs
    if config.n_heads < 2 or hidden < 2:
        raise ValueError("a model with one head is run by one process; leave --workers out")
    key_heads = getattr(config, "n_kv_heads", config.n_heads)
    width = config.d_model // config.n_heads
    return Sizes(config.n_heads, key_heads, width, hidden, config.vocab_size)


def cut(model: LanguageModel, sizes: Sizes, add: Add) -> list[dict[str, Any]]:
    """The parameters of both halves, of which each adds by `add` what the other makes of a row.

    The model itself keeps the same numbers in pieces, and so all that it could do.
    """
    parameters: list[dict[str, Any]] = [{}, {}]
    for name, tensor in model.parameters.items():
        by_half = [_ranges(name, sizes.of(half)) for half in (0, 1)]
        halves: list[Any] = [tensor, tensor]
        if isinstance(tensor, Packed) and by_half[0].outputs:
            halves = _by_outputs(tensor, [ranges.outputs for ranges in by_half])
        elif isinstance(tensor, Packed) and by_half[0].inputs:
            halves = _by_inputs(tensor, [ranges.inputs[0] for ranges in by_half])
            for part in halves:
                part.add = add
        elif by_half[0].outputs:
            halves = [_joined(tensor, ranges.outputs) for ranges in by_half]
        for own, half in zip(parameters, halves):
            own[name] = half
    return parameters


def round_by_halves(model: LanguageModel, sizes: Sizes) -> None:
    """One process that rounds as two would: the same bits."""
    for name, tensor in model.parameters.items():
        inputs = [_ranges(name, sizes.of(half)).inputs for half in (0, 1)]
        if isinstance(tensor, Packed) and inputs[0]:
            _by_inputs(tensor, [ranges[0] for ranges in inputs])


def config_of(model: Any, sizes: Sizes, half: int) -> Any:
    """The model's config, as the half sees it: with its own heads, each as wide as before."""
    values = {f.name: getattr(model.config, f.name) for f in dataclasses.fields(model.config)}
    heads, group = _half(sizes.heads, half), sizes.heads // sizes.key_heads
    values.update(n_heads=len(heads), n_kv_heads=len(sizes.of(half)["kv"]))
    values.update(head_width=sizes.head_width, group=group, first_head=heads.start % group)
    return SimpleNamespace(**values)


def _half(count: int, half: int) -> range:
    middle = (count + 1) // 2
    return range(middle, count) if half else range(middle)


def _ranges(name: str, own: dict[str, list[Range]]) -> Ranges:
    for end, (outputs, inputs) in CUTS.items():
        if name == end or name.endswith("." + end):
            return Ranges(own[outputs] if outputs else [], own[inputs] if inputs else [])
    return Ranges([], [])


def _joined(row: Sequence[Any], ranges: Sequence[Range]) -> list[Any]:
    return [value for start, stop in ranges for value in row[start:stop]]


def _by_outputs(whole: Packed, ranges: list[list[Range]]) -> list[Table]:
    """Both halves of the outputs; some may be in both."""
    halves: list[list[Any]] = [[], []]
    kernels = []
    for inputs, kernel in whole.kernels:
        pieces = {one: kernel.part(*one) for one in sorted({*ranges[0], *ranges[1]})}
        kernels.append((inputs, Pieces(list(pieces.values()))))
        for half in (0, 1):
            halves[half].append((inputs, Pieces([pieces[one] for one in ranges[half]])))
    whole.halves = [kernels]
    made = []
    for half in (0, 1):
        scales = _joined(whole.scales, ranges[half]) if whole.is_table else whole.scales
        part = Table.of(halves[half], scales, whole.is_table)
        part.whole = whole
        made.append(part)
    return made


def _by_inputs(whole: Packed, ranges: list[Range]) -> list[Summed]:
    """Both halves of the inputs. Whoever multiplies with one has a part of each sum."""
    made, halves = [], []
    for start, stop in ranges:
        pieces: list[tuple[slice, Kernel]] = []
        for inputs, kernel in whole.kernels:
            first, last = max(start, inputs.start), min(stop, inputs.stop)
            if first < last:
                piece = kernel.part_of_inputs(first - inputs.start, last - inputs.start)
                pieces.append((slice(first, last), piece))
        halves.append(pieces)
        own = [(slice(s.start - start, s.stop - start), piece) for s, piece in pieces]
        scales = whole.scales if whole.is_table else whole.scales[start:stop]
        made.append(Summed.of(own, scales, whole.is_table))
    whole.halves = halves
    return made
