"""How lanes fold into the batch: which dimension of every tensor that meets a weight is the batch.

Nothing is assumed of the network. One step is recorded at two batch sizes; the one dimension of a tensor whose size
follows the batch is its batch dimension. A call in which a weight meets no batch (a table computed from constants, a
transposed weight) cannot fold, and its weights take the serial path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import torch
from torch.overrides import TorchFunctionMode

from tqs_fast.engines.arguments import tensors


@dataclass(frozen=True)
class BatchDimension:
    """Dimension `dim` has size `multiple * batch`."""

    dim: int
    multiple: int


@dataclass(frozen=True)
class Call:
    """One call that is given a scored weight.

    Attributes:
        function: the torch function.
        weights: position among the tensor arguments -> index of the weight.
        inputs: the batch dimension of every tensor argument, None where it has none.
        outputs: the same of every tensor result; empty for calls such as `weight.shape`.
    """

    function: Callable[..., Any]
    weights: dict[int, int]
    inputs: tuple[BatchDimension | None, ...]
    outputs: tuple[BatchDimension | None, ...]

    @property
    def returns_tensors(self) -> bool:
        return bool(self.outputs)


@dataclass(frozen=True)
class Folding:
    """The recorded calls of one step, in order.

    Attributes:
        calls: the calls that are given a scored weight.
        serial: weight index -> why it cannot fold.
        unused: indices of weights that no torch function is given.
        bytes_per_state: peak size of the tensors alive during the step, per initial condition.
    """

    calls: tuple[Call, ...]
    serial: dict[int, str]
    unused: tuple[int, ...]
    bytes_per_state: int


class Recorder(TorchFunctionMode):
    """Records the shapes around every call that is given one of `weights`, and the peak of live results in bytes."""

    def __init__(self, weights: Sequence[torch.nn.Parameter]) -> None:
        super().__init__()
        self._index = {id(weight): index for index, weight in enumerate(weights)}
        self.calls: list[tuple[Callable[..., Any], dict[int, int], list[torch.Size], list[torch.Size]]] = []
        self._live = 0
        self.peak = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = tensors((args, kwargs))
        result = func(*args, **kwargs)
        returned = tensors(result)
        self._track(returned)
        met = {position: self._index[id(t)] for position, t in enumerate(given) if id(t) in self._index}
        if met:
            self.calls.append((func, met, [t.shape for t in given], [t.shape for t in returned]))
        return result

    def _track(self, returned: list[torch.Tensor]) -> None:
        with torch._C.DisableTorchFunction():
            for tensor in returned:
                if tensor._base is None and not isinstance(tensor, torch.nn.Parameter):
                    size = tensor.numel() * tensor.element_size()
                    self._live += size
                    finalize(tensor, self._release, size)
        self.peak = max(self.peak, self._live)

    def _release(self, size: int) -> None:
        self._live -= size


def compare_records(small: Recorder, large: Recorder, sizes: tuple[int, int], weights: int) -> Folding:
    """The folding that two records of the same step at batch `sizes` (small, large) agree on."""
    used = {index for _, met, _, _ in small.calls for index in met.values()}
    unused = tuple(index for index in range(weights) if index not in used)
    bytes_per_state = -(-large.peak // sizes[1])
    same = len(small.calls) == len(large.calls) and all(
        a[0] == b[0] and a[1] == b[1] and len(a[2]) == len(b[2]) and len(a[3]) == len(b[3])
        for a, b in zip(small.calls, large.calls, strict=False)
    )
    if not same:
        reason = "the calls of a step depend on the batch"
        return Folding((), dict.fromkeys(used, reason), unused, bytes_per_state)

    calls: list[Call] = []
    serial: dict[int, str] = {}
    for (function, met, given_a, returned_a), (_, _, given_b, returned_b) in zip(small.calls, large.calls, strict=True):
        inputs = [_batch_dimension(a, b, sizes) for a, b in zip(given_a, given_b, strict=True)]
        outputs = [_batch_dimension(a, b, sizes) for a, b in zip(returned_a, returned_b, strict=True)]
        name = getattr(function, "__name__", str(function))
        if outputs and not all(isinstance(d, BatchDimension) for d in outputs):
            serial.update(dict.fromkeys(met.values(), f"{name} returns a tensor without a batch dimension"))
        if any(isinstance(d, str) for d in inputs):
            serial.update(dict.fromkeys(met.values(), f"{name} is given a tensor with no single batch dimension"))
        known = [tuple(d if isinstance(d, BatchDimension) else None for d in dims) for dims in (inputs, outputs)]
        calls.append(Call(function, met, known[0], known[1]))
    return Folding(tuple(calls), serial, unused, bytes_per_state)


def _batch_dimension(small: torch.Size, large: torch.Size, sizes: tuple[int, int]) -> BatchDimension | str | None:
    if small == large:
        return None
    if len(small) != len(large):
        return "ambiguous"
    differing = [d for d in range(len(small)) if small[d] != large[d]]
    d = differing[0]
    if len(differing) > 1 or small[d] * sizes[1] != large[d] * sizes[0]:
        return "ambiguous"
    return BatchDimension(d, small[d] // sizes[0])
