"""Frames pushed by the native engine: the loop of stretching.py in C++ (csrc/growth), samples spread over threads."""

from __future__ import annotations

import numpy as np
import torch

from tqs_fast._native import core
from tqs_fast.engines.native_call import address, start
from tqs_fast.engines.prepared import prepared
from tqs_fast.errors import CaptureError
from tqs_fast.growth.stretching import Done, Stretching
from tqs_fast.systems import System
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map


class NativeStretching:
    """The native engine for one system.

    Args:
        system: its step is captured.
        state: tree of `[N, ...]` like those that runs start from.

    Raises:
        CaptureError: the step cannot be captured, or has integers in its state.
    """

    name = "native"
    how = "native tangent rollout"

    def __init__(self, system: System, state: Tree) -> None:
        if not all(leaf.is_floating_point() for leaf in tree_leaves(state)):
            raise CaptureError(f'[growth_rates] {system.name} has integers in its state; use engine="torch"')
        self._native = prepared(system, state, horizon=1)

    def run(
        self,
        state: Tree,
        inputs: Tree | None,
        frame: torch.Tensor,
        *,
        first: int,
        steps: int,
        interval: int,
        blocks: int,
        report: Done,
    ) -> Stretching:
        """As `Stretcher.run`; `report` is called once, at the end."""
        taken = [] if inputs is None else [leaf[:, first : first + steps] for leaf in tree_leaves(inputs)]
        begin = start(self._native.program, tree_leaves(state), taken, 0)
        rows = frame.transpose(1, 2).contiguous()  # [N, K, D]
        count, directions, _ = rows.shape
        blocks = min(blocks, -(-steps // interval))
        logs = np.empty((blocks, count, directions))
        condition = np.empty(count)
        diverged = np.empty(count, dtype=np.int64)
        final = [torch.empty_like(leaf) for leaf in begin.states]
        final_rows = torch.empty_like(rows)
        core.run_stretching(
            self._native.runtime,
            samples=count,
            directions=directions,
            steps=steps,
            interval=interval,
            blocks=blocks,
            states=begin.state_addresses,
            inputs=[address(leaf) for leaf in begin.inputs],
            input_steps=begin.input_steps,
            frame=address(rows),
            logs=logs.ctypes.data,
            condition=condition.ctypes.data,
            diverged=diverged.ctypes.data,
            final_states=[address(leaf) for leaf in final],
            final_frame=address(final_rows),
            threads=torch.get_num_threads(),
            stream=self._native.place.stream,
        )
        report(steps)
        index = np.arange(-(-steps // interval))
        ends = np.minimum((index + 1) * interval, steps)
        lengths = np.bincount(index * blocks // len(index), weights=ends - index * interval).astype(np.int64)
        leaves = iter(zip(final, tree_leaves(state), strict=True))
        return Stretching(
            logs,
            lengths,
            condition,
            np.where(diverged < 0, -1, diverged + first),
            tree_map(lambda _: _like(*next(leaves)), state),
            final_rows.transpose(1, 2),
        )


def _like(leaf: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    return leaf.reshape(template.shape).to(template)
