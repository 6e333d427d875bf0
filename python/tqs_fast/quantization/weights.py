"""Which parameters of a module are quantizable weights: the one list that scores, plans and rewriting share.

A weight counts when its module is one of `KINDS`, or a subclass that keeps that class's forward: a subclass with its
own forward may use the weight in another way, so its error would be measured and stored for the wrong function. A
module that stands for a program outside torch says itself what its weights are: `weight_kinds`, attribute -> operator,
and `skipped_weights`, name -> reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from tqs_fast.errors import ArgumentError

KINDS: dict[str, type[nn.Module]] = {
    "Linear": nn.Linear,
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Embedding": nn.Embedding,
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "LSTMCell": nn.LSTMCell,
    "GRUCell": nn.GRUCell,
    "RNNCell": nn.RNNCell,
    "MultiheadAttention": nn.MultiheadAttention,
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Weight:
    """One quantizable weight of a module.

    Attributes:
        name: its name in `module.named_parameters()`; the first one when the parameter is shared.
        kind: the key of `KINDS` that its first owner is, or the operator that uses it outside torch.
        shape: shape of the parameter; the packed matrix is [shape[0], product of the rest].
        parameters: number of elements.
        owners: (module path, parameter attribute) of every module that holds it, in module order, so that
            `module.get_submodule(path).get_parameter(attribute)` is the parameter. The attribute of the output
            projection of a MultiheadAttention is "out_proj.weight". A module reachable by several paths is listed by
            its first.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    owners: tuple[tuple[str, str], ...]


def kind_of(module: nn.Module) -> str | None:
    """The key of `KINDS` whose forward `module` runs, or None."""
    for kind, base in KINDS.items():
        if isinstance(module, base):
            kept = all(
                getattr(type(module), name, None) is getattr(base, name, None) and name not in vars(module)
                for name in ("forward", "_conv_forward")
            )
            return kind if kept else None
    return None


def weight_attributes(module: nn.Module, kind: str) -> tuple[str, ...]:
    """Attributes of the weights that a module of `kind` has by construction, present as parameters or not."""
    if kind == "MultiheadAttention":
        assert isinstance(module, nn.MultiheadAttention)
        if module._qkv_same_embed_dim:
            return ("in_proj_weight", "out_proj.weight")
        return ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight")
    if isinstance(module, nn.RNNBase):
        return tuple(name for name in module._flat_weights_names if name.startswith("weight_"))
    if kind.endswith("Cell"):
        return ("weight_ih", "weight_hh")
    return ("weight",)


def join(path: str, attribute: str) -> str:
    """`path.attribute`, or the attribute alone for the root module."""
    return f"{path}.{attribute}" if path else attribute


def find_weights(module: nn.Module, layers: str | Iterable[str] | None = None) -> list[Weight]:
    """The quantizable weights of `module`, in `named_parameters()` order.

    Args:
        module: any module.
        layers: None for all; else parameter names or shell patterns (`encoder.*`), matched against every name a
            shared parameter has. A pattern passes over unsupported weights (see `skipped_weights`); a full name may not
            name one.

    Raises:
        ArgumentError: a name or pattern that matches nothing, an unsupported weight selected by its name, no weight at
            all, or a selected weight that is not floating point, has no values, or holds NaN or infinity.
    """
    found, skipped = scan(module)
    if layers is not None:
        found = _select(found, skipped, [layers] if isinstance(layers, str) else list(layers))
    if not found:
        reasons = "".join(f"; {name} {reason}" for name, reason in list(skipped.items())[:3])
        raise ArgumentError(
            f"[find_weights] no quantizable layer was found in {type(module).__name__}: "
            f"supported kinds are {', '.join(KINDS)}{reasons}"
        )
    for weight in found:
        _check_values(weight.name, parameter_of(module, weight))
    return found


def skipped_weights(module: nn.Module) -> dict[str, str]:
    """Name and reason of every weight of a supported kind that `find_weights` passes over."""
    return scan(module)[1]


def parameter_of(module: nn.Module, weight: Weight) -> torch.Tensor:
    """The parameter that `weight` names in `module`."""
    path, attribute = weight.owners[0]
    return module.get_submodule(path).get_parameter(attribute)


def scan(module: nn.Module) -> tuple[list[Weight], dict[str, str]]:
    """Every quantizable weight, its values unseen, and name and reason of those passed over."""
    holders = _holders(module)
    skipped: dict[str, str] = {}
    owners: dict[int, list[tuple[str, str, str]]] = {}
    for path, owner, attribute, kind in _slots(module, skipped):
        reason, parameter = _examine(owner, attribute)
        if parameter is None:
            skipped[join(path, attribute)] = reason
        else:
            owners.setdefault(id(parameter), []).append((path, attribute, kind))
    found = []
    for name, parameter in module.named_parameters():
        owned = owners.get(id(parameter))
        if owned is None:
            continue
        names = {join(path, attribute) for path, attribute, _ in owned}
        strangers = [other for other in holders[id(parameter)] if other not in names]
        if strangers:
            skipped[name] = f"is shared with {strangers[0]}, which belongs to no supported kind"
            continue
        shape = () if isinstance(parameter, nn.UninitializedParameter) else tuple(parameter.shape)
        pairs = tuple((path, attribute) for path, attribute, _ in owned)
        found.append(Weight(name, owned[0][2], shape, math.prod(shape), pairs))
    return found, skipped


def _slots(module: nn.Module, skipped: dict[str, str]) -> Iterator[tuple[str, nn.Module, str, str]]:
    """(path, module, attribute, kind) of every weight that a module has by construction, or says that it has."""
    for path, owner in module.named_modules():
        for attribute, kind in getattr(owner, "weight_kinds", {}).items():
            yield path, owner, attribute, kind
        skipped |= {join(path, name): why for name, why in getattr(owner, "skipped_weights", {}).items()}
    for path, owner, kind in _owners(module, skipped):
        for attribute in weight_attributes(owner, kind):
            yield path, owner, attribute, kind


def _owners(module: nn.Module, skipped: dict[str, str]) -> Iterator[tuple[str, nn.Module, str]]:
    """(path, module, kind) of the supported modules; the output projection of an attention belongs to the attention."""
    inside_attention: set[int] = set()
    for path, owner in module.named_modules():
        if isinstance(owner, nn.MultiheadAttention):
            inside_attention.add(id(owner.out_proj))
        if id(owner) in inside_attention:
            continue
        kind = kind_of(owner)
        if kind is not None:
            yield path, owner, kind
            continue
        for name in getattr(owner, "packed_names", ()):
            skipped[join(path, name)] = "is already packed"
        if any(isinstance(owner, base) for base in KINDS.values()):
            for name, parameter in owner.named_parameters():
                if not isinstance(parameter, nn.UninitializedParameter) and parameter.ndim >= 2:
                    skipped[join(path, name)] = f"belongs to {type(owner).__name__}, which has a forward of its own"


def _holders(module: nn.Module) -> dict[int, list[str]]:
    """Names of every parameter, by identity; a module reachable by several paths is counted once."""
    holders: dict[int, list[str]] = {}
    for path, owner in module.named_modules():
        for attribute, parameter in owner._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(join(path, attribute))
    return holders


def _examine(owner: nn.Module, attribute: str) -> tuple[str, nn.Parameter | None]:
    *parents, leaf = attribute.split(".")
    holder = owner.get_submodule(".".join(parents))
    parameter = holder._parameters.get(leaf)
    if parameter is None:
        return "is computed from other tensors (a parametrization, weight norm or pruning); remove that first", None
    if getattr(owner, "max_norm", None) is not None:
        return "is renormalised in place by max_norm", None
    if isinstance(parameter, nn.UninitializedParameter):
        return "", parameter
    if parameter.ndim < 2 or parameter.numel() == 0:
        return f"has shape {list(parameter.shape)}: nothing to quantize", None
    return "", parameter


def _select(found: list[Weight], skipped: dict[str, str], patterns: list[str]) -> list[Weight]:
    if not patterns:
        raise ArgumentError("[find_weights] layers is empty; give names or patterns, or None for every layer")
    names = {weight.name: [join(*owner) for owner in weight.owners] for weight in found}
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern in skipped:
            raise ArgumentError(f"[find_weights] {pattern} cannot be quantized: it {skipped[pattern]}")
        matches = {first for first, aliases in names.items() if pattern in aliases}
        matches = matches or {first for first, all_ in names.items() if any(fnmatchcase(a, pattern) for a in all_)}
        if not matches:
            passed = [f"{name} {reason}" for name, reason in skipped.items() if fnmatchcase(name, pattern)]
            why = f" ({passed[0]})" if passed else ""
            raise ArgumentError(
                f"[find_weights] {pattern!r} matches no quantizable layer{why}; the layers are {_listed(list(names))}"
            )
        chosen |= matches
    return [weight for weight in found if weight.name in chosen]


def _listed(names: list[str], limit: int = 20) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _check_values(name: str, parameter: torch.Tensor) -> None:
    remedy = f"or leave {name} out with layers=[...]"
    if isinstance(parameter, nn.UninitializedParameter):
        raise ArgumentError(f"[find_weights] {name} has no shape yet; run the lazy module once first, {remedy}")
    if parameter.dtype not in DTYPES:
        raise ArgumentError(
            f"[find_weights] {name} is {str(parameter.dtype).removeprefix('torch.')}, expected a weight of "
            f"float16, bfloat16, float32 or float64; convert it, {remedy}"
        )
    if parameter.is_meta:
        raise ArgumentError(
            f"[find_weights] {name} is on the meta device and has no values; load weights first, {remedy}"
        )
    if not bool(torch.isfinite(parameter).all()):
        place = [int(i) for i in (~torch.isfinite(parameter)).nonzero()[0]]
        raise ArgumentError(
            f"[find_weights] {name} holds NaN or infinity, first at {place}; repair the weights, {remedy}"
        )
