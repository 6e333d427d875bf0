"""Frozen ONNX models as systems: a graph, and which of its outputs feed which of its inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.onnx import OnnxModule
from tqs_fast.onnx.read import Array
from tqs_fast.onnx.session import Port
from tqs_fast.onnx.shapes import batch_axes as find_batch_axes
from tqs_fast.onnx.shapes import row_shape
from tqs_fast.onnx.state_map import resolve
from tqs_fast.systems.system import Forecaster, InitialState, Inputs, System
from tqs_fast.systems.tree import Tree

Statistics = tuple[Any, Any]


class OnnxSystem(System):
    """An ONNX model that carries its state from step to step.

    The state is a dict, input name -> `[N, ...]`, the batch axis moved to the front; so are the inputs of a driven
    system. ONNX Runtime reads the tensors where they lie and writes the next ones: between steps nothing is copied. A
    graph without a free batch size is run once per initial condition.

    Args:
        path: of the .onnx file, or an `OnnxModule`.
        state_map: output -> the input that takes its value in the next step; guessed from names and shapes where only
            one answer fits.
        output: the observed output, `[N, C]` or `[N, block, C]`, further dimensions flattened into C; by default the
            only one that feeds no input, or the only one there is.
        constants: input -> value that it has in every step (a sampling rate, a mask).
        sizes: values of free sizes that are not the batch, by name, or "input:axis" for one without a name.
        batch_axes: input or output -> axis of the batch, where the names of sizes do not tell; {} for one initial
            condition at a time.
        normalisation: input of the state -> (mean, standard deviation), for a model that takes normalised states and
            gives normalised outputs; the state then is in physical units. None where it is baked in.
        initial_state: `initial_state(count, generator)` -> state; by default zeros for a driven system, else standard
            normal.
        inputs: `inputs(count, steps, generator)` -> dict of `[N, steps, ...]` for the inputs that nothing feeds;
            standard normal by default.
        block, default_initial, name: as in `System`; the name is that of the file by default.

    Attributes:
        state_map: the map in use.

    Raises:
        ArgumentError: no unambiguous state map (the message lists the candidates), a free size without a value, an
            input of integers that nothing gives.
        FileFormatError: a file that cannot be read or run.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | OnnxModule,
        *,
        state_map: Mapping[str, str] | None = None,
        output: str | None = None,
        constants: Mapping[str, Any] | None = None,
        sizes: Mapping[str, int] | None = None,
        batch_axes: Mapping[str, int] | None = None,
        normalisation: Mapping[str, Statistics] | None = None,
        initial_state: InitialState | None = None,
        inputs: Inputs | None = None,
        block: int = 1,
        default_initial: str = "attractor",
        name: str | None = None,
    ) -> None:
        module = path if isinstance(path, OnnxModule) else OnnxModule(path)
        where = module.path.name
        constants, sizes = dict(constants or {}), dict(sizes or {})
        mapped = resolve(
            module.inputs, module.outputs, feeds=state_map, output=output, constants=constants, where=where
        )
        self.state_map = mapped.feeds
        entries = {entry: module.inputs[entry] for entry in mapped.feeds.values()}
        driven = {entry: module.inputs[entry] for entry in mapped.driven}
        for port in driven.values():
            if not port.dtype.is_floating_point and inputs is None:
                raise ArgumentError(
                    f"[OnnxSystem] {where}: nothing gives the input {port}; give constants={{{port.name!r}: ...}}, or "
                    "inputs=..."
                )
        self._axes = find_batch_axes([*entries.values(), *driven.values()], batch_axes, sizes, where)
        axes = self._axes or {}
        self._rows = {n: row_shape(p, axes.get(n), sizes, where) for n, p in {**entries, **driven}.items()}
        self._output = mapped.output
        self._constants = {n: _constant(module.inputs[n], value, where) for n, value in constants.items()}
        self._statistics = _statistics(normalisation, entries, self._rows, where)

        def random_states(count: int, generator: torch.Generator) -> Tree:
            return {n: _drawn(p, (count, *self._rows[n]), generator, zero=bool(driven)) for n, p in entries.items()}

        def random_inputs(count: int, steps: int, generator: torch.Generator) -> Tree:
            return {n: _drawn(p, (count, steps, *self._rows[n]), generator, zero=False) for n, p in driven.items()}

        super().__init__(
            module,
            step=self._step,
            initial_state=initial_state or random_states,
            inputs=(inputs or random_inputs) if driven else None,
            block=block,
            default_initial=default_initial,
            name=name or Path(where).stem,
        )

    def _step(self, module: OnnxModule, state: Tree, step_input: Tree | None = None) -> tuple[Tree, torch.Tensor]:
        feeds = {n: self._normalised(n, leaf) for n, leaf in state.items()} | dict(step_input or {})
        if self._axes is None:
            rows = [self._run(module, {n: leaf[r] for n, leaf in feeds.items()}) for r in range(_count(feeds))]
            results = {n: torch.stack([row[n].reshape(self._result_shape(n, row[n])) for row in rows]) for n in rows[0]}
        else:
            placed = {n: leaf.movedim(0, self._axes[n]) for n, leaf in feeds.items()}
            found = self._run(module, placed)
            results = {n: result.movedim(self._result_axis(module, n), 0) for n, result in found.items()}
        following = {entry: self._physical(entry, results[name]) for name, entry in self.state_map.items()}
        entry = self.state_map.get(self._output)
        output = results[self._output] if entry is None else following[entry]
        shape = (len(output), -1) if self.block == 1 else (len(output), self.block, -1)
        return {n: following[n] for n in state}, output.reshape(shape)

    def _run(self, module: OnnxModule, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        results = module.run(feeds, self._constants)
        return {name: results[name] for name in {*self.state_map, self._output}}

    def _result_shape(self, name: str, result: torch.Tensor) -> tuple[int, ...]:
        entry = self.state_map.get(name)
        return tuple(result.shape) if entry is None else self._rows[entry]

    def _result_axis(self, module: OnnxModule, name: str) -> int:
        """Axis of the batch in an output: that of the input it feeds, else where its free size is, else the first."""
        assert self._axes is not None
        if name in self.state_map:
            return self._axes[self.state_map[name]]
        if name in self._axes:
            return self._axes[name]
        entry = next(iter(self.state_map.values()))
        size, shape = module.inputs[entry].shape[self._axes[entry]], module.outputs[name].shape
        return shape.index(size) if isinstance(size, str) and size in shape else 0

    def _normalised(self, name: str, leaf: torch.Tensor) -> torch.Tensor:
        if name not in self._statistics:
            return leaf
        mean, deviation = self._statistics[name]
        return (leaf - mean) / deviation

    def _physical(self, name: str, leaf: torch.Tensor) -> torch.Tensor:
        if name not in self._statistics:
            return leaf
        mean, deviation = self._statistics[name]
        return leaf * deviation + mean


def open_onnx(path: str | os.PathLike[str], **options: Any) -> System:
    """The system of an ONNX file.

    A graph of one floating input `[N, context, C]` and one output `[N, C]` or `[N, block, C]` with block < context is
    a `Forecaster`; any other an `OnnxSystem`, to which the options go.

    Raises:
        ArgumentError, FileFormatError: as `OnnxSystem`.
    """
    module = OnnxModule(path)
    if not options and len(module.inputs) == 1 and len(module.outputs) == 1:
        (entry,), (result,) = module.inputs.values(), module.outputs.values()
        window = _window(entry, result)
        if window is not None:
            context, channels, block = window
            return Forecaster(module, context, channels=channels, block=block, name=module.path.stem)
    return OnnxSystem(module, **options)


def _window(entry: Port, result: Port) -> tuple[int, int, int] | None:
    """(context, C, block) of a graph that forecasts from a window, or None."""
    if len(entry.shape) != 3 or len(result.shape) not in (2, 3) or isinstance(entry.shape[0], int):
        return None
    context, channels = entry.shape[1:]
    block = 1 if len(result.shape) == 2 else result.shape[1]
    if not (isinstance(context, int) and isinstance(channels, int) and isinstance(block, int)):
        return None
    return (context, channels, block) if result.shape[-1] == channels and 1 <= block < context else None


def _constant(port: Port, value: Any, where: str) -> Array:
    try:
        tensor = torch.as_tensor(value).to(port.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"[OnnxSystem] {where}: expected a tensor for the constant {port}: {error}") from error
    if tensor.dim() != len(port.shape):
        raise ArgumentError(f"[OnnxSystem] {where}: expected a value of the constant {port}, got {list(tensor.shape)}")
    return tensor.detach().cpu().contiguous().numpy()


def _statistics(
    given: Mapping[str, Statistics] | None, entries: Mapping[str, Port], rows: Mapping[str, tuple[int, ...]], where: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    statistics = {}
    for name, (mean, deviation) in (given or {}).items():
        if name not in entries:
            raise ArgumentError(
                f"[OnnxSystem] {where}: normalisation names states ({', '.join(entries)}), got {name!r}"
            )
        dtype = entries[name].dtype
        pair = (torch.as_tensor(np.asarray(mean)).to(dtype), torch.as_tensor(np.asarray(deviation)).to(dtype))
        try:
            fits = all(np.broadcast_shapes(tuple(part.shape), rows[name]) == rows[name] for part in pair)
        except ValueError:
            fits = False
        if not fits or not bool((pair[1] > 0).all()):
            raise ArgumentError(
                f"[OnnxSystem] {where}: expected a mean and a positive deviation that fit {list(rows[name])} for {name}"
            )
        statistics[name] = pair
    return statistics


def _drawn(port: Port, shape: tuple[int, ...], generator: torch.Generator, *, zero: bool) -> torch.Tensor:
    if zero or not port.dtype.is_floating_point:
        return torch.zeros(shape, dtype=port.dtype)
    return torch.randn(shape, generator=generator).to(port.dtype)


def _count(feeds: Mapping[str, torch.Tensor]) -> int:
    return len(next(iter(feeds.values())))
