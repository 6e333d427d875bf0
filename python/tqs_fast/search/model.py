"""A model of measured damage that is cheap to ask: additive over groups, fitted anew after every batch of rollouts.

    damage(plan) ≈ Σ_g θ[g, b_g]

The sum is the first-order prediction of the table with its terms left free: θ starts from the table's damages with a
spread as large as they are, and measured plans pull it to where sums agree with rollouts (Bayesian linear regression).
Errors of layers do interfere, which an additive model cannot say; what it cannot say it treats as noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tqs_fast.search.space import Bits, Space

FloatArray = npt.NDArray[np.float64]

# Tried at 150 evaluations on lorenz-gru (27 groups, 3 and 4 bits) and silero-vad (25 groups, 4 bits), batches of 8:
# noise of 0.05 and 0.1 left 0.45 to 0.57 of the first-order plan's damage on unseen conditions, 0.3 left 0.50 to 0.59,
# and moves drawn at random, without a model, 0.58 to 0.74.
NOISE = 0.1  # of a measured damage: what the sum cannot say
FLOOR = 0.05  # of the best damage, shared by all groups: no term is so small that rollouts could not correct it
CEILING = 1e3  # times the best damage: a plan beyond it, or one that diverged, says only that it is bad


class Additive:
    """The posterior of θ `[G, K]`: G groups, K the longest menu; entries past a menu are infinite.

    Args:
        space: its choices and their first-order damages.
        plans, damages: what has been measured.
    """

    def __init__(self, space: Space, plans: Sequence[Bits], damages: FloatArray) -> None:
        self._shape = (len(space.menus), max(map(len, space.menus)))
        free = [(g, k) for g, menu in enumerate(space.menus) for k in range(len(menu)) if len(menu) > 1]
        self._rows, self._columns = (np.array([pair[axis] for pair in free], dtype=np.int64) for axis in (0, 1))
        self._fixed = np.full(self._shape, np.inf)
        for g, menu in enumerate(space.menus):
            self._fixed[g, : len(menu)] = 0.0
        first_order = np.array([space.choice_damage(g, space.menus[g][k]) for g, k in free])
        finite = damages[np.isfinite(damages)]
        best = float(finite.min()) if len(finite) and finite.min() > 0 else 1.0
        predicted = np.array([space.predicted(bits) for bits in plans])
        both = np.isfinite(predicted) & (predicted > 0) & np.isfinite(damages)
        scale = float(np.median(damages[both] / predicted[both])) if both.any() else 1.0
        prior = first_order * scale / best
        spread = prior + FLOOR / len(space.menus)
        # A rival may use a choice that is no move (its own rollout diverged): it has no term in the sum.
        index = {(g, space.menus[g][k]): i for i, (g, k) in enumerate(free)}
        known = [
            r
            for r, bits in enumerate(plans)
            if all((g, b) in index or len(space.menus[g]) == 1 for g, b in enumerate(bits))
        ]
        design = np.zeros((len(known), len(free)))
        for row, r in enumerate(known):
            for g, b in enumerate(plans[r]):
                if (g, b) in index:
                    design[row, index[g, b]] = 1.0
        target = np.minimum(damages[known] / best, CEILING)
        noise = NOISE * np.maximum(target, 1.0)
        # In units of the prior's spread the prior is the identity, which keeps the system well conditioned.
        scaled = design * spread / noise[:, None]
        precision = np.eye(len(free)) + scaled.T @ scaled
        residual = (target - design @ prior) / noise
        self._mean = prior + spread * np.linalg.solve(precision, scaled.T @ residual)
        self._spread = spread
        self._factor = np.linalg.cholesky(precision)

    @property
    def mean(self) -> FloatArray:
        """θ as expected, `[G, K]`."""
        return self._full(self._mean)

    def draw(self, generator: np.random.Generator) -> FloatArray:
        """One θ of the posterior, `[G, K]`: proposing what is best under a draw explores as much as is unknown."""
        normal = generator.standard_normal(len(self._mean))
        return self._full(self._mean + self._spread * np.linalg.solve(self._factor.T, normal))

    def _full(self, values: FloatArray) -> FloatArray:
        full = self._fixed.copy()
        full[self._rows, self._columns] = values
        return full
