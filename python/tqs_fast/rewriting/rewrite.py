"""Plan -> packed module: every planned weight packed, by rounding to nearest or with compensation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from tqs_fast import compensation
from tqs_fast.compensation import Compensation
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization.blocks import Block, check_cover, parse_name
from tqs_fast.quantization.held import Swappable
from tqs_fast.quantization.weights import Weight, find_weights, parameter_of
from tqs_fast.rewriting.compensated import pack_compensated
from tqs_fast.rewriting.hessians import collect_hessians
from tqs_fast.rewriting.outside import swap_packed
from tqs_fast.rewriting.packed import PackedTensor
from tqs_fast.rewriting.packed_block import PackedBlock
from tqs_fast.rewriting.replace import replace_modules

if TYPE_CHECKING:
    from tqs_fast.allocation.plan import Plan
    from tqs_fast.kernels import PackedWeight
    from tqs_fast.systems import InitialConditions, System

METHODS = ("rtn", *compensation.METHODS)
PLAN_ATTRIBUTE = "tqs_plan"  # where the root of a quantized module keeps its plan


def quantize(
    module: nn.Module,
    plan: Plan,
    *,
    method: str | Compensation = "rtn",
    group_size: int | None = None,
    system: System | None = None,
    initial: InitialConditions | Sequence[InitialConditions] | None = None,
) -> nn.Module:
    """A copy of `module` whose planned weights are packed; `module` is not touched.

    Every module that holds a packed weight is replaced by its drop-in. Tied weights stay tied, everything else is a
    deep copy, and the dtype of the module is kept. With "rtn" the packed values are exactly
    `plan.quantizer.dequantized(weight, bits)`; with the other methods they are what the compensating loop chose
    (docs/compensation.md), and the plan of the copy says how in `provenance["compensation"]`. In evaluation mode the
    fused path of `nn.TransformerEncoder` zeroes padded positions; the copy, like the float encoder in training mode,
    computes them. An `OnnxModule` (or another program outside torch) becomes the same program with rounded weights;
    `save` then writes a quantized ONNX file. References to a child that are not registered (in a plain list, say) still
    lead to its float copy.

    Args:
        module: a float module.
        plan: weight name, or row block (`weight[first:end]`), -> bits, or None to leave the weight float; and which
            weights round the rows they multiply to int8 (an embedding and a convolution with short rows, which
            dequantize, have none to round).
        method: "rtn", round to nearest; or "obq", "gptq" or "sensitivity", which let the weights that are rounded later
            make up for the errors of those before; or a `Compensation`, which has their parameters.
        group_size: replaces that of `plan.quantizer`: 32, 64, 128 or 0 (per channel).
        system: whose rollouts show the inputs of every weight, `module` in place of its own; not used by "rtn".
        initial: where those rollouts start; `Compensation.count` of `system.default_initial` by default.

    Raises:
        ArgumentError: an unknown method, no system for one that needs rollouts, or a plan whose names, kinds or shapes
            are not those of `module`, or weights that cannot be quantized (see `find_weights`).
        DivergenceError: a rollout that is not finite.
    """
    settings = _settings(method)
    if settings is not None and system is None:
        raise ArgumentError(
            f"[quantize] method {settings.method!r} needs the inputs that weights see along rollouts; pass system=..., "
            'or use method="rtn"'
        )
    if settings is not None and isinstance(module, Swappable):
        raise ArgumentError(
            f"[quantize] {settings.method!r} needs the inputs of every weight, which a program outside torch does not "
            'show; use method="rtn"'
        )
    if group_size is not None:
        plan = replace(plan, quantizer=replace(plan.quantizer, group_size=group_size))
    rewritten = copy.deepcopy(module)
    planned = planned_weights(rewritten, plan)
    compensated: dict[str, PackedWeight] = {}
    if settings is not None and system is not None:
        hessians = collect_hessians(rewritten, [weight for weight, _ in planned], system, settings, initial)
        compensated, evidence = pack_compensated(rewritten, planned, plan, settings, hessians)
        plan = replace(plan, provenance={**plan.provenance, "compensation": evidence})
    return _packed_module(rewritten, planned, plan, compensated)


def pack_into(module: nn.Module, plan: Plan, chosen: Mapping[str, PackedWeight]) -> nn.Module:
    """A copy of `module` as `quantize` makes it, with codes and scales that were chosen elsewhere.

    Args:
        chosen: packed rows by block name; of blocks that are not there the weights are rounded to nearest.
    """
    rewritten = copy.deepcopy(module)
    return _packed_module(rewritten, planned_weights(rewritten, plan), plan, chosen)


def _packed_module(
    rewritten: nn.Module,
    planned: Sequence[tuple[Weight, list[Block]]],
    plan: Plan,
    chosen: Mapping[str, PackedWeight],
) -> nn.Module:
    """`rewritten` with packed weights in place of the planned ones."""
    packed = {}
    for weight, blocks in planned:
        parameter = parameter_of(rewritten, weight).detach()
        packed[weight.name] = PackedTensor(
            [
                PackedBlock.of(
                    chosen.get(block.name) or plan.quantizer.pack(block.of(parameter), _bits(plan, block)),
                    block.of(parameter),
                    plan.activations.get(block.name, "float"),
                )
                for block in blocks
            ]
        )
    if isinstance(rewritten, Swappable):
        rewritten = swap_packed(rewritten, packed, plan)
    else:
        rewritten = replace_modules(rewritten, [weight for weight, _ in planned], packed)
    setattr(rewritten, PLAN_ATTRIBUTE, plan)
    return rewritten


def _settings(method: str | Compensation) -> Compensation | None:
    """None for rounding to nearest."""
    if isinstance(method, Compensation):
        return method
    if method not in METHODS:
        raise ArgumentError(f"[quantize] method must be one of {', '.join(METHODS)} or a Compensation, got {method!r}")
    return None if method == "rtn" else Compensation(method)


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
