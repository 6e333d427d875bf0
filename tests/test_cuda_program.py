"""The CUDA kernels of programs (csrc/cuda/program) on the emulator: every row of tests/cases/ops.py that has one, with
the checks of tests/test_program_ops.py, on outputs that hold NaN before and in memory that ends where the task says."""

from __future__ import annotations

import numpy as np
import pytest

import emulated
from cases.ops import CASES
from checking import same_bits
from emulated_program import Emulated, runs_here
from programs import draw
from test_program_ops import UNIT, close, close_to_linear, root_mean_square, samples_of, unit

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

SAMPLES, TANGENTS = 5, 3
OWN = [case for case in CASES if runs_here(case)]
by_case = pytest.mark.parametrize("case", OWN, ids=str)


@pytest.mark.parametrize("precision", list(UNIT))
@by_case
def test_values_and_tangents(case, precision):
    data = draw(case, SAMPLES, TANGENTS)
    kernel = Emulated(case, precision)
    u = unit(case, precision)
    for y, expected in zip(kernel.ensemble(data.values), data.outputs, strict=True):
        close(y[0], expected, case.roundings, u)
    if not case.seeded():
        return
    seeds = [s if s is None else np.concatenate([s, 3 * s[:1] - s[1:2] / 2]) for s in data.seeds]
    outputs, tangents = kernel.tangents(data.values, seeds)
    for y, expected in zip(outputs, data.outputs, strict=True):
        close(y, expected, case.roundings, u)
    for dy, expected, y in zip(tangents, data.tangents, data.outputs, strict=True):
        close_to_linear(dy, case.roundings, u)
        finite = np.isfinite(y)
        scale = root_mean_square(y[finite]) / max(root_mean_square(expected[:, finite]), 1e-3)
        close(dy[:-1], expected, case.roundings, u, noise=1e-10 * (1 + scale))
