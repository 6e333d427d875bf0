"""Plan -> packed module: which drop-in takes the place of which module, and the replacement itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.blocks import Block, check_cover, parse_name
from tqs_fast.quantization.weights import Weight, find_weights, kind_of, parameter_of
from tqs_fast.rewriting.attention import QuantMultiheadAttention
from tqs_fast.rewriting.cells import QuantGRUCell, QuantLSTMCell, QuantRNNCell
from tqs_fast.rewriting.convolution import QuantConv1d, QuantConv2d
from tqs_fast.rewriting.linear import QuantEmbedding, QuantLinear
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.packed_block import PackedBlock
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
        plan: weight name, or row block (`weight[first:end]`), -> bits, or None to leave the weight float; and which
            weights round the rows they multiply to int8 (an embedding and a convolution with short rows, which
            dequantize, have none to round).
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
    planned = planned_weights(rewritten, plan)
    packed = {}
    for weight, blocks in planned:
        parameter = parameter_of(rewritten, weight).detach()
        packed[weight.name] = PackedTensor(
            [
                PackedBlock.of(
                    plan.quantizer.pack(block.of(parameter), _bits(plan, block)),
                    block.of(parameter),
                    plan.activations.get(block.name, "float"),
                )
                for block in blocks
            ]
        )
    rewritten = replace_modules(rewritten, [weight for weight, _ in planned], packed)
    setattr(rewritten, PLAN_ATTRIBUTE, plan)
    return rewritten


def planned_weights(module: nn.Module, plan: Plan) -> list[tuple[Weight, list[Block]]]:
    """The weights that the plan packs and their row blocks, checked against the plan.

    Raises:
        ArgumentError: names, kinds or shapes that are not those of `module`, or row blocks that do not fit together.
    """
    layers = {layer.name: layer for layer in plan.layers}
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    parts: dict[str, list[tuple[int, int, str]]] = {}
    for name in plan.bits:
        weight, rows = parse_name(name)
        if weight not in shapes:
            raise ArgumentError(
                f"[quantize] the plan names {weight}, which {type(module).__name__} does not have; "
                "give the module that was scored"
            )
        first, end = rows or (0, shapes[weight][0])
        shape = (end - first, *shapes[weight][1:])
        if name in layers and tuple(layers[name].shape) != shape:
            raise ArgumentError(
                f"[quantize] the plan has {name} of shape {list(layers[name].shape)}, the module has "
                f"{list(shape)}; give the module that was scored"
            )
        parts.setdefault(weight, []).append((first, end, name))
    packed = {weight: sorted(blocks) for weight, blocks in parts.items() if _is_packed(weight, blocks, plan)}
    planned = []
    for found in find_weights(module, list(packed)) if packed else []:
        names = [name for _, _, name in packed[found.name]]
        kinds = {layers[name].kind for name in names if name in layers}
        if kinds - {found.kind}:
            raise ArgumentError(
                f"[quantize] the plan has {found.name} in a {kinds.pop()}, the module in a {found.kind}; "
                "give the module that was scored"
            )
        check_cover(found, [(first, end) for first, end, _ in packed[found.name]], "quantize")
        planned.append((found, [Block(name, found, first, end) for first, end, name in packed[found.name]]))
    return planned


def _is_packed(weight: str, blocks: list[tuple[int, int, str]], plan: Plan) -> bool:
    """Whether the plan packs all blocks of the weight, or leaves all of them float."""
    packed = [plan.bits[name] is not None for _, _, name in blocks]
    if any(packed) and not all(packed):
        raise ArgumentError(f"[quantize] the plan leaves some row blocks of {weight} float; freeze all of them or none")
    return all(packed)


def _bits(plan: Plan, block: Block) -> int:
    bits = plan.bits[block.name]
    assert bits is not None
    return bits


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
