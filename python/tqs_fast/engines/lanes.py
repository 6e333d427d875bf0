"""Lanes folded into the batch: many variants of a network in one forward pass.

Every tensor of the state carries `lanes * N` rows, lane-major. Calls that meet no changed weight run once for all
lanes. A call
whose weight differs between lanes runs once per group of lanes that share the same variants; a linear layer whose
variants are used by equally many lanes is one batched matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from tqs_fast.engines.arguments import mention, replace_tensors, tensors
from tqs_fast.engines.folding import BatchDimension, Call, Folding
from tqs_fast.engines.lane_product import LaneProduct, WeightVariants, as_index
from tqs_fast.errors import TqsError


class FoldingError(TqsError):
    """A rollout made other calls than the recorded step: lanes cannot be told apart."""


Result = TypeVar("Result")
Groups = dict[tuple[int | None, ...], list[int]]


class LaneMode(TorchFunctionMode):
    """Runs steps for all lanes at once.

    Args:
        weights: the scored parameters, in the order of the folding's indices.
        variants: weight index -> its variants; weights not named stay float in every lane.
        folding: the recorded step.
        lanes: number of lanes.
        count: initial conditions per lane, N.

    Raises:
        FoldingError: the step makes other calls than the recorded one.
    """

    def __init__(
        self,
        weights: Sequence[torch.nn.Parameter],
        variants: dict[int, WeightVariants],
        folding: Folding,
        lanes: int,
        count: int,
    ) -> None:
        super().__init__()
        self._ids = {id(weight) for weight in weights}
        self._variants = variants
        self._folding = folding
        self._lanes = lanes
        self._count = count
        self._position = 0
        self._groups = [self._group(call) for call in folding.calls]
        self._products = {i: LaneProduct(v) for i, v in variants.items() if v.stacked.dim() == 3}

    def run(self, step: Callable[[], Result]) -> Result:
        """What `step()`, one step of the system, returns for all lanes."""
        self._position = 0
        with self:
            result = step()
        if self._position != len(self._folding.calls):
            raise FoldingError(
                f"[LaneMode] the step made {self._position} calls with weights, expected {len(self._folding.calls)}"
            )
        return result

    def _group(self, call: Call) -> Groups:
        """Lanes by the variants they use in `call`; empty when every lane uses the float weights."""
        columns = [self._variants[w].of_lane for w in call.weights.values() if w in self._variants]
        if not columns or not call.returns_tensors:
            return {}
        every = [
            self._variants[w].of_lane if w in self._variants else (None,) * self._lanes for w in call.weights.values()
        ]
        groups: Groups = {}
        for lane, key in enumerate(zip(*every, strict=True)):
            groups.setdefault(key, []).append(lane)
        return {} if all(variant is None for key in groups for variant in key) else groups

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not mention(self._ids, args) and not (kwargs and mention(self._ids, kwargs.values())):
            return func(*args, **kwargs)
        calls = self._folding.calls
        if self._position >= len(calls) or calls[self._position].function != func:
            raise FoldingError(f"[LaneMode] unexpected call of {getattr(func, '__name__', func)} with a scored weight")
        call, groups = calls[self._position], self._groups[self._position]
        self._position += 1
        if not groups:
            return func(*args, **kwargs)
        return self._run(call, groups, args, kwargs)

    def _run(self, call: Call, groups: Groups, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if call.function in CELLS and not kwargs and _leading(call):
            return self._cell(call, args)
        if call.function is functional.linear and set(call.weights) == {1} and _leading(call):
            x, weight, bias = _linear_arguments(*args, **kwargs)
            return self._linear(x, weight, bias, call.weights[1])
        return self._general(call, groups, args, kwargs)

    def _general(self, call: Call, groups: Groups, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any function: the slice of every batched argument for each group of lanes, results put back in place."""
        float_lanes = groups.get((None,) * len(call.weights), [])
        whole = len(float_lanes) * 2 > self._lanes
        result = call.function(*args, **kwargs) if whole else None
        parts: list[tuple[list[int], Any]] = []
        for key, lanes in groups.items():
            if whole and lanes is float_lanes:
                continue
            chosen = dict(zip(call.weights, key, strict=True))

            def slice_lanes(
                position: int,
                tensor: torch.Tensor,
                lanes: list[int] = lanes,
                chosen: dict[int, int | None] = chosen,
            ) -> torch.Tensor:
                variant = chosen.get(position)
                if variant is not None:
                    return self._variants[call.weights[position]].stacked[variant]
                dimension = call.inputs[position]
                return tensor if dimension is None else self._take(tensor, dimension, lanes)

            group_args, group_kwargs = replace_tensors(slice_lanes, (args, kwargs))
            parts.append((lanes, call.function(*group_args, **group_kwargs)))
        return self._assemble(call, result, parts)

    def _assemble(self, call: Call, result: Any, parts: list[tuple[list[int], Any]]) -> Any:
        columns = [(lanes, tensors(part)) for lanes, part in parts]

        def place(position: int, tensor: torch.Tensor) -> torch.Tensor:
            dimension = call.outputs[position]
            assert dimension is not None
            rows = self._count * dimension.multiple
            if result is None:
                shape = list(tensor.shape)
                shape[dimension.dim] = self._lanes * rows
                tensor = tensor.new_empty(shape)
            view = torch.unflatten(tensor, dimension.dim, (self._lanes, rows))
            for lanes, leaves in columns:
                part = torch.unflatten(leaves[position], dimension.dim, (len(lanes), rows))
                view.index_copy_(dimension.dim, torch.tensor(lanes, device=view.device), part)
            return tensor

        return replace_tensors(place, parts[0][1] if result is None else result)

    def _take(self, tensor: torch.Tensor, dimension: BatchDimension, lanes: list[int]) -> torch.Tensor:
        rows = self._count * dimension.multiple
        if isinstance(as_index(lanes), slice):
            return tensor.narrow(dimension.dim, lanes[0] * rows, len(lanes) * rows)
        split = torch.unflatten(tensor, dimension.dim, (self._lanes, rows))
        return split.index_select(dimension.dim, torch.tensor(lanes, device=split.device)).flatten(
            dimension.dim, dimension.dim + 1
        )

    def _linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, index: int, *, reuse: bool = False
    ) -> torch.Tensor:
        """`x [lanes*N*m, ..., in]` through the weight of each lane: `[lanes*N*m, ..., out]`."""
        if index not in self._products:
            return functional.linear(x, weight, bias)
        per_lane = x.reshape(self._lanes, -1, x.shape[-1])
        y = self._products[index](per_lane, weight, bias, reuse=reuse)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    def _cell(self, call: Call, args: tuple[Any, ...]) -> Any:
        """A recurrent cell as two lane products and its gate arithmetic (formulas of torch.nn.{LSTM,GRU,RNN}Cell)."""
        x, hidden, weight_ih, weight_hh, bias_ih, bias_hh = (*args, None, None)[:6]
        h = hidden[0] if isinstance(hidden, (tuple, list)) else hidden
        position = len(tensors((x, hidden)))
        gates_x = self._linear(x, weight_ih, bias_ih, call.weights.get(position, -1), reuse=True)
        gates_h = self._linear(h, weight_hh, bias_hh, call.weights.get(position + 1, -1), reuse=True)
        return CELLS[call.function](gates_x, gates_h, hidden)


def _leading(call: Call) -> bool:
    """Whether the batch leads in every batched argument and result."""
    return all(d is None or d.dim == 0 for d in (*call.inputs, *call.outputs))


def _linear_arguments(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return input, weight, bias


# The gate arithmetic below overwrites `x`, the input products (that of _gates.py must stay differentiable);
# results are always fresh tensors.


def _lstm(x: torch.Tensor, h: torch.Tensor, state: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    _, cell = state
    i, f, g, o = x.add_(h).chunk(4, -1)
    cell = torch.addcmul(f.sigmoid_() * cell, i.sigmoid_(), g.tanh_())
    return torch.tanh(cell).mul_(o.sigmoid_()), cell


def _gru(x: torch.Tensor, h: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    width = hidden.shape[-1]
    reset, update = x[..., : 2 * width].add_(h[..., : 2 * width]).sigmoid_().chunk(2, -1)
    new = x[..., 2 * width :].addcmul_(reset, h[..., 2 * width :]).tanh_()
    return torch.lerp(new, hidden, update)


def _rnn_tanh(x: torch.Tensor, h: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return (x + h).tanh_()


def _rnn_relu(x: torch.Tensor, h: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return (x + h).relu_()


CELLS: dict[Any, Callable[..., Any]] = {
    torch.lstm_cell: _lstm,
    torch.gru_cell: _gru,
    torch.rnn_tanh_cell: _rnn_tanh,
    torch.rnn_relu_cell: _rnn_relu,
}
