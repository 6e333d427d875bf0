"""Planned weights packed with compensation: which rows share a Hessian, and what came out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from tqs_fast._files import encode_array
from tqs_fast.compensation import Compensation, compensate
from tqs_fast.kernels import PackedWeight
from tqs_fast.quantization.blocks import Block
from tqs_fast.quantization.weights import Weight, parameter_of
from tqs_fast.rewriting.hessians import Hessians

if TYPE_CHECKING:
    from tqs_fast.allocation.plan import Plan


def pack_compensated(
    module: nn.Module,
    planned: Sequence[tuple[Weight, list[Block]]],
    plan: Plan,
    settings: Compensation,
    hessians: Hessians,
) -> tuple[dict[str, PackedWeight], dict[str, Any]]:
    """Packed rows by block name, and how they were made, as JSON values.

    A weight that multiplied nothing is rounded to nearest, as are rows of one that did not.
    """
    packed: dict[str, PackedWeight] = {}
    errors: dict[str, Any] = {}
    for weight, blocks in planned:
        matrix = parameter_of(module, weight).detach().float().cpu().flatten(1).numpy()
        rounded, before, after = _pack_weight(matrix, blocks, plan, settings, hessians, weight.name)
        packed |= rounded
        if before > 0:
            errors[weight.name] = encode_array(after / before)
    evidence = {
        **asdict(settings),
        "initial": hessians.description,
        "inputs": hessians.inputs,
        "unseen": [name for name, parts in hessians.of_weight.items() if not parts],
        "output_error_over_nearest": errors,
    }
    return packed, evidence


def _pack_weight(
    matrix: np.ndarray[Any, np.dtype[np.float32]],
    blocks: list[Block],
    plan: Plan,
    settings: Compensation,
    hessians: Hessians,
    name: str,
) -> tuple[dict[str, PackedWeight], float, float]:
    """Packed rows by block name, and the squared error of the outputs rounded to nearest, and compensated."""
    rows = matrix.shape[0]
    pieces: dict[str, list[tuple[int, PackedWeight]]] = {block.name: [] for block in blocks}
    before = after = 0.0
    seen = hessians.of_weight[name]
    for first, end, hessian in [*seen, *_rest(rows, seen)]:
        inside = [
            (block, max(first, block.first), min(end, block.end))
            for block in blocks
            if max(first, block.first) < min(end, block.end)
        ]
        nearest = [plan.quantizer.pack(torch.from_numpy(matrix[a:b]), _bits(plan, block)) for block, a, b in inside]
        chosen = nearest
        if hessian is not None:
            chosen = compensate(
                [(matrix[a:b], _bits(plan, block)) for block, a, b in inside],
                hessian,
                quantizer=plan.quantizer,
                settings=settings,
                threads=torch.get_num_threads(),
            )
            for (_, a, b), old, new in zip(inside, nearest, chosen, strict=True):
                before += _squared(matrix[a:b], old, hessian)
                after += _squared(matrix[a:b], new, hessian)
        for (block, a, _), piece in zip(inside, chosen, strict=True):
            pieces[block.name].append((a, piece))
    return (
        {
            name: _joined([piece for _, piece in sorted(parts, key=lambda part: part[0])])
            for name, parts in pieces.items()
        },
        before,
        after,
    )


def _rest(rows: int, seen: Sequence[tuple[int, int, Any]]) -> list[tuple[int, int, None]]:
    """The rows that no Hessian covers."""
    edges = [0, *(edge for first, end, _ in seen for edge in (first, end)), rows]
    return [(first, end, None) for first, end in zip(edges[::2], edges[1::2], strict=True) if first < end]


def _bits(plan: Plan, block: Block) -> int:
    bits = plan.bits[block.name]
    assert bits is not None
    return bits


def _squared(matrix: Any, packed: PackedWeight, hessian: Any) -> float:
    error = packed.dequantize() - matrix.astype(np.float64)
    return float(((error @ hessian) * error).sum())


def _joined(parts: list[PackedWeight]) -> PackedWeight:
    """Rows under each other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return PackedWeight(
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(zeros) if zeros else None,
        first.bits,
        first.group_size,
        (sum(part.shape[0] for part in parts), first.shape[1]),
    )
