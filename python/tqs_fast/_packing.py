"""Packed weights: the object, how it is made from floats, and its form for one instruction set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tqs_fast._formats import check_format, check_shape, group_count, is_tensor, row_bytes, shape_text, thread_count
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError

if TYPE_CHECKING:
    import torch

SEARCHES = ("minmax", "mse")

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight matrix [N, K] at `bits` per code.

    Attributes:
        codes: uint8 [N, ceil(K * bits / 8)], each row a little-endian bitstream.
        scales: uint16 [N, G], bfloat16 bit patterns; G = ceil(K / group_size), or 1 for group_size 0.
        zeros: uint8 [N, G], or None for the symmetric form (zero point 2^(bits-1)).
        bits: 2, 3, 4 or 8.
        group_size: 32, 64, 128, or 0 for one scale per row.
        shape: (N, K).

    Raises:
        ArgumentError: an array has another shape or dtype than the format wants.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.uint16]
    zeros: npt.NDArray[np.uint8] | None
    bits: int
    group_size: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        check_format("PackedWeight", self.bits, self.group_size)
        check_shape("PackedWeight", self.shape)
        rows, columns = self.shape
        groups = group_count(columns, self.group_size)
        self._settle("codes", np.dtype(np.uint8), (rows, row_bytes(columns, self.bits)))
        self._settle("scales", np.dtype(np.uint16), (rows, groups))
        if self.zeros is not None:
            self._settle("zeros", np.dtype(np.uint8), (rows, groups))

    def _settle(self, name: str, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
        array = getattr(self, name)
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
            got = f"{array.dtype} {shape_text(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ArgumentError(
                f"[PackedWeight] expected {name} to be a {dtype} array of shape {shape_text(shape)} for a "
                f"{self.bits}-bit weight {shape_text(self.shape)} with group_size {self.group_size}, got {got}"
            )
        object.__setattr__(self, name, np.require(array, requirements=["C_CONTIGUOUS", "ALIGNED"]))

    @cached_property
    def view(self) -> core.PackedView:
        """The arrays as the native calls take them."""
        return core.PackedView(
            codes=self.codes.ctypes.data,
            scales=self.scales.ctypes.data,
            zeros=0 if self.zeros is None else self.zeros.ctypes.data,
            rows=self.shape[0],
            columns=self.shape[1],
            group_size=self.group_size,
            bits=self.bits,
        )

    def __reduce__(self) -> tuple[type[PackedWeight], tuple[object, ...]]:
        return PackedWeight, (self.codes, self.scales, self.zeros, self.bits, self.group_size, self.shape)

    @property
    def symmetric(self) -> bool:
        return self.zeros is None

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zeros is None else self.zeros.nbytes)

    def dequantize(self, *, threads: int | None = None) -> FloatArray:
        """The values the codes stand for, float32 [N, K]; exact. `threads` as for `pack`."""
        count = thread_count("dequantize", threads)
        values = np.empty(self.shape, np.float32)
        core.dequantize(self.view, out=values.ctypes.data, stride=self.shape[1], threads=count)
        return values

    def prepack(self) -> PreparedWeight:
        """This weight rewritten for the instruction set in use: faster products, the same results to rounding."""
        return PreparedWeight(self)


class PreparedWeight:
    """A `PackedWeight` in the layout of one instruction set; made by `PackedWeight.prepack`, kept in memory only.

    Pickling or copying it carries the portable form and prepacks again where it arrives.
    """

    def __init__(self, packed: PackedWeight) -> None:
        self.packed = packed
        self.native = core.prepack(packed.view)

    def __reduce__(self) -> tuple[type[PreparedWeight], tuple[PackedWeight]]:
        return PreparedWeight, (self.packed,)

    @property
    def isa(self) -> str:
        return self.native.isa

    @property
    def shape(self) -> tuple[int, int]:
        return self.packed.shape


def pack(
    weight: npt.NDArray[Any] | torch.Tensor,
    *,
    bits: int,
    group_size: int = 128,
    symmetric: bool = True,
    search: str = "mse",
    threads: int | None = None,
) -> PackedWeight:
    """Round `weight` to `bits`-bit codes with one scale per group.

    Args:
        weight: [N, ...] of at least two dimensions, any float dtype and strides, read as float32; the matrix is
            [N, product of the rest].
        bits: 2, 3, 4 or 8.
        group_size: 32, 64, 128, or 0 for one scale per row.
        symmetric: False stores a zero point per group.
        search: "minmax" takes the extremes; "mse" the scale of least squared error among a grid of candidates refined
            by least squares (csrc/quant/search.h), never worse than "minmax".
        threads: at most so many, fewer where the weight is small; None for the default. The result does not depend on
            it.

    Returns:
        the packed weight; the same bytes on every machine.

    Raises:
        ArgumentError: a wrong argument, or NaN or infinity in `weight` (its first coordinate is named).
    """
    check_format("pack", bits, group_size)
    if search not in SEARCHES:
        raise ArgumentError(f"[pack] search must be one of {SEARCHES}, got {search!r}")
    count = thread_count("pack", threads)
    matrix = _matrix(weight)
    rows, columns = matrix.shape
    groups = group_count(columns, group_size)
    codes = np.empty((rows, row_bytes(columns, bits)), np.uint8)
    scales = np.empty((rows, groups), np.uint16)
    zeros = None if symmetric else np.empty((rows, groups), np.uint8)
    core.quantize(
        weights=matrix.ctypes.data,
        rows=rows,
        columns=columns,
        stride=columns,
        bits=bits,
        group_size=group_size,
        mse=search == "mse",
        codes=codes.ctypes.data,
        scales=scales.ctypes.data,
        zeros=0 if zeros is None else zeros.ctypes.data,
        threads=count,
    )
    return PackedWeight(codes, scales, zeros, bits, group_size, (rows, columns))


def round_to_grid(weight: FloatArray, grid: PackedWeight) -> PackedWeight:
    """The nearest codes of `weight` [N, K] for the scales and zero points of `grid`, whose codes do not matter.

    Rounding is that of `pack` once it has chosen a scale (csrc/quant/search.h).
    """
    rows, columns = grid.shape
    width = grid.group_size or columns
    scales = (grid.scales.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    zeros = np.full(scales.shape, 2.0 ** (grid.bits - 1)) if grid.zeros is None else grid.zeros.astype(np.float64)
    scale, zero = (np.repeat(part, width, axis=1)[:, :columns] for part in (scales, zeros))
    q = np.rint(np.clip(weight.astype(np.float64) * (1.0 / scale), -zero, 2**grid.bits - 1 - zero))
    planes = ((q + zero).astype(np.uint8)[:, :, None] >> np.arange(grid.bits, dtype=np.uint8)) & 1
    codes = np.packbits(planes.reshape(rows, -1), axis=1, bitorder="little")
    return PackedWeight(codes, grid.scales, grid.zeros, grid.bits, grid.group_size, grid.shape)


def _matrix(weight: npt.NDArray[Any] | torch.Tensor) -> FloatArray:
    if isinstance(weight, np.ndarray):
        values, floating = weight, np.issubdtype(weight.dtype, np.floating)
    elif is_tensor(weight):
        floating = weight.is_floating_point()
        values = weight.detach().float().cpu().numpy() if floating else np.empty(0)
    else:
        raise ArgumentError(f"[pack] weight must be a numpy array or a torch tensor, got {type(weight).__name__}")
    if not floating:
        raise ArgumentError(f"[pack] weight must be floating point, got {weight.dtype}")
    if len(weight.shape) < 2 or 0 in weight.shape:
        raise ArgumentError(
            "[pack] expected a non-empty weight of at least two dimensions [N, ...], "
            f"got shape {shape_text(weight.shape)}"
        )
    # A float64 beyond float32 becomes infinity, which the kernel reports with its coordinate.
    with np.errstate(over="ignore"):
        return np.require(values.reshape(values.shape[0], -1), np.float32, ["C_CONTIGUOUS", "ALIGNED"])
