"""Checking captured programs against torch, sample by sample and step by step."""

from __future__ import annotations

import copy

import numpy as np
import torch

import tqs_fast as tqs
from cases.networks import NetworkCase
from tqs_fast.capture import Program, capture
from tqs_fast.capture.verify import Leaves, Runner
from tqs_fast.reference.program import run_program
from tqs_fast.systems.system import advance, input_at
from tqs_fast.systems.tree import Tree, tree_leaves, tree_map

SAMPLES, STEPS = 3, 3


def converted(tree: Tree, dtype: torch.dtype) -> Tree:
    return tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, tree)


def check_program(system: tqs.System, dtype: torch.dtype, tolerance: float) -> Program:
    """Roll three samples three steps by the oracle and by torch, and compare every leaf and output.

    `tolerance` is relative to the largest element of a leaf (at least 1).
    """
    module = copy.deepcopy(system.module).to(dtype)
    program = capture(system, module=module, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    state = converted(system.initial_state(SAMPLES, generator), dtype)
    inputs = None if system.inputs is None else converted(system.inputs(SAMPLES, STEPS, generator), dtype)
    own = [[leaf[i].numpy() for leaf in tree_leaves(state)] for i in range(SAMPLES)]
    for t in range(STEPS):
        given = input_at(inputs, t)
        state, output = advance(system, state, given, module=module)
        for i in range(SAMPLES):
            driven = [] if given is None else [leaf[i].numpy() for leaf in tree_leaves(given)]
            own[i], mine = run_program(program, own[i], driven)
            expected = [leaf[i] for leaf in tree_leaves(state)]
            for number, (got, want) in enumerate(zip([*own[i], mine], [*expected, output[i]], strict=True)):
                close(got, want, tolerance, f"{system.name}: step {t}, sample {i}, leaf {number}")
    return program


def interpreted(program: Program) -> Runner:
    """The oracle as `verify` runs a program."""

    def run(states: Leaves, inputs: Leaves, steps: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        rows = []
        for i in range(len(states[0])):
            leaves, outputs = [leaf[i].numpy() for leaf in states], []
            for t in range(steps):
                leaves, output = run_program(program, leaves, [leaf[i, t].numpy() for leaf in inputs])
                outputs.append(output.reshape(-1, output.shape[-1]))
            rows.append([np.concatenate(outputs), *leaves])
        outputs, *final = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
        return outputs, final

    return run


def close(got: np.ndarray, want: torch.Tensor, tolerance: float, place: str) -> None:
    right = want.double().numpy().reshape(-1)
    left = got.astype(np.float64).reshape(-1)
    assert left.shape == right.shape, f"{place}: {got.shape} and {tuple(want.shape)}"
    assert (np.isfinite(left) == np.isfinite(right)).all(), f"{place}: finite elsewhere"
    error = np.abs(np.nan_to_num(left) - np.nan_to_num(right))
    bound = tolerance * max(1.0, np.abs(np.nan_to_num(right)).max())
    worst = int(error.argmax())
    assert error[worst] <= bound, f"{place}: element {worst}: got {left[worst]}, expected {right[worst]}"


# float64: the oracle sums in another order, over at most some hundred terms a step. float32: the same with 2^-24 in
# place of 2^-53, and torch rounds after every op where the oracle rounds once a node; errors grow along three steps.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-5}


def check_case(case: NetworkCase, dtype: torch.dtype) -> Program:
    """A row of tests/cases/networks.py: values, and the kinds of node that its program must and must not have."""
    program = check_program(case.make(), dtype, TOLERANCE[dtype])
    kinds = {node.kind for node in program.nodes}
    assert kinds >= set(case.kinds), f"expected {case.kinds} among {sorted(kinds)}"
    assert not kinds & set(case.absent), f"expected none of {case.absent} among {sorted(kinds)}"
    return program
