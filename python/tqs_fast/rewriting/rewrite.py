"""Plan -> packed module: which drop-in takes the place of which module, and the replacement itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.weights import Weight, find_weights, kind_of, parameter_of
from tqs_fast.rewriting.attention import QuantMultiheadAttention
from tqs_fast.rewriting.cells import QuantGRUCell, QuantLSTMCell, QuantRNNCell
from tqs_fast.rewriting.convolution import QuantConv1d, QuantConv2d
from tqs_fast.rewriting.linear import QuantEmbedding, QuantLinear
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.recurrent import QuantGRU, QuantLSTM, QuantRNN

if TYPE_CHECKING:
    from tqs_fast.allocation.plan import Plan

METHODS = ("rtn",)
DROP_INS: dict[str, Any] = {
    "Linear": QuantLinear,
    "Conv1d": QuantConv1d,
    "Conv2d": QuantConv2d,
    "Embedding": QuantEmbedding,
    "LSTM": QuantLSTM,
    "GRU": QuantGRU,
    "RNN": QuantRNN,
    "LSTMCell": QuantLSTMCell,
    "GRUCell": QuantGRUCell,
    "RNNCell": QuantRNNCell,
    "MultiheadAttention": QuantMultiheadAttention,
}
PLAN_ATTRIBUTE = "tqs_plan"  # where the root of a quantized module keeps its plan


def quantize(
    module: nn.Module,
    plan: Plan,
    *,
    method: str = "rtn",
    group_size: int | None = None,
    system: Any = None,
    initial: Any = None,
) -> nn.Module:
    """A copy of `module` whose planned weights are packed; `module` is not touched.

    Every module that holds a packed weight is replaced by its drop-in. Tied weights stay tied, everything else is a
    deep copy, and the dtype of the module is kept. The packed values are exactly
    `plan.quantizer.dequantized(weight, bits)`. In evaluation mode the fused path of `nn.TransformerEncoder` zeroes
    padded positions; the copy, like the float encoder in training mode, computes them. References to a child that are
    not registered (in a plain list, say) still lead to its float copy.

    Args:
        module: a float module.
        plan: weight name -> bits, or None to leave it float.
        method: "rtn", round to nearest.
        group_size: replaces that of `plan.quantizer`: 32, 64, 128 or 0 (per channel).
        system, initial: for methods that need rollouts; not used by "rtn".

    Raises:
        ArgumentError: an unknown method, or a plan whose names, kinds or shapes are not those of `module`, or weights
            that cannot be quantized (see `find_weights`).
    """
    if method not in METHODS:
        raise ArgumentError(f"[quantize] method must be one of {', '.join(METHODS)}, got {method!r}")
    if group_size is not None:
        plan = replace(plan, quantizer=replace(plan.quantizer, group_size=group_size))
    rewritten = copy.deepcopy(module)
    weights = _planned(rewritten, plan)
    packed = {}
    for weight in weights:
        bits = plan.bits[weight.name]
        if bits is not None:
            parameter = parameter_of(rewritten, weight).detach()
            packed[weight.name] = PackedTensor.of(plan.quantizer.pack(parameter, bits), parameter)
    rewritten = replace_modules(rewritten, weights, packed)
    setattr(rewritten, PLAN_ATTRIBUTE, plan)
    return rewritten


def _planned(module: nn.Module, plan: Plan) -> list[Weight]:
    """The weights that the plan packs, checked against the plan."""
    layers = {layer.name: layer for layer in plan.layers}
    parameters = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    for name in plan.bits:
        if name not in parameters:
            raise ArgumentError(
                f"[quantize] the plan names {name}, which {type(module).__name__} does not have; "
                "give the module that was scored"
            )
        if name in layers and tuple(layers[name].shape) != parameters[name]:
            raise ArgumentError(
                f"[quantize] the plan has {name} of shape {list(layers[name].shape)}, the module has "
                f"{list(parameters[name])}; give the module that was scored"
            )
    chosen = [name for name, bits in plan.bits.items() if bits is not None]
    weights = find_weights(module, chosen) if chosen else []
    for weight in weights:
        layer = layers.get(weight.name)
        if layer is not None and layer.kind != weight.kind:
            raise ArgumentError(
                f"[quantize] the plan has {weight.name} in a {layer.kind}, the module in a {weight.kind}; "
                "give the module that was scored"
            )
    return weights


def replace_modules(module: nn.Module, weights: Iterable[Weight], packed: Mapping[str, PackedTensor]) -> nn.Module:
    """`module` with the owners of the packed weights replaced, in place but for the root, which is returned."""
    attributes: dict[str, dict[str, PackedTensor]] = {}
    for weight in weights:
        for path, attribute in weight.owners:
            attributes.setdefault(path, {})[attribute] = packed[weight.name]
    drop_ins = {}
    for path, tensors in attributes.items():
        owner = module.get_submodule(path)
        drop_ins[id(owner)] = DROP_INS[kind_of(owner) or ""](owner, tensors)
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if id(child) in drop_ins:
                parent._modules[name] = drop_ins[id(child)]
    root: nn.Module = drop_ins.get(id(module), module)
    _decline_fused_paths(root)
    return root


def _decline_fused_paths(module: nn.Module) -> None:
    """Keeps the transformer layers off the paths that read float weights around the drop-ins."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer | nn.TransformerEncoder):
            if not any(isinstance(child, QuantModule) for child in part.modules()):
                continue
            if isinstance(part, nn.TransformerEncoderLayer):
                part.activation_relu_or_gelu = 0  # "an activation the fused kernel does not know"
            else:
                part.use_nested_tensor = False
