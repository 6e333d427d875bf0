"""How one weight matrix is rounded: the format choices that a score, a plan and a rewritten model share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqs_fast import kernels
from tqs_fast.errors import ArgumentError

if TYPE_CHECKING:
    import torch

BITS = (2, 3, 4, 8)
GROUP_SIZES = (0, 32, 64, 128)
SEARCHES = ("minmax", "mse")


@dataclass(frozen=True)
class Quantizer:
    """Round-to-nearest with group scales (layout: csrc/quant/format.h).

    Attributes:
        group_size: weights per scale along the input dimension: 32, 64, 128, or 0 for one scale per output channel.
        symmetric: True stores no zero points.
        search: "mse" searches the scale that minimises squared error, "minmax" takes the extremes.

    Raises:
        ArgumentError: a value outside these sets.
    """

    group_size: int = 128
    symmetric: bool = True
    search: str = "mse"

    def __post_init__(self) -> None:
        if self.group_size not in GROUP_SIZES:
            raise ArgumentError(
                f"[Quantizer] group_size must be one of {GROUP_SIZES} (0: per channel), got {self.group_size}"
            )
        if self.search not in SEARCHES:
            raise ArgumentError(f"[Quantizer] search must be one of {SEARCHES}, got {self.search!r}")

    def pack(self, weight: torch.Tensor, bits: int) -> kernels.PackedWeight:
        """Quantize `weight` [out, ...] to `bits` per code; the matrix is [out, product of the rest].

        On torch's threads, `torch.get_num_threads()`, at most; the result does not depend on how many.
        """
        import torch

        return kernels.pack(
            weight,
            bits=bits,
            group_size=self.group_size,
            symmetric=self.symmetric,
            search=self.search,
            threads=torch.get_num_threads(),
        )

    def dequantized(self, weight: torch.Tensor, bits: int) -> torch.Tensor:
        """The float32 values that `bits`-bit storage of `weight` stands for, in the shape of `weight`.

        Of a weight on a CUDA device they are made there, with the same bits.
        """
        import torch

        from tqs_fast import _cuda_weights

        sound = weight.dim() > 1 and weight.numel() > 0  # else `pack` says what is wrong
        if _cuda_weights.on_device(weight) and sound and bool(torch.isfinite(weight).all()):
            return _cuda_weights.rounded(
                weight, bits=bits, group_size=self.group_size, symmetric=self.symmetric, search=self.search
            )
        values = self.pack(weight, bits).dequantize(threads=torch.get_num_threads())
        return torch.from_numpy(values).reshape(weight.shape)

    def bytes(self, shape: tuple[int, ...], bits: int | None) -> int:
        """Stored size of a tensor of `shape`: codes, scales and zero points; `bits=None` is float32."""
        if bits is None:
            return 4 * math.prod(shape)
        return kernels.packed_bytes(
            (shape[0], math.prod(shape[1:])), bits=bits, group_size=self.group_size, symmetric=self.symmetric
        )
