"""Complex numbers: a last axis of size 2. Fourier transforms are products with constant cosines and sines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from tqs_fast.capture.graph import Operand, Tensor, broadcast
from tqs_fast.capture.lowering.elementwise import SIMPLE
from tqs_fast.capture.lowering.products import linear
from tqs_fast.capture.lowering.registry import Context, lowers
from tqs_fast.capture.lowering.rows import to_last


def parts(context: Context, x: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part."""
    return context.graph.select(x, -1, 0), context.graph.select(x, -1, 1)


def pair(context: Context, real: Tensor, imaginary: Tensor) -> Tensor:
    columns = [context.graph.reshape(part, (*part.sizes, 1)) for part in (real, imaginary)]
    return context.graph.concatenate(columns, -1)


@lowers(
    "aten.alias.default",
    "aten.clone.default",
    "aten.detach.default",
    "aten.view_as_complex.default",
    "aten.view_as_real.default",
    complex=True,
)
def identity(context: Context, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


@lowers("aten.real.default", complex=True)
def real(context: Context, x: Tensor) -> Tensor:
    return parts(context, x)[0]


@lowers("aten.imag.default", complex=True)
def imaginary(context: Context, x: Tensor) -> Tensor:
    return parts(context, x)[1]


@lowers("aten.complex.default", complex=True)
def from_parts(context: Context, x: Tensor, y: Tensor) -> Tensor:
    sizes = broadcast(x.sizes, y.sizes)
    return pair(context, context.graph.expand(x, sizes), context.graph.expand(y, sizes))


@lowers("aten._conj.default", "aten.conj.default", "aten._conj_physical.default", complex=True)
def conjugate(context: Context, x: Tensor) -> Tensor:
    return context.elementwise("multiply", x, context.graph.fold(_conjugation, precision=x.precision))


@lowers("aten._to_copy.default", complex=True)
def convert(context: Context, x: Tensor, **_: Any) -> Tensor:
    x = context.convert(x, context.precision_of(context.returned.dtype))
    return x if _is_complex(context, 0) else pair(context, x, context.full(x.sizes, 0.0, x.precision))


@lowers("aten._resolve_conj.default", "aten.resolve_conj.default", "aten._neg_view.default", complex=True)
def resolve(context: Context, x: Tensor) -> Tensor:
    return context.elementwise("negate", x) if "neg" in str(context.node.target) else x


@lowers("aten.abs.default", complex=True)
def absolute(context: Context, x: Tensor) -> Tensor:
    re, im = parts(context, x)
    squares = (context.elementwise("multiply", part, part) for part in (re, im))
    return context.elementwise("square_root", context.elementwise("add", *squares))


@lowers("aten.angle.default", complex=True)
def angle(context: Context, x: Tensor) -> Tensor:
    re, im = parts(context, x)
    return context.elementwise("atan2", im, re)


@lowers("aten.mul.Tensor", complex=True)
def multiply(context: Context, x: Operand, y: Operand) -> Tensor:
    both = [_is_complex(context, position) for position in (0, 1)]
    if not all(both):
        number, factor = (x, y) if both[0] else (y, x)
        if isinstance(factor, Tensor):
            factor = context.graph.reshape(factor, (*factor.sizes, 1))
        return context.elementwise("multiply", number, factor)
    assert isinstance(x, Tensor)
    assert isinstance(y, Tensor)
    (a, b), (c, d) = parts(context, x), parts(context, y)

    def product(left: Tensor, right: Tensor) -> Tensor:
        return context.elementwise("multiply", left, right)

    return pair(
        context,
        context.elementwise("subtract", product(a, c), product(b, d)),
        context.elementwise("add", product(a, d), product(b, c)),
    )


@lowers("aten.add.Tensor", "aten.sub.Tensor", complex=True)
def add(context: Context, x: Tensor, y: Tensor) -> Tensor:
    if not all(_is_complex(context, position) for position in (0, 1)):
        raise context.error("a sum of a complex and a real tensor is not supported")
    return context.elementwise(SIMPLE.get(_name(context), "add" if "add" in _name(context) else "subtract"), x, y)


def _name(context: Context) -> str:
    return str(context.node.target).removeprefix("aten.")


def _is_complex(context: Context, position: int) -> bool:
    argument = context.node.args[position]
    if isinstance(argument, complex):
        raise context.error("complex numbers as arguments are not supported")
    return isinstance(argument, torch.fx.Node) and argument.meta["val"].dtype.is_complex


@lowers(
    "aten.slice.Tensor",
    "aten.select.int",
    "aten.unsqueeze.default",
    "aten.permute.default",
    "aten.view.default",
    "aten.expand.default",
    complex=True,
)
def view(context: Context, x: Tensor, *arguments: Any) -> Tensor:
    """As of a real tensor, with the last axis left alone."""
    graph, rank = context.graph, x.rank - 1
    name = _name(context)
    if name == "permute.default":
        return graph.permute(x, [*(axis % rank for axis in arguments[0]), rank])
    if name in ("view.default", "unsqueeze.default"):
        return graph.reshape(x, (*context.sizes, 2))
    if name == "expand.default":
        return graph.expand(x, (*context.sizes, 2))
    axis = arguments[0] % rank if arguments else 0
    start = arguments[1] if len(arguments) > 1 and arguments[1] is not None else 0
    size = x.sizes[axis]
    start = min(max(start + size if start < 0 else start, 0), size)
    if name == "select.int":
        return graph.select(x, axis, start)
    return graph.slice(x, axis, start, context.sizes[axis], arguments[3] if len(arguments) > 3 else 1)


@lowers("aten._fft_r2c.default", complex=True)
def real_to_complex(context: Context, x: Tensor, axes: Sequence[int], normalization: int, onesided: bool) -> Tensor:
    return _transform(context, x, list(axes), normalization, True, real_input=True, onesided=onesided)


@lowers("aten._fft_c2c.default", complex=True)
def complex_to_complex(context: Context, x: Tensor, axes: Sequence[int], normalization: int, forward: bool) -> Tensor:
    return _transform(context, x, list(axes), normalization, forward, real_input=False, onesided=False)


@lowers("aten._fft_c2r.default", complex=True)
def complex_to_real(context: Context, x: Tensor, axes: Sequence[int], normalization: int, last: int) -> Tensor:
    """Other axes first, then the last one from half a spectrum to `last` real values."""
    axes = [axis % (x.rank - 1) for axis in axes]
    sizes = [x.sizes[axis] for axis in axes[:-1]] + [last]
    if len(axes) > 1:
        x = _transform(context, x, axes[:-1], 0, False, real_input=False, onesided=False)
    scale = _scale(normalization, math.prod(sizes))
    order, back = to_last(x.rank - 1, axes[-1])
    rows = context.graph.permute(x, [*order, x.rank - 1])
    flat = context.graph.reshape(rows, (*rows.sizes[:-2], rows.sizes[-2] * 2))
    matrix = context.graph.fold(_inverse_real, rows.sizes[-2], last, scale, precision=x.precision)
    return context.graph.permute(linear(context, flat, matrix), back)


def _transform(
    context: Context,
    x: Tensor,
    axes: list[int],
    normalization: int,
    forward: bool,
    *,
    real_input: bool,
    onesided: bool,
) -> Tensor:
    rank = x.rank if real_input else x.rank - 1
    axes = [axis % rank for axis in axes]
    scale = _scale(normalization, math.prod(x.sizes[axis] for axis in axes))
    for axis in reversed(axes):
        size = x.sizes[axis]
        bins = size // 2 + 1 if real_input and onesided else size
        order, back = to_last(rank, axis)
        if real_input:
            rows = context.graph.permute(x, order)
        else:
            rows = context.graph.permute(x, [*order, rank])
            rows = context.graph.reshape(rows, (*rows.sizes[:-2], size * 2))
        matrix = context.graph.fold(_fourier, size, bins, forward, real_input, scale, precision=x.precision)
        y = linear(context, rows, matrix)
        y = context.graph.reshape(y, (*y.sizes[:-1], bins, 2))
        x = context.graph.permute(y, [*back, rank])
        real_input, onesided, scale = False, False, 1.0
    return x


def _scale(normalization: int, count: int) -> float:
    """fft_norm_mode: none, by the root of the count, by the count."""
    return (1.0, count**-0.5, 1.0 / count)[normalization]


def _angles(bins: int, size: int) -> torch.Tensor:
    # the product modulo the size first: the angle keeps its digits
    turns = torch.outer(torch.arange(bins), torch.arange(size)) % size
    return turns.double() * (2 * math.pi / size)


def _fourier(size: int, bins: int, forward: bool, real_input: bool, scale: float) -> torch.Tensor:
    """[bins * 2, size] or [bins * 2, size * 2]: exp(-+ i angle) on pairs."""
    cosine, sine = torch.cos(_angles(bins, size)) * scale, torch.sin(_angles(bins, size)) * scale
    sine = -sine if forward else sine
    if real_input:
        return torch.stack([cosine, sine], 1).reshape(bins * 2, size)
    rows = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    return rows.reshape(bins * 2, size * 2)


def _inverse_real(bins: int, size: int, scale: float) -> torch.Tensor:
    """[size, bins * 2]: half a spectrum stands for its conjugate half too; imaginary parts at the ends are ignored."""
    angles = torch.outer(torch.arange(size), torch.arange(bins)).remainder(size).double() * (2 * math.pi / size)
    twice = torch.full((bins,), 2.0, dtype=torch.float64)
    twice[0] = 1
    if size % 2 == 0 and bins == size // 2 + 1:
        twice[-1] = 1
    both = torch.stack([torch.cos(angles) * twice, -torch.sin(angles) * twice], -1) * scale
    return both.reshape(size, bins * 2)


def _conjugation() -> torch.Tensor:
    return torch.tensor([1.0, -1.0])
