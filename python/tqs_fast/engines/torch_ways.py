"""How torch may be able to differentiate a step, in order of preference, and finding the first way that works.

Where torch has no rule for a fused kernel (attention, LSTM, encoder layers) the same mathematics is run on elementary
operations; where an operation cannot be batched over tangents they go one by one. Finite differences never stand in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tqs_fast.capture.cells import CellsWrittenOut
from tqs_fast.errors import ArgumentError, TqsError

Result = TypeVar("Result")

# What torch raises where a transform does not know an operation (the warning says that vmap would loop inside it).
UNSUPPORTED = (RuntimeError, ValueError, TypeError, UserWarning)


@dataclass(frozen=True)
class Way:
    """How K directions are pushed or pulled through a step.

    Attributes:
        together: all at once by vmap, else one by one.
        elementary: on elementary kernels, else on those that torch chooses.
    """

    together: bool
    elementary: bool

    def __str__(self) -> str:
        return ("together" if self.together else "one by one") + (", elementary kernels" if self.elementary else "")

    def run(self, function: Callable[[Way], Result]) -> Result:
        """`function(self)` on the kernels of this way; recurrent cells of CUDA, which no way can use, written out."""
        with CellsWrittenOut(), elementary_kernels() if self.elementary else nullcontext():
            return function(self)


WAYS = tuple(Way(together, elementary) for together in (True, False) for elementary in (False, True))


def first_way(
    name: str, what: str, function: Callable[[Way], Result], *, ways: Sequence[Way] = WAYS
) -> tuple[Way, Result]:
    """The first way in which `function` runs, and its result.

    Args:
        name: of the system, for the message.
        what: cannot be done, for the message.
        function: is known not to fail for other reasons than differentiation.
        ways: to try, in order.

    Raises:
        ArgumentError: none works; with torch's reason.
    """
    reason = ""
    with loading_forward_rules():
        warnings.filterwarnings("error", "There is a performance drop because we have not yet implemented", UserWarning)
        for way in ways:
            try:
                return way, way.run(function)
            except TqsError:
                raise
            except UNSUPPORTED as error:
                reason = str(error).strip().split("\n")[0]
    raise ArgumentError(
        f"[{what}] {name}: torch cannot differentiate a step: {reason}; write the operation it names out of elementary "
        "ones, or give its autograd.Function the rules of torch.func (jvp, vmap)"
    )


@contextmanager
def loading_forward_rules() -> Iterator[None]:
    """Silences what torch says of itself when it loads its forward-mode rules."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.script.* is ", DeprecationWarning)
        yield


@contextmanager
def elementary_kernels() -> Iterator[None]:
    """Attention, LSTMs and encoder layers out of elementary operations, which torch can differentiate in every mode.

    These switches of torch are global: another thread's modules meanwhile run on the same (slower) kernels.
    """
    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    fast_path, onednn = torch.backends.mha.get_fastpath_enabled(), mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    # by attribute: mkldnn.flags() also sets the tf32 switch, which warns on a build without Intel GPUs
    mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mkldnn.enabled = onednn
        torch.backends.mha.set_fastpath_enabled(fast_path)
