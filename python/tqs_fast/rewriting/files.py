"""Modules to files and back: `quantize`d modules as the tensors and metadata of container.py."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tqs_fast.allocation.plan import Plan
from tqs_fast.errors import ArgumentError, TqsError
from tqs_fast.kernels import ACTIVATIONS
from tqs_fast.onnx import OnnxModule
from tqs_fast.quantization.blocks import block_name, check_cover, parse_name
from tqs_fast.quantization.quantizer import BITS, GROUP_SIZES
from tqs_fast.quantization.weights import DTYPES, Weight, join, parameter_of, scan
from tqs_fast.rewriting.container import damaged, mismatch, parse, read, write
from tqs_fast.rewriting.outside import load_onnx, save_onnx
from tqs_fast.rewriting.packed import PackedTensor, QuantModule
from tqs_fast.rewriting.packed_block import PackedBlock
from tqs_fast.rewriting.replace import replace_modules
from tqs_fast.rewriting.rewrite import PLAN_ATTRIBUTE

DTYPE_OF = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


def save(module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a module made by `quantize` to `path`, atomically: the old file stays until the new one is complete.

    A quantized `OnnxModule` becomes an .onnx file for plain ONNX Runtime, with the plan in its metadata.

    Raises:
        ArgumentError: a module without a plan or on the meta device, state that is not a tensor, no such folder, or
            one that cannot be written.
    """
    plan = getattr(module, PLAN_ATTRIBUTE, None)
    if plan is None:
        raise ArgumentError(
            f"[save] {type(module).__name__} holds no plan; pass a module that quantize or load returned"
        )
    target = Path(path)
    if not target.parent.is_dir():
        raise ArgumentError(f"[save] the folder {target.parent} does not exist; create it first")
    if isinstance(module, OnnxModule):
        save_onnx(module, plan, target)
        return
    tensors: dict[str, Tensor] = {}
    specification: dict[str, Any] = {}
    for weight, (packed, names) in _packed_tensors(module).items():
        for first, end, block in packed.spans():
            name = weight if len(packed.blocks) == 1 else block_name(weight, first, end)
            specification[name] = {
                "bits": block.bits,
                "group_size": block.group_size,
                "activation": block.activation,
                "shape": list(block.shape),
                "dtype": _name_of(block.anchor.dtype),
                "names": names,
            }
            tensors[f"{name}.codes"] = block.codes
            tensors[f"{name}.scales"] = block.scales.view(torch.bfloat16)
            if block.zeros is not None:
                tensors[f"{name}.zeros"] = block.zeros
    state, aliases = _plain_state(module)
    tensors |= state
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ArgumentError(f"[save] {name} is on the meta device and has no values; load the module first")
    write(target, tensors, {"plan": plan.to_json(), "packed": specification, "aliases": aliases})


def load(module: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """The packed module in `path`, built on a copy of the float `module` it came from; `module` is not touched.

    Weights and persistent buffers come from the file, everything else (code, non-persistent buffers, device, training
    mode) from `module`, whose values do not matter. Outputs equal those of the saved module bit for bit.

    Raises:
        FileFormatError: a file that is missing, truncated, damaged, foreign, of another version, or
            whose names, shapes, dtypes or ties are not those of `module`; the message names the first difference.
    """
    if isinstance(module, OnnxModule):
        small, plan = load_onnx(module, path)
        setattr(small, PLAN_ATTRIBUTE, plan)
        return small
    metadata, tensors = read(path)
    plan = _parse_plan(metadata, path)
    specification = parse(metadata, "packed", path)
    aliases = parse(metadata, "aliases", path)
    built = copy.deepcopy(module)
    weights = {weight.name: weight for weight in scan(built)[0]}
    quantizer = plan.quantizer
    planned = {
        name: (bits, quantizer.group_size, plan.activations.get(name, "float"))
        for name, bits in plan.bits.items()
        if bits is not None
    }
    entries = {name: _entry(entry, path) for name, entry in specification.items()}
    found = {name: (entry["bits"], entry["group_size"], entry["activation"]) for name, entry in entries.items()}
    if found != planned:
        raise mismatch(path, "its plan and its packed weights disagree", "write it again with tqs_fast.save")
    parts: dict[str, list[tuple[int, int, str]]] = {}
    for name in entries:
        weight, rows = parse_name(name)
        if weight not in weights:
            raise mismatch(
                path, f"packed weight {weight} is not a quantizable weight of the given {type(module).__name__}"
            )
        parts.setdefault(weight, []).append((*(rows or (0, weights[weight].shape[0])), name))
    packed = {}
    for weight, spans in parts.items():
        parameter = parameter_of(built, weights[weight])
        blocks = []
        for first, end, name in sorted(spans):
            _check_weight(weights[weight], (first, end), parameter, entries[name], path)
            blocks.append(_packed_block(name, entries[name], quantizer.symmetric, tensors, path))
        try:
            check_cover(weights[weight], [(first, end) for first, end, _ in sorted(spans)], "load")
        except ArgumentError as error:
            raise mismatch(path, str(error)) from error
        packed[weight] = PackedTensor(blocks).to(parameter.device)
    built = replace_modules(built, [weights[weight] for weight in packed], packed)
    _load_plain(built, tensors, aliases, path)
    setattr(built, PLAN_ATTRIBUTE, plan)
    return built


def _packed_tensors(module: nn.Module) -> dict[str, tuple[PackedTensor, list[str]]]:
    """First name -> (packed weight, names of all its owners)."""
    found: dict[int, tuple[PackedTensor, list[str]]] = {}
    for path, part in module.named_modules():
        if isinstance(part, QuantModule):
            for attribute, packed in part.packed.items():
                assert isinstance(packed, PackedTensor)
                found.setdefault(id(packed), (packed, []))[1].append(join(path, attribute))
    return {names[0]: (packed, names) for packed, names in found.values()}


def _plain_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State that is not packed, each tensor once under its first name, and {further name: first name}."""
    inside = {path for path, part in module.named_modules(remove_duplicate=False) if isinstance(part, PackedBlock)}
    first: dict[int, str] = {}
    state: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if name.rpartition(".")[0] in inside:
            continue
        if not isinstance(tensor, Tensor):
            raise ArgumentError(
                f"[save] {name} is {type(tensor).__name__}, expected a tensor; a file holds tensors only"
            )
        known = first.setdefault(id(tensor), name)
        if known == name:
            state[name] = tensor
        else:
            aliases[name] = known
    return state, aliases


def _load_plain(module: nn.Module, tensors: dict[str, Tensor], aliases: Mapping[str, Any], path: Any) -> None:
    """Copies what is left in `tensors` into the rest of the state of `module`."""
    expected, expected_aliases = _plain_state(module)
    for name in [*expected, *tensors]:
        if name not in tensors:
            raise mismatch(path, f"it has no tensor {name}")
        if name not in expected:
            raise mismatch(path, f"its tensor {name} has no place in the given module")
        theirs, ours = tensors[name], expected[name]
        if theirs.shape != ours.shape:
            raise mismatch(path, f"{name} has shape {list(theirs.shape)} in the file, {list(ours.shape)} in the module")
        if theirs.dtype != ours.dtype:
            remedy = f"convert the module first, for example with .to(torch.{_name_of(theirs.dtype)})"
            raise mismatch(
                path, f"{name} is {_name_of(theirs.dtype)} in the file, {_name_of(ours.dtype)} in the module", remedy
            )
        if ours.is_meta:
            raise mismatch(path, f"{name} of the module is on the meta device", "build the module on a real device")
    if dict(aliases) != expected_aliases:
        raise mismatch(path, f"it ties {dict(aliases) or 'nothing'}, the module ties {expected_aliases or 'nothing'}")
    state = module.state_dict() | tensors | {name: tensors[known] for name, known in expected_aliases.items()}
    module.load_state_dict(state)


def _parse_plan(metadata: Mapping[str, str], path: Any) -> Plan:
    try:
        return Plan.from_json(parse(metadata, "plan", path))
    except TqsError as error:
        raise damaged(path, f"its plan cannot be read: {error}") from error


def _entry(entry: Any, path: Any) -> dict[str, Any]:
    """A validated entry of the packed weights."""
    good = (
        isinstance(entry, dict)
        and entry.keys() == {"bits", "group_size", "activation", "shape", "dtype", "names"}
        and type(entry["bits"]) is int
        and entry["bits"] in BITS
        and type(entry["group_size"]) is int
        and entry["group_size"] in GROUP_SIZES
        and entry["activation"] in ACTIVATIONS
        and isinstance(entry["shape"], list)
        and len(entry["shape"]) >= 2
        and all(type(size) is int and size > 0 for size in entry["shape"])
        and isinstance(entry["names"], list)
        and isinstance(entry["dtype"], str)
        and entry["dtype"] in DTYPE_OF
    )
    if not good:
        raise damaged(path, f"the format of a packed weight is {entry!r}")
    return dict(entry)


def _check_weight(
    weight: Weight, rows: tuple[int, int], parameter: Tensor, entry: Mapping[str, Any], path: Any
) -> None:
    """Check the entry of the block `rows` of `weight`."""
    name, names = weight.name, [join(*owner) for owner in weight.owners]
    shape = [rows[1] - rows[0], *weight.shape[1:]]
    if shape != entry["shape"]:
        raise mismatch(path, f"{name} has shape {entry['shape']} in the file, {shape} in the module")
    if names != entry["names"]:
        raise mismatch(path, f"{name} is shared by {entry['names']} in the file, by {names} in the module")
    if parameter.dtype != DTYPE_OF[entry["dtype"]]:
        remedy = f"convert the module first, for example with .to(torch.{entry['dtype']})"
        raise mismatch(
            path, f"{name} is for {entry['dtype']} in the file, {_name_of(parameter.dtype)} in the module", remedy
        )
    if parameter.is_meta:
        raise mismatch(path, f"{name} of the module is on the meta device", "build the module on a real device")


def _packed_block(
    name: str, entry: Mapping[str, Any], symmetric: bool, tensors: dict[str, Tensor], path: Any
) -> PackedBlock:
    """Takes the parts of one packed block out of `tensors`."""
    shape, bits, group_size = tuple(entry["shape"]), entry["bits"], entry["group_size"]
    rows, columns = shape[0], int(torch.Size(shape[1:]).numel())
    groups = -(-columns // group_size) if group_size else 1
    wanted = {
        "codes": (torch.uint8, (rows, -(-columns * bits // 8))),
        "scales": (torch.bfloat16, (rows, groups)),
    }
    if not symmetric:
        wanted["zeros"] = (torch.uint8, (rows, groups))
    parts: dict[str, Tensor] = {}
    for part, (dtype, size) in wanted.items():
        tensor = tensors.pop(f"{name}.{part}", None)
        if tensor is None:
            raise damaged(path, f"it has no tensor {name}.{part}")
        if tensor.dtype != dtype or tuple(tensor.shape) != size:
            wrong = f"{_name_of(tensor.dtype)} {list(tensor.shape)}"
            raise damaged(path, f"expected {name}.{part} to be {_name_of(dtype)} {list(size)}, got {wrong}")
        parts[part] = tensor
    if not bool(torch.isfinite(parts["scales"]).all()):
        raise damaged(path, f"{name}.scales holds NaN or infinity")
    zeros = parts.get("zeros")
    if zeros is not None and int(zeros.max()) >= 1 << bits:
        raise damaged(path, f"{name}.zeros holds {int(zeros.max())}, expected less than {1 << bits}")
    scales = parts["scales"].view(torch.int16)
    dtype = DTYPE_OF[entry["dtype"]]
    return PackedBlock(
        parts["codes"],
        scales,
        zeros,
        bits=bits,
        group_size=group_size,
        shape=shape,
        dtype=dtype,
        activation=entry["activation"],
    )


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
