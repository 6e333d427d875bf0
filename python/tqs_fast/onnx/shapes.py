"""Where the batch lies in the tensors of a graph, and what its other free sizes are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tqs_fast.errors import ArgumentError
from tqs_fast.onnx.session import Port

BATCH_NAMES = ("batch", "batch_size", "batchsize", "n", "b", "bs")
LARGEST = 2**31  # values of one state or input of one rollout: beyond it a size in the file is wrong


def batch_axes(
    ports: Sequence[Port], given: Mapping[str, int] | None, sizes: Mapping[str, int], where: str
) -> dict[str, int] | None:
    """Axis of the batch by name of the port; None where the graph takes one initial condition at a time.

    A free size is the batch where every port has it once and nothing else does as well; a size called "batch" wins.

    Raises:
        ArgumentError: several free sizes could be the batch, or an axis that does not exist.
    """
    if given is not None:
        for port in ports:
            if port.name in given and not 0 <= given[port.name] < len(port.shape):
                raise ArgumentError(f"[OnnxSystem] {where}: {port} has no axis {given[port.name]}; correct batch_axes")
        missing = [str(port) for port in ports if port.name not in given]
        if missing and given:
            raise ArgumentError(f"[OnnxSystem] {where}: batch_axes lacks {', '.join(missing)}; add them")
        return dict(given) or None
    common = [
        size
        for size in dict.fromkeys(ports[0].shape)
        if isinstance(size, str) and size not in sizes and all(port.shape.count(size) == 1 for port in ports)
    ]
    named = [size for size in common if size.lower() in BATCH_NAMES]
    candidates = named or common
    if len(candidates) > 1:
        raise ArgumentError(
            f"[OnnxSystem] {where}: the batch could be any of {', '.join(candidates)}; give sizes={{...}} for the rest"
        )
    if candidates:
        return {port.name: port.shape.index(candidates[0]) for port in ports}
    if all(port.shape and port.shape[0] is None and port.shape.count(None) == 1 for port in ports):
        return {port.name: 0 for port in ports}
    return None


def row_shape(port: Port, batch: int | None, sizes: Mapping[str, int], where: str) -> tuple[int, ...]:
    """Shape of one initial condition's tensor at `port`, without the batch axis.

    Args:
        batch: axis of the batch, or None.
        sizes: of free dimensions, by their name, or "input:axis" for one without a name.

    Raises:
        ArgumentError: a free size that is not given, or a shape that no computer holds.
    """
    shape = []
    for axis, size in enumerate(port.shape):
        if axis == batch:
            continue
        if not isinstance(size, int):
            name = size if size is not None else f"{port.name}:{axis}"
            found = sizes.get(name, sizes.get(f"{port.name}:{axis}"))
            if found is None and axis == 0 and batch is None:
                found = 1  # rows or time of a graph whose states have no batch: one at a time
            if found is None:
                raise ArgumentError(
                    f"[OnnxSystem] {where}: the size {name!r} of {port} is free; give sizes={{{name!r}: ...}}, or "
                    "batch_axes where it is the batch"
                )
            size = found
        shape.append(size)
    if math.prod(shape) > LARGEST or any(size < 1 for size in shape):
        raise ArgumentError(
            f"[OnnxSystem] {where}: one value of {port} would be of shape {shape}; expected sizes of at least 1 and at "
            f"most {LARGEST} values; export the model with its true sizes"
        )
    return tuple(shape)
