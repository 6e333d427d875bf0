"""All steps of one layer and direction of a recurrent module in one native call (csrc/quant/recurrent.h).

The composition of torch operations (gates.py) stays for all that derives, records or transforms them: where a gradient
is wanted, in forward-mode derivatives, torch.func, torch.compile, torch.export, torch.jit.trace, and under any dispatch
mode. It also computes whatever is not float32 on the CPU with packed hidden weights. The formulas are the same; results
differ by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from tqs_fast import _prepared
from tqs_fast._native import core
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.packed_block import PackedBlock

RECURRENCES = {"LSTM": (0, 4), "GRU": (1, 3), "RNN_TANH": (2, 1), "RNN_RELU": (3, 1)}
"""mode -> its number in csrc/bindings, and its gates."""

State = tuple[Tensor, ...]  # (hidden,), or (hidden, cell) for an LSTM
Blocks = list[tuple[core.Prepared, bool]]

_Key = torch._C.DispatchKey


def _bits(*keys: torch._C.DispatchKey) -> int:
    result = torch._C.DispatchKeySet(keys[0])
    for key in keys[1:]:
        result = result.add(key)
    return int(result.raw_repr())


# Whoever sees the operations of others (dispatch modes, functorch, functionalization, tracing) and whatever gives a
# tensor another meaning (subclasses, fake, negated, sparse tensors, those of other devices) has a dispatch key. These
# are the sets with none of them, outside and inside torch.inference_mode.
_NO_MODE = {_bits(_Key.BackendSelect, _Key.ADInplaceOrView), _bits(_Key.BackendSelect)}
_PLAIN = {_bits(_Key.CPU, _Key.ADInplaceOrView, _Key.AutogradCPU, _Key.AutocastCPU), _bits(_Key.CPU, _Key.AutocastCPU)}
_TYPES = (Tensor, nn.Parameter)


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
    if torch.compiler.is_compiling() or _modes() not in _NO_MODE or forward_ad._current_level >= 0:
        return None
    number, gates = RECURRENCES[mode]
    parameters, packed = module._parameters, cast(nn.ModuleDict, module._modules["packed"])._modules
    biases = (parameters.get("bias_ih" + suffix), parameters.get("bias_hh" + suffix))
    weight = parameters.get("weight_ih" + suffix)
    recording = torch.is_grad_enabled()
    if not all(_is_plain(tensor, recording) for tensor in (x, weight, *biases, *start) if tensor is not None):
        return None
    rows, width = 1 if x.dim() == 1 else x.shape[0], gates * module.hidden_size
    if rows != sum(sizes) or any(bias is not None and bias.shape != (width,) for bias in biases):
        return None  # the composition says what is wrong
    hidden = _blocks(packed.get("weight_hh" + suffix))
    projection = _blocks(packed.get("weight_hr" + suffix)) if start[0].shape != start[-1].shape else []
    inputs = [] if weight is not None else _blocks(packed.get("weight_ih" + suffix))
    if hidden is None or projection is None or inputs is None:
        return None
    # Named, so that the memory behind every address lives until the call returns.
    bias_ih, bias_hh = (None if bias is None else bias.contiguous() for bias in biases)
    if weight is not None:
        x, bias_ih = F.linear(x, weight, bias_ih), None
    if x.stride(-1) != 1:
        x = x.contiguous()
    final = tuple(part.clone(memory_format=torch.contiguous_format) for part in start)
    out = x.new_empty((rows, final[0].shape[-1])) if outputs else final[0]
    core.run_recurrent(
        number,
        module.hidden_size,
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


def _modes() -> int:
    return int(torch._C._dispatch_tls_local_include_set().raw_repr())


def _is_plain(tensor: Tensor, recording: bool) -> bool:
    """Whether its memory is all there is to it, read as float32 on the CPU."""
    return (
        type(tensor) in _TYPES
        and tensor.dtype is torch.float32
        and not (recording and tensor.requires_grad)
        and torch._C._dispatch_keys(tensor).raw_repr() in _PLAIN
    )


# Below, what a module holds is taken from its dictionaries: attributes that are not in its own are looked up in Python,
# which takes longer than all the rest.


def _blocks(packed: nn.Module | None) -> Blocks | None:
    """The row blocks as their kernel reads them, each with whether it rounds activations to int8."""
    if not isinstance(packed, PackedTensor):
        return None
    found: Blocks = []
    for block in cast(nn.ModuleList, packed._modules["blocks"])._modules.values():
        prepared = _prepared_block(cast(PackedBlock, block))
        if prepared is None:
            return None
        found.append((prepared, False))
    return found


def _prepared_block(block: PackedBlock) -> core.Prepared | None:
    codes, scales, zeros = map(block._buffers.__getitem__, ("codes", "scales", "zeros"))
    assert codes is not None
    assert scales is not None
    form = (block.bits, block.group_size, block.in_features)
    prepared = _prepared.find(codes, scales, zeros, form)
    if prepared is None and type(codes) is Tensor and codes.is_cpu:
        block.linear(torch.empty(0, block.in_features), None)  # a product of no rows, which prepacks
        prepared = _prepared.find(codes, scales, zeros, form)
    return prepared
