"""Native calls in place of torch operations, where nobody sees the difference.

A torch operation costs several microseconds before its kernel starts, more than a small product takes. A native call on
the memory of the tensors has none of that, and none of what torch does on the way: so it is made only where no gradient
is wanted and nothing records or transforms operations (forward-mode derivatives, torch.func, torch.compile,
torch.export, torch.jit.trace, dispatch modes), on plain float32 tensors on the CPU.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from tqs_fast import _prepared
from tqs_fast._native import core
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.packed_block import PackedBlock

Blocks = list[tuple[core.Prepared, bool]]
"""Of a weight: its rows as their kernel reads them, and whether it rounds the activations to int8."""

_Key = torch._C.DispatchKey
_dispatch_keys, _included_keys = torch._C._dispatch_keys, torch._C._dispatch_tls_local_include_set


def _bits(*keys: torch._C.DispatchKey) -> int:
    result = torch._C.DispatchKeySet(keys[0])
    for key in keys[1:]:
        result = result.add(key)
    return int(result.raw_repr())


# Whoever sees the operations of others (dispatch modes, functorch, functionalization, tracing) and whatever gives a
# tensor another meaning (subclasses, fake, negated, sparse tensors, those of other devices) has a dispatch key. These
# are the sets with none of them, outside and inside torch.inference_mode.
_UNWATCHED = {_bits(_Key.BackendSelect, _Key.ADInplaceOrView), _bits(_Key.BackendSelect)}
_PLAIN = {_bits(_Key.CPU, _Key.ADInplaceOrView, _Key.AutogradCPU, _Key.AutocastCPU), _bits(_Key.CPU, _Key.AutocastCPU)}
_TYPES = (Tensor, nn.Parameter)


def allowed(*tensors: Tensor | None) -> bool:
    """Whether a native call may read the memory of `tensors` as float32 and nothing else has to happen."""
    if torch.compiler.is_compiling() or _included_keys().raw_repr() not in _UNWATCHED or forward_ad._current_level >= 0:
        return False
    recording = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in _TYPES
            or tensor.dtype is not torch.float32
            or (recording and tensor.requires_grad)
            or _dispatch_keys(tensor).raw_repr() not in _PLAIN
        ):
            return False
    return True


# Below, what a module holds is taken from its dictionaries: attributes that are not in its own are looked up in Python,
# which takes longer than all the rest.


def packed_weight(module: QuantModule, name: str) -> PackedTensor | None:
    """The weight called `name`; None where it is float."""
    packed = module._modules["packed"]._modules.get(name)  # type: ignore[union-attr]
    return packed if isinstance(packed, PackedTensor) else None


def blocks(packed: PackedTensor | None) -> Blocks | None:
    """None where there is no weight, or it cannot be kept prepacked."""
    if packed is None:
        return None
    found: Blocks = []
    for block in packed._modules["blocks"]._modules.values():  # type: ignore[union-attr]
        assert isinstance(block, PackedBlock)
        buffers = block._buffers
        codes, scales = buffers["codes"], buffers["scales"]
        assert codes is not None
        assert scales is not None
        form = (block.bits, block.group_size, block.in_features)
        prepared = _prepared.find(codes, scales, buffers["zeros"], form)
        if prepared is None and type(codes) is Tensor and codes.is_cpu:
            empty = codes.new_empty((0, block.in_features), dtype=torch.float32)
            block.linear(empty, None)  # a product of no rows, which prepacks
            prepared = _prepared.find(codes, scales, buffers["zeros"], form)
        if prepared is None:
            return None
        found.append((prepared, block.activation == "int8"))
    return found


def linear(module: QuantModule, name: str, x: Tensor, bias: Tensor | None) -> Tensor | None:
    """x [..., K] @ W.T + bias with the weight called `name`, the bits of `module.project`; None: call that."""
    packed = packed_weight(module, name)
    if packed is None or not allowed(x, bias):
        return None
    weight, shape, rows = blocks(packed), x.shape, packed.shape[0]
    if weight is None or not shape or (bias is not None and bias.shape != (rows,)):
        return None
    if shape[-1] != prod(packed.shape[1:]):
        return None  # `project` says what is wrong
    # Named, so that the memory behind every address lives until the call returns.
    bias = None if bias is None else bias.contiguous()
    if len(shape) == 2 and x.stride(1) == 1:
        count, stride = shape[0], x.stride(0)
        y = x.new_empty((count, rows))
    else:
        x, y, stride = x.contiguous(), x.new_empty((*shape[:-1], rows)), shape[-1]
        count = y.numel() // rows
    if count:
        address = 0 if bias is None else bias.data_ptr()
        core.multiply(weight, x.data_ptr(), stride, count, address, y.data_ptr(), 0)
    return y
