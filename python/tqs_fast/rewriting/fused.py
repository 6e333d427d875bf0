"""All steps of one layer and direction of a recurrent module in one native call (csrc/quant/recurrent.h).

Where a native call is not allowed (direct.py) or the hidden weights are not packed, the composition of torch operations
stays (gates.py). The formulas are the same; results differ by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tqs_fast._native import core
from tqs_fast.rewriting import direct
from tqs_fast.rewriting.packed import QuantModule

RECURRENCES = {"LSTM": (0, 4), "GRU": (1, 3), "RNN_TANH": (2, 1), "RNN_RELU": (3, 1)}
"""mode -> its number in csrc/bindings, and its gates."""

State = tuple[Tensor, ...]  # (hidden,), or (hidden, cell) for an LSTM


def advance(
    module: QuantModule,
    mode: str,
    x: Tensor,
    sizes: Sequence[int],
    start: State,
    suffix: str = "",
    *,
    reverse: bool = False,
    outputs: bool = True,
) -> tuple[Tensor, State] | None:
    """One layer and direction over all its steps.

    Args:
        module: whose weights and biases `weight_ih` + suffix, `bias_ih` + suffix and so on are used.
        mode: key of `RECURRENCES`.
        x: [sum of sizes, features], rows ordered by time, or [features] for one row.
        sizes: rows of every step, never growing.
        start: [sizes[0], size] each, without the first dimension where x has none.
        reverse: from the last step to the first.
        outputs: whether the hidden states of all steps are wanted, or those at the end alone.

    Returns:
        Hidden states [sum of sizes, size] and the state at the end; None where the composition has to compute.
    """
    number, gates = RECURRENCES[mode]
    parameters = module._parameters
    bias_ih: Tensor | None = parameters.get("bias_ih" + suffix)
    bias_hh: Tensor | None = parameters.get("bias_hh" + suffix)
    weight = parameters.get("weight_ih" + suffix)
    if not direct.allowed(x, weight, bias_ih, bias_hh, *start):
        return None
    rows, size = 1 if x.dim() == 1 else x.shape[0], module.hidden_size
    if rows != sum(sizes):
        return None  # the composition says what is wrong, here and below
    for bias in (bias_ih, bias_hh):
        if bias is not None and bias.shape != (gates * size,):
            return None
    projects = start[0].shape != start[-1].shape
    hidden = direct.blocks(direct.packed_weight(module, "weight_hh" + suffix))
    projection = direct.blocks(direct.packed_weight(module, "weight_hr" + suffix)) if projects else []
    inputs = direct.blocks(direct.packed_weight(module, "weight_ih" + suffix)) if weight is None else []
    if hidden is None or projection is None or inputs is None:
        return None
    # Named, so that the memory behind every address lives until the call returns.
    bias_ih = None if bias_ih is None else bias_ih.contiguous()
    bias_hh = None if bias_hh is None else bias_hh.contiguous()
    if weight is not None:
        x, bias_ih = F.linear(x, weight, bias_ih), None
        if x.dtype is not torch.float32:  # autocast
            return None
    if x.stride(-1) != 1 or (rows > 1 and x.stride(0) < x.shape[-1]):
        x = x.contiguous()
    final = tuple([part.clone(memory_format=torch.contiguous_format) for part in start])
    out = x.new_empty((rows, final[0].shape[-1])) if outputs else final[0]
    core.run_recurrent(
        number,
        size,
        reverse,
        sizes,
        x.data_ptr(),
        x.stride(0) if rows > 1 else x.shape[-1],
        inputs,
        0 if bias_ih is None else bias_ih.data_ptr(),
        hidden,
        0 if bias_hh is None else bias_hh.data_ptr(),
        projection,
        final[0].data_ptr(),
        final[1].data_ptr() if len(final) == 2 else 0,
        out.data_ptr() if outputs else 0,
        0,
    )
    return out, final
