"""Leading singular values of an operator of which only products are known, by Rayleigh-Ritz on a growing subspace.

With V [D, m] orthonormal and W = M V = U S Xᵀ (a small SVD), the values S approximate the largest σ_i from below, with
right vectors V X and left vectors U. What is missing shows in the residual

    r_i = Mᵀ u_i - σ_i v_i,    |σ - σ_i| <= ‖r_i‖ for some singular value σ of M,

which is orthogonal to V. Block Krylov (Golub and Kahan, 1965, with blocks and full orthogonalisation) adds the
residuals to V; plain power iteration (of a block) throws V away and goes on with Mᵀ U, and is here as the simple
baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

OVERSAMPLING = 2  # directions beyond those wanted, against clusters at the edge of the block


class Operator(Protocol):
    """M and Mᵀ of A samples."""

    def forward(self, block: torch.Tensor) -> torch.Tensor:
        """M times `[A, D, K]`."""

    def adjoint(self, block: torch.Tensor) -> torch.Tensor:
        """Mᵀ times `[A, D, K]`."""


@dataclass(frozen=True, eq=False)
class SingularValues:
    """The E largest of A samples.

    Attributes:
        values: decreasing, `[A, E]`.
        right: right singular vectors, `[A, D, E]`.
        residuals: ‖Mᵀ u - σ v‖, `[A, E]`.
        limited: where rounding keeps the residual above the tolerance, `[A, E]`.
        converged: where it is within the tolerance, `[A, E]`.
        iterations: blocks taken.
    """

    values: torch.Tensor
    right: torch.Tensor
    residuals: torch.Tensor
    limited: torch.Tensor
    converged: torch.Tensor
    iterations: int


def singular_values(
    operator: Operator,
    *,
    samples: int,
    size: int,
    count: int,
    krylov: bool,
    tolerance: float,
    rounding: float,
    iterations: int,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> SingularValues:
    """The `count` largest singular values, until every ‖r_i‖ <= tolerance σ_i.

    Args:
        operator: M and Mᵀ.
        samples, size: A and D.
        krylov: keep the whole subspace; else power iteration.
        tolerance: of the residuals, relative to each value.
        rounding: of a product, relative to the largest value: no residual falls below it.
        iterations: blocks at most.
        generator: of the random block that it starts from.
        report: is called with the number of iterations done.
    """
    width = min(count + OVERSAMPLING, size)
    start = torch.randn(samples, size, width, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(start)[0]
    images = operator.forward(basis)
    for iteration in range(1, iterations + 1):
        left, values, coordinates = torch.linalg.svd(images, full_matrices=False)
        right = basis @ coordinates.transpose(1, 2)[:, :, :width]
        back = operator.adjoint(left[:, :, :width])
        residuals = back - right * values[:, None, :width]
        sizes = torch.linalg.vector_norm(residuals, dim=1)[:, :count]
        converged = sizes <= tolerance * values[:, :count]
        limited = ~converged & (sizes <= rounding * values[:, :1])
        report(iteration)
        settled = bool((converged | limited).all())
        if settled or iteration == iterations or (krylov and basis.shape[2] == size):
            # the subspace is everything: what residual is left is rounding
            if krylov and basis.shape[2] == size:
                limited = ~converged
            return SingularValues(values[:, :count], right[:, :, :count], sizes, limited, converged, iteration)
        if krylov:
            block = extend(basis, residuals[:, :, : size - basis.shape[2]], generator)
            basis = torch.cat([basis, block], dim=2)
            images = torch.cat([images, operator.forward(block)], dim=2)
        else:
            basis = torch.linalg.qr(back)[0]
            images = operator.forward(basis)
    raise AssertionError("the last iteration returns")


def extend(basis: torch.Tensor, block: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As many orthonormal columns as `block` [A, D, K] has, orthogonal to `basis`, spanning what is new in `block`.

    Columns that are negligible against the largest are rounding, and replaced by random ones.
    """
    sizes = torch.linalg.vector_norm(block, dim=1, keepdim=True)
    fresh = torch.randn(block.shape, generator=generator, dtype=block.dtype)
    tiny = sizes <= 1e-14 * sizes.amax(dim=2, keepdim=True)
    block = torch.where(tiny, fresh, block / torch.where(tiny, 1.0, sizes))
    # Twice is enough for columns that are new (Kahan, Parlett); a third for those that only became so by rounding.
    for _ in range(3):
        block = block - basis @ (basis.transpose(1, 2) @ block)
        block = torch.linalg.qr(block)[0]
    return block
