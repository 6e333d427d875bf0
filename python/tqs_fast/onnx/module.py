"""A frozen ONNX model as a torch module: its weights are parameters, its forward is ONNX Runtime."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tqs_fast.errors import ArgumentError
from tqs_fast.onnx.lift import LiftedWeight, lift_weights, load_rest
from tqs_fast.onnx.read import check_model, read_model
from tqs_fast.onnx.session import Port, Session


class WeightHolder(nn.Module):
    """Part of a dotted tensor name; holds the weights whose names end here.

    Attributes:
        weight_kinds: attribute -> operator, of every weight held (see `quantization.weights`).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight_kinds: dict[str, str] = {}


class OnnxModule(WeightHolder):
    """An ONNX model with its weights lifted to inputs of one session.

    The parameters have the names of the tensors in the file and the shape `[outputs, ...]` that quantizers expect,
    also where the graph keeps them transposed; they are views of the file's data where that is possible.

    Args:
        path: of the .onnx file, opset 12 or newer; external data lie beside it.
        threads: of ONNX Runtime within one call.

    Attributes:
        path: of the file.
        inputs, outputs: `Port`s by name, without the lifted weights.
        skipped_weights: name -> why a constant that an operator uses as its weight is not one of the parameters.

    Raises:
        ArgumentError: the extra `[onnx]` is not installed.
        FileFormatError: see `onnx.read`; or ONNX Runtime refuses the model.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1) -> None:
        super().__init__()
        self.path = Path(path)
        model = read_model(self.path)
        lifted, self.skipped_weights = lift_weights(model, self.path)
        load_rest(model, self.path)
        check_model(model, self.path)
        self._session = Session(model.SerializeToString(), self.path, threads=threads)
        names = qualified_names([weight.name for weight in lifted])
        self._lifted = dict(zip(names, lifted, strict=True))
        for name, weight in self._lifted.items():
            self._hold(name, weight)
        tensors = {weight.name for weight in lifted}
        self.inputs: dict[str, Port] = {n: port for n, port in self._session.inputs.items() if n not in tensors}
        self.outputs: dict[str, Port] = self._session.outputs
        self._bound = {weight.name: torch.from_numpy(weight.values) for weight in lifted}
        self.eval()

    @property
    def lifted(self) -> dict[str, LiftedWeight]:
        """Parameter name -> the weight as the graph has it."""
        return self._lifted

    def run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """All outputs by name; raises as `Session.run`."""
        return self._session.run({**feeds, **self._bound})

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs for `inputs` in the order of the graph: a tensor where there is one, else a tuple.

        Raises:
            ArgumentError: another number of inputs, or as `Session.run`.
        """
        if len(inputs) != len(self.inputs):
            listed = ", ".join(map(str, self.inputs.values()))
            raise ArgumentError(f"[onnx] {self.path.name}: expected {len(self.inputs)} inputs ({listed}), got {len(inputs)}")
        results = tuple(self.run(dict(zip(self.inputs, inputs, strict=True))).values())
        return results[0] if len(results) == 1 else results

    def with_weights(self, replaced: Mapping[str, torch.Tensor]) -> OnnxModule:
        """The same session with other weights: a drop-in that shares everything else.

        Args:
            replaced: parameter name -> tensor of the parameter's shape.
        """
        other = copy.copy(self)
        other._bound = dict(self._bound)
        for name, tensor in replaced.items():
            weight = self._lifted[name]
            values = self._bound[weight.name]
            other._bound[weight.name] = weight.layout.in_graph(tensor.detach().to(values))
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModule:
        # neither the session nor a weight is ever changed in place
        return copy.copy(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        raise ArgumentError(
            f"[onnx] {self.path.name} stays on the CPU in the precision it was exported in; export it again in another"
        )

    def _hold(self, name: str, weight: LiftedWeight) -> None:
        *parents, attribute = name.split(".")
        holder: WeightHolder = self
        for part in parents:
            child = holder._modules.get(part)
            if child is None:
                child = WeightHolder()
                holder.add_module(part, child)
            assert isinstance(child, WeightHolder)
            holder = child
        values = weight.layout.rows_first(torch.from_numpy(weight.values))
        holder.register_parameter(attribute, nn.Parameter(values, requires_grad=False))
        holder.weight_kinds[attribute] = weight.kind


def qualified_names(tensors: Sequence[str]) -> list[str]:
    """Parameter names of tensors: their own, dots making paths, except where torch allows no such name.

    A part that is empty, or that a module already has for something else, turns the dots into underscores; numbers tell
    equal names apart.
    """
    paths = {".".join(name.split(".")[:end]) for name in tensors for end in range(1, name.count(".") + 1)}
    taken: set[str] = set()
    names = []
    for tensor in tensors:
        parts = tensor.split(".")
        legal = all(part and not hasattr(_EMPTY, part) for part in parts) and tensor not in paths
        plain = tensor if legal else "weight:" + tensor.replace(".", "_")
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name)
        names.append(name)
    return names


_EMPTY = WeightHolder()
