"""The two attention operators of PyTorch: their schemas, checks, and kernels (CPU, CUDA, fake). Derivatives:
attention.py.

    tqs_fast::attention           q [..., S, D], k [..., T, D], v [..., T, E], mask [..., S, T] or None -> [..., S, E]
    tqs_fast::attention_tangents  the same and tangents dq [K, ..., S, D], dk, dv, dmask, each or None -> [K, ..., S, E]

Leading sizes are equal (expanded, with stride 0, where shared). Both are one call of the native kernel, on CUDA on
torch's current stream and in memory of its allocator. The CPU has float32 and float64; CUDA bfloat16 and float16, too,
where `has_tensor_cores_for` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

_PRECISIONS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # as csrc/bindings has them
HALF = (torch.float16, torch.bfloat16)
_SETTINGS = "float scale, bool causal, SymInt causal_offset"
torch.library.define(
    "tqs_fast::attention",
    f"(Tensor q, Tensor k, Tensor v, Tensor? mask, {_SETTINGS}) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    "tqs_fast::attention_tangents",
    "(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? dq, Tensor? dk, Tensor? dv, Tensor? dmask, "
    f"{_SETTINGS}) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
ATTENTION, TANGENTS = torch.ops.tqs_fast.attention.default, torch.ops.tqs_fast.attention_tangents.default

Settings = tuple[float, bool, int]  # scale, causal, causal_offset
Optional = Tensor | None


def check_arguments(q: Tensor, k: Tensor, v: Tensor, mask: Optional) -> None:
    parts = (q, k, v) if mask is None else (q, k, v, mask)
    if any(part.device.type not in ("cpu", "cuda", "meta") or part.device != q.device for part in parts):
        raise ArgumentError(
            "[attention] expected tensors on one device, the CPU or CUDA, got "
            f"{', '.join(str(part.device) for part in parts)}; move them there"
        )
    if q.dtype not in _PRECISIONS or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ArgumentError(f"[attention] expected q, k and v of one float dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if mask is not None and mask.dtype not in (q.dtype, torch.bool):
        raise ArgumentError(f"[attention] expected mask of dtype {q.dtype} or bool, got {mask.dtype}")
    fits = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    if not fits or q.shape[-1] == 0:
        raise ArgumentError(
            "[attention] expected q [..., S, D], k [..., T, D] and v [..., T, E] with D >= 1, "
            f"got {list(q.shape)}, {list(k.shape)}, {list(v.shape)}"
        )


def runs_on_cuda(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def has_tensor_cores_for(q: Tensor, v: Tensor) -> bool:
    """Whether the operators take q and v of 16 bits (csrc/cuda/program/attention_tensor.cu); else they want float32."""
    depth, width = q.shape[-1], v.shape[-1]
    fits = depth % 8 == 0 and width % 8 == 0 and width > 0 and max(depth, width) <= 128
    return runs_on_cuda(q) and q.dtype in HALF and fits


def _check_operands(primal: Sequence[Any], tangents: Sequence[Optional] = ()) -> None:
    q, k, v, mask = primal
    check_arguments(q, k, v, mask)
    if q.dtype in HALF and q.device.type != "meta" and not has_tensor_cores_for(q, v):
        raise ArgumentError(f"[attention] the operator does not take {q.dtype} here; call tqs.ops.attention")
    leading = q.shape[:-2]
    if k.shape[:-2] != leading or v.shape[:-2] != leading:
        raise ArgumentError(f"[attention] expected k and v with leading sizes {list(leading)}; call tqs.ops.attention")
    if mask is not None and (mask.dtype != q.dtype or mask.shape != (*leading, q.shape[-2], k.shape[-2])):
        raise ArgumentError("[attention] expected mask [..., S, T] of the dtype of q; call tqs.ops.attention")
    if not tangents:
        return
    count = _tangent_count(tangents)
    for name, part, tangent in zip(("q", "k", "v", "mask"), primal, tangents, strict=True):
        if tangent is None:
            continue
        if part is None or tangent.shape != (count, *part.shape) or tangent.dtype != part.dtype:
            raise ArgumentError(
                f"[attention] expected d{name} of shape [{count}, *{name}.shape] and dtype {q.dtype}, "
                f"got {list(tangent.shape)}, {tangent.dtype}"
            )


def _tangent_count(tangents: Sequence[Optional]) -> int:
    for tangent in tangents:
        if tangent is not None and tangent.ndim:
            return tangent.shape[0]
    raise ArgumentError("[attention] expected at least one of dq, dk, dv, dmask")


def _same_strides(primal: Tensor, tangents: Tensor) -> bool:
    pairs = zip(primal.shape, primal.stride(), tangents.stride()[1:], strict=True)
    return all(size == 1 or own == other for size, own, other in pairs)


def _aligned(rows: Tensor) -> bool:
    """As kernels of 16 bits read q, k and v: 16 bytes at once."""
    steps = [step for size, step in zip(rows.shape[:-1], rows.stride()[:-1], strict=True) if size > 1]
    return rows.stride(-1) == 1 and all(step % 8 == 0 for step in steps) and rows.data_ptr() % 16 == 0


def _lane_arrays(
    primal: Optional, tangents: Optional, count: int, keep: list[Tensor], aligned: bool = False
) -> core.LaneArrays:
    """Addresses of the primal and `count` tangents (0: zero); appends to `keep` what they point into."""
    if primal is None:
        return core.LaneArrays([], [])
    if tangents is not None and not _same_strides(primal, tangents):
        primal, tangents = primal.contiguous(), tangents.contiguous()
    if aligned and not (_aligned(primal) and (tangents is None or _aligned(tangents))):
        primal = primal.clone(memory_format=torch.contiguous_format)
        tangents = None if tangents is None else tangents.clone(memory_format=torch.contiguous_format)
    keep.append(primal)
    lanes = [0] * count
    if tangents is not None:
        keep.append(tangents)
        step = tangents.stride(0) * tangents.element_size()
        lanes = [tangents.data_ptr() + step * lane for lane in range(count)]
    return core.LaneArrays([primal.data_ptr(), *lanes], primal.stride())


def _run(primal: Sequence[Any], tangents: Sequence[Optional], count: int, settings: Settings) -> Tensor:
    """[count, ..., S, E], or without tangents [1, ..., S, E], the primal."""
    q, k, v, _ = primal
    shape = (*q.shape[:-1], v.shape[-1])
    result: Tensor = q.new_empty((max(count, 1), *shape))
    if result.numel() == 0 or k.shape[-2] == 0:
        return result.zero_()
    out = q.new_empty(shape) if count else result[0]
    keep: list[Tensor] = []
    if not tangents:
        tangents = (None,) * 4
    parts = [
        _lane_arrays(*pair, count, keep, aligned=q.dtype in HALF and place < 3)
        for place, pair in enumerate(zip(primal, tangents, strict=True))
    ]
    scale, causal, causal_offset = settings
    problem = core.AttentionProblem(
        q=parts[0],
        k=parts[1],
        v=parts[2],
        mask=parts[3],
        out=_lane_arrays(out, result if count else None, count, keep),
        leading=q.shape[:-2],
        queries=q.shape[-2],
        keys=k.shape[-2],
        depth=q.shape[-1],
        width=v.shape[-1],
        precision=_PRECISIONS[q.dtype],
        scale=scale,
        causal=causal,
        causal_offset=causal_offset,
    )
    if runs_on_cuda(q):
        _compute_on_device(problem, q.device)
    else:
        core.attention(problem, threads=0)
    return result


def _compute_on_device(problem: core.AttentionProblem, device: torch.device) -> None:
    with torch.cuda.device(device):
        stream, scratch, wanted = torch.cuda.current_stream(device).cuda_stream, None, 0
        while wanted or scratch is None:
            scratch = torch.empty(wanted, dtype=torch.uint8, device=device)
            where = {"scratch": scratch.data_ptr(), "scratch_bytes": scratch.numel()}
            wanted = core.attention_cuda(problem, **where, device=device.index or 0, stream=stream)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Optional, scale: float, causal: bool, causal_offset: int
) -> Tensor:
    _check_operands((q, k, v, mask))
    return _run((q, k, v, mask), (), 0, (scale, causal, causal_offset))[0]


def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, mask: Optional, scale: float, causal: bool, causal_offset: int
) -> Tensor:
    _check_operands((q, k, v, mask))
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


def _tangents(*arguments: Any) -> Tensor:
    primal, tangents, settings = arguments[:4], arguments[4:8], arguments[8:]
    _check_operands(primal, tangents)
    return _run(primal, tangents, _tangent_count(tangents), settings)


def _tangents_fake(*arguments: Any) -> Tensor:
    primal, tangents = arguments[:4], arguments[4:8]
    _check_operands(primal, tangents)
    q, _, v, _ = primal
    result: Tensor = q.new_empty((_tangent_count(tangents), *q.shape[:-1], v.shape[-1]))
    return result


for _device in ("cpu", "cuda"):
    torch.library.impl("tqs_fast::attention", _device, _attention)
    torch.library.impl("tqs_fast::attention_tangents", _device, _tangents)
torch.library.register_fake("tqs_fast::attention", _attention_fake)
torch.library.register_fake("tqs_fast::attention_tangents", _tangents_fake)
