"""A frozen ONNX model as a torch module: its weights are parameters, its forward is ONNX Runtime."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tqs_fast.errors import ArgumentError, CaptureError
from tqs_fast.onnx.lift import LiftedWeight, lift_weights, load_rest
from tqs_fast.onnx.read import Array, check_model, read_model
from tqs_fast.onnx.session import Port, Session
from tqs_fast.onnx.torch_form import GraphWeight, TorchForm
from tqs_fast.quantization.held import Swappable, qualified_names


class OnnxModule(Swappable):
    """An ONNX model with its weights lifted to inputs of one session.

    The parameters have the names of the tensors in the file and the shape `[outputs, ...]` that quantizers expect,
    also where the graph keeps them transposed; they are views of the file's data where that is possible.

    Args:
        path: of the .onnx file, opset 12 or newer; external data lie beside it.
        threads: of ONNX Runtime within one call.
        frozen: leave the weights in the graph, so that it runs as ONNX Runtime runs the file; there are no parameters.

    Attributes:
        path: of the file.
        inputs, outputs: `Port`s by name, without the lifted weights.
        metadata: texts that the file holds.
        skipped_weights: name -> why a constant that an operator uses as its weight is not one of the parameters.

    Raises:
        ArgumentError: the extra `[onnx]` is not installed.
        FileFormatError: see `onnx.read`; or ONNX Runtime refuses the model.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1, frozen: bool = False) -> None:
        super().__init__()
        self.path = Path(path)
        model = read_model(self.path)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        lifted, self.skipped_weights = ([], {}) if frozen else lift_weights(model, self.path)
        load_rest(model, self.path)
        check_model(model, self.path)
        self._session = Session(model.SerializeToString(), self.path, threads=threads)
        self._model = None if frozen else model
        self._forms: list[TorchForm] = []  # one at most; an attribute would be a part of this module
        names = qualified_names([weight.name for weight in lifted])
        self._lifted = dict(zip(names, lifted, strict=True))
        self._bound = {weight.name: torch.from_numpy(weight.values) for weight in lifted}
        self.hold({n: (w.layout.rows_first(self._bound[w.name]), w.kind) for n, w in self._lifted.items()})
        tensors = {weight.name for weight in lifted}
        self.inputs: dict[str, Port] = {n: port for n, port in self._session.inputs.items() if n not in tensors}
        self.outputs: dict[str, Port] = self._session.outputs
        self.eval()

    @property
    def lifted(self) -> dict[str, LiftedWeight]:
        """Parameter name -> the weight as the graph has it."""
        return self._lifted

    def run(
        self, feeds: Mapping[str, torch.Tensor], constants: Mapping[str, Array] | None = None
    ) -> dict[str, torch.Tensor]:
        """All outputs by name.

        Args:
            feeds: a tensor for every input that is no constant.
            constants: inputs that are the same in every call.

        Raises:
            ArgumentError, EngineError: as `Session.run`.
        """
        known = {name: torch.from_numpy(array) for name, array in (constants or {}).items()}
        return self._session.run({**feeds, **known, **self._bound})

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs for `inputs` in the order of the graph: a tensor where there is one, else a tuple.

        Raises:
            ArgumentError: another number of inputs, or as `Session.run`.
        """
        if len(inputs) != len(self.inputs):
            listed = ", ".join(map(str, self.inputs.values()))
            raise ArgumentError(
                f"[onnx] {self.path.name}: expected {len(self.inputs)} inputs ({listed}), got {len(inputs)}"
            )
        results = tuple(self.run(dict(zip(self.inputs, inputs, strict=True))).values())
        return results[0] if len(results) == 1 else results

    def with_weights(self, replaced: Mapping[str, torch.Tensor]) -> OnnxModule:
        """The same session with other weights."""
        other = copy.copy(self)
        other._forms, other._bound = [], dict(self._bound)
        for name, tensor in replaced.items():
            weight = self._lifted[name]
            values = self._bound[weight.name]
            other._bound[weight.name] = weight.layout.in_graph(tensor.detach().to(values))
        return other

    def in_torch(self) -> TorchForm:
        """The graph by torch functions, made once.

        Raises:
            CaptureError: the file runs as it is; its weights are not at hand.
        """
        if self._forms:
            return self._forms[0]
        if self._model is None:
            raise CaptureError(
                f'[capture] {self.path.name} is run as it is, of which nothing can be captured; use engine="swapped"'
            )
        weights = {}
        for name, parameter in self.named_parameters():
            lifted = self._lifted[name]
            values = lifted.layout.rows_first(self._bound[lifted.name])
            own = parameter if values.data_ptr() == parameter.data_ptr() else nn.Parameter(values, requires_grad=False)
            weights[name] = GraphWeight(lifted.name, own, lifted.layout, lifted.kind)
        self._forms.append(TorchForm(self._model, self.path, weights, self.inputs, self.outputs))
        return self._forms[0]

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModule:
        # neither the session nor a weight is ever changed in place
        return copy.copy(self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        raise ArgumentError(
            f"[onnx] {self.path.name} stays on the CPU in the precision it was exported in; export it again in another"
        )
