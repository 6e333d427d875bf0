"""Operators that pick elements, and those that see only the sizes of their input."""

from __future__ import annotations

import numpy as np
import torch

from tqs_fast.onnx.operators.registry import Call, Value, operator
from tqs_fast.onnx.read import Array


@operator("Shape")
def shape(call: Call, x: torch.Tensor) -> Array:
    return np.array(x.shape[call.get("start", 0) : call.get("end", None)], np.int64)


@operator("Size")
def size(call: Call, x: torch.Tensor) -> Array:
    return np.array(x.numel(), np.int64)


@operator("Gather")
def gather(call: Call, x: Value, index: Value) -> torch.Tensor:
    values, axis = call.tensor(x), call.get("axis", 0)
    axis += values.dim() if axis < 0 else 0
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    if isinstance(index, torch.Tensor):
        count = values.shape[axis]
        rows = torch.where(index < 0, index + count, index).reshape(-1).long()
        return values.index_select(axis, rows).reshape(*before, *index.shape, *after)
    if index.size == 1:
        return values.narrow(axis, int(index.reshape(-1)[0]) % values.shape[axis], 1).reshape(
            *before, *index.shape, *after
        )
    known = np.where(index < 0, index + values.shape[axis], index).reshape(-1).astype(np.int64)
    return values.index_select(axis, call.constant(known)).reshape(*before, *index.shape, *after)


@operator("GatherElements")
def gather_elements(call: Call, x: Value, index: Value) -> torch.Tensor:
    values, axis = call.tensor(x), call.get("axis", 0)
    count = values.shape[axis]
    if isinstance(index, torch.Tensor):
        return values.gather(axis, torch.where(index < 0, index + count, index).long())
    return values.gather(axis, call.constant(np.where(index < 0, index + count, index).astype(np.int64)))


@operator("CumSum")
def running_sum(call: Call, x: torch.Tensor, axis: Value) -> torch.Tensor:
    call.supports_only(exclusive=0, reverse=0)
    return torch.cumsum(x, int(call.number(axis, 0, "axis")))


@operator("TopK")
def top_k(call: Call, x: torch.Tensor, count: Value) -> tuple[torch.Tensor, torch.Tensor]:
    k = int(call.number(count, 1, "count"))
    values, places = torch.topk(x, k, dim=call.get("axis", -1), largest=bool(call.get("largest", 1)), sorted=True)
    return values, places
