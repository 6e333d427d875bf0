"""Run with count_allocations.cpp preloaded: prints, as JSON, how often rollouts of two lengths ask for memory."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable

import torch

import networks_positions
import tqs_fast as tqs
from tqs_fast.engines.native_program import Noise
from tqs_fast.engines.prepared import prepared
from tqs_fast.systems.tree import tree_leaves

LENGTHS = (8, 40)
REPEATS = 5  # the least of them counts: the interpreter asks for memory of its own now and then

so_far = ctypes.CDLL(None).allocations_so_far
so_far.restype = ctypes.c_ulong


def count(run: Callable[[], object]) -> int:
    counts = []
    for _ in range(REPEATS):
        before = so_far()
        run()
        counts.append(so_far() - before)
    return min(counts)


def rollouts(system: tqs.System) -> dict[str, list[int]]:
    """Allocations, for both lengths, of a model beside a noisy copy and of a model with tangents."""
    state = system.initial_state(2, torch.Generator().manual_seed(0))
    native = prepared(system, state, horizon=max(LENGTHS))
    leaves = tree_leaves(state)
    constant = next(c for c in native.program.constants if c.parameters)
    lanes = [{}, {constant.buffer: Noise(0, 0, 1e-3, 0, constant.tensor.numel())}]
    seeds = [torch.randn(3, *leaf.shape).to(leaf.dtype) for leaf in leaves]
    ways = {
        "ensemble": lambda steps: native.ensemble(leaves, [], steps=steps, values=steps, lanes=lanes),
        "tangents": lambda steps: native.tangents(leaves, [], steps=steps, values=steps, seeds=seeds),
    }
    return {name: [count(lambda: way(steps)) for steps in LENGTHS] for name, way in ways.items()}  # noqa: B023


torch.set_num_threads(1)
cases = {
    "lorenz-gru": tqs.load_system("lorenz-gru"),
    "sliding window": tqs.Forecaster(networks_positions.learned_positions(1), 7, channels=2),
    "growing context": tqs.Forecaster(networks_positions.rotary(1), 7, channels=2, growing=True),
}
print(json.dumps({name: rollouts(system) for name, system in cases.items()}))
