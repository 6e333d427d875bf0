"""The result of `recover`: the packed module, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tqs_fast._files import encode_array
from tqs_fast._table import Table, format_number


@dataclass(frozen=True)
class Progress:
    """One look at the weights, on initial conditions that training never sees.

    Attributes:
        step: steps taken before.
        seconds: since the start, looks included.
        latent: damage with the float weights w that are trained.
        deployed: damage with Q(w), which is what would be packed.
        distance: ‖Q(w) - w‖ / ‖w‖ over all planned weights.
    """

    step: int
    seconds: float
    latent: float
    deployed: float
    distance: float


@dataclass(frozen=True, eq=False)
class Recovery:
    """What training won back.

    Attributes:
        module: packed, with the weights of the look of least deployed damage: bit for bit what was measured there.
        history: a look before the first step, and after every `every` steps.
        best: index into `history`.
        provenance: method, budget, and what was rolled out, as JSON values; also in the plan of `module`.
    """

    module: nn.Module
    history: tuple[Progress, ...]
    best: int
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Share of the damage at the start that is gone, on the held-out initial conditions: 1 is all of it."""
        start = self.history[0].deployed
        return 1 - self.history[self.best].deployed / start if start > 0 else float("nan")

    def table(self) -> Table:
        """One row per look."""
        rows = tuple(
            (str(look.step), *map(format_number, (look.seconds, look.latent, look.deployed, look.distance)))
            for look in self.history
        )
        best = self.history[self.best]
        caption = f"kept: step {best.step}, {format_number(100 * self.share)} % of the damage won back"
        return Table(("step", "seconds", "latent", "deployed", "distance"), rows, (True,) * 5, caption)

    def __str__(self) -> str:
        return str(self.table())

    def to_json(self) -> dict[str, Any]:
        """The looks and how they came about, as JSON values; NaN is None, infinity "inf"."""
        looks = [{name: encode_array(value) for name, value in vars(look).items()} for look in self.history]
        return {"history": looks, "best": self.best, "share": encode_array(self.share), "provenance": self.provenance}
