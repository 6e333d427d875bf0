"""`fracast`: an 85,001-parameter trained forecaster of any series, 2048 values of context, 48 per step.

The modules and fp32 weights come from the fracast package; its median forecast is fed back. Each step scales the window
to [0, 1] by its own minimum and range, as the package does. NaN marks missing values (the left edge of a short series).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.systems.synthetic import KINDS, synthetic_windows
from tqs_fast.systems.system import Forecaster

MIN_FINITE = 8  # observed values that a window needs
MIN_SPAN = 1e-5


class Fracast(torch.nn.Module):
    """`core` and `head` of a fracast model as one module.

    Args:
        core: encoder, [N, 1, context] values, mask and coverage -> [N, context, D].
        head: [N, context, D] -> quantiles [N, block, Q].
        median: index of the median among the Q quantiles.
    """

    def __init__(self, core: torch.nn.Module, head: torch.nn.Module, *, median: int) -> None:
        super().__init__()
        self.core = core
        self.head = head
        self.median = median

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """`window` [N, context, 1], NaN where missing -> median forecast [N, block, 1]."""
        series = window[..., 0]
        observed = torch.isfinite(series)
        # float64 as in the package: the range of a series with a large offset keeps its digits
        lowest = torch.where(observed, series, torch.inf).amin(dim=1, keepdim=True).double()
        highest = torch.where(observed, series, -torch.inf).amax(dim=1, keepdim=True).double()
        span = (highest - lowest).clamp_min(MIN_SPAN)
        scaled = torch.where(observed, (series.double() - lowest) / span, 0.0).to(window.dtype)
        values, mask = scaled.unsqueeze(1), observed.unsqueeze(1)
        hidden = self.core(values, mask, mask.to(values.dtype))
        decode: Callable[..., torch.Tensor] = self.head.forward_horizon  # type: ignore[assignment]
        quantiles = decode(hidden, last_obs=scaled[:, -1:], ctx=scaled, ctx_mask=observed)
        forecast = quantiles[:, :, self.median].double() * span + lowest
        return forecast.to(window.dtype).unsqueeze(-1)


def fracast() -> Forecaster:
    """The packaged fp32 model as a system; nothing is downloaded. Random windows are synthetic series.

    Rolled on without end, most of its forecasts die to a constant: it has no attractor to start from.

    Raises:
        ArgumentError: the fracast package is not installed.
    """
    if find_spec("fracast") is None:
        raise ArgumentError('[load_system] fracast needs the fracast package: pip install "tqs-fast[models]"')
    from fracast import FracastModel

    original = FracastModel.from_pretrained(weights="fp32")
    median = min(range(len(original.quantiles)), key=lambda q: abs(original.quantiles[q] - 0.5))
    context = original.context_length

    def random_windows(count: int, generator: torch.Generator) -> torch.Tensor:
        return synthetic_windows(count, context, 1, kinds=KINDS, generator=generator)

    return Forecaster(
        Fracast(original.core, original.head, median=median),
        context,
        block=original.horizon,
        initial_state=random_windows,
        default_initial="synthetic",
        name="fracast",
    )
