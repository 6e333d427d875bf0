"""The native function of recurrent layers: its gates against float64, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting import fused

UNIT = 2.0**-24
ISAS = sorted({row["isa"] for row in kernels.list() if row["available"] and row["op"].startswith("gates_")})
MODES = list(fused.RECURRENCES)


@pytest.fixture(autouse=True)
def restored():
    yield
    kernels.use_isa(None)


def same_bits(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# ---------------------------------------------------------------- the gates


KEPT = []  # a prepacked weight looks at the stored one


def zero_weight(rows, columns):
    """Packed zeros: their product is the bias, bit for bit."""
    KEPT.append(kernels.pack(np.zeros((rows, columns), np.float32), bits=4).prepack())
    return [(KEPT[-1].native, False)]


def run_gates(mode, x, h, hidden, cell):
    """(hidden, cell or None) of one step whose W_hh h + b_hh is `h` [gates * size] for every sample."""
    number, gates = fused.RECURRENCES[mode]
    size = hidden.shape[1]
    hidden = hidden.clone()
    cell = cell.clone() if mode == "LSTM" else None
    core.run_recurrent(
        *(number, size, False, [len(x)], x.data_ptr(), x.stride(0), [], 0),
        *(zero_weight(gates * size, size), h.data_ptr(), []),
        *(hidden.data_ptr(), 0 if cell is None else cell.data_ptr(), 0, 1),
    )
    return hidden, cell


def exact_gates(mode, x, h, hidden, cell):
    """In float64, and the bounds that the kernel table states."""
    x, h, hidden, cell = (part.double() for part in (x, h, hidden, cell))
    parts = [(a, b) for a, b in zip(x.chunk(4, -1), h.chunk(4, -1), strict=True)] if mode == "LSTM" else []
    if mode == "LSTM":
        i, f, g, o = (a + b for a, b in parts)
        after = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        bounds = (7 * UNIT * (2 + cell.abs()), 7 * UNIT * (1 + cell.abs()))
        return (torch.sigmoid(o) * torch.tanh(after), after), bounds
    if mode == "GRU":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), h.chunk(3, -1)
        new = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        after = new + torch.sigmoid(x_z + h_z) * (hidden - new)
        return (after, None), (8 * UNIT * (1 + hidden.abs() + h_n.abs()), None)
    if mode == "RNN_TANH":
        return (torch.tanh(x + h), None), (torch.full_like(hidden, 2 * UNIT), None)
    return (torch.relu(x + h), None), (UNIT * torch.relu(x + h), None)


def gate_arguments(mode, size, samples, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    width = fused.RECURRENCES[mode][1] * size
    shapes = ((samples, width), (width,), (samples, size), (samples, size))
    return [spread * torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_gates_keep_their_stated_error(mode, isa):
    kernels.use_isa(isa)
    largest = 0.0
    for size, spread in itertools.product((1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64), (0.1, 1.0, 5.0, 40.0)):
        given = gate_arguments(mode, size, 20, spread, seed=size)
        before = [part.clone() for part in given]
        results, (expected, bounds) = run_gates(mode, *given), exact_gates(mode, *given)
        assert same_bits(before, given)
        for result, exact, bound in zip(results, expected, bounds, strict=True):
            if result is None:
                assert exact is None
                continue
            error = (result.double() - exact).abs()
            assert (error <= bound).all(), f"size {size}, spread {spread}: {float((error / bound).max())} of the bound"
            largest = max(largest, float((error / bound.clamp_min(1e-300)).max()))
    assert largest > 0.1  # else the bound would let real faults through


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_gates_saturate_and_pass_nan_on(mode, isa):
    kernels.use_isa(isa)
    size = 19  # a vector and a rest on every ISA
    x, h, hidden, cell = gate_arguments(mode, size, 5, 1.0, seed=0)
    x[1], x[2], x[3] = 1e30, -1e30, float("inf")
    x[4, -1] = float("nan")
    (after, *_), _ = exact_gates(mode, x, h, hidden, cell)
    result, _ = run_gates(mode, x, h, hidden, cell)
    assert torch.equal(result.isnan(), after.isnan())
    assert result[4, -1].isnan()
    assert not result[0].isnan().any()
    torch.testing.assert_close(result.double(), after, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_planted_fault_exceeds_the_stated_error(mode):
    given = gate_arguments(mode, 16, 20, 1.0, seed=3)
    wrong = [part.clone() for part in given]
    wrong[0][7] *= 1 + 1e-4
    (exact, _), (bound, _) = exact_gates(mode, *given)
    assert ((run_gates(mode, *wrong)[0].double() - exact).abs() > bound).any()


# ---------------------------------------------------------------- what the native function refuses


def native(**changes):
    size, columns = 6, 5
    kept = [torch.zeros(3, 24), torch.zeros(3, size), torch.zeros(3, size)]
    given = {
        "recurrence": 0,
        "size": size,
        "reverse": False,
        "batch_sizes": [2, 1],
        "x": kept[0].data_ptr(),
        "x_stride": columns,
        "input": zero_weight(4 * size, columns),
        "input_bias": 0,
        "hidden": zero_weight(4 * size, size),
        "hidden_bias": 0,
        "projection": [],
        "hidden_state": kept[1].data_ptr(),
        "cell_state": kept[2].data_ptr(),
        "out": 0,
        "threads": 1,
    }
    core.run_recurrent(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recurrence": 4}, "unknown recurrence 4"),
        ({"size": 0}, "at least one hidden unit, got 0"),
        ({"batch_sizes": []}, "at least one time step"),
        ({"batch_sizes": [1, 2]}, "sizes that never grow"),
        ({"batch_sizes": [2, -1]}, "sizes that never grow"),
        ({"x": 0}, "x and the states must not be null"),
        ({"cell_state": 0}, "x and the states must not be null"),
        ({"x_stride": 4}, "rows of x overlap: expected a stride >= 5, got 4"),
        ({"input": [], "x_stride": 23}, "rows of x overlap: expected a stride >= 24, got 23"),
        ({"hidden": []}, "expected W_hh with 24 rows, got 0"),
        ({"hidden": zero_weight(18, 6)}, "expected W_hh with 24 rows, got 18"),
        ({"hidden": zero_weight(24, 7)}, "expected W_hh with 6 columns, got 7"),
        ({"input": zero_weight(25, 5)}, "expected W_ih with 24 rows, got 25"),
        ({"input": [*zero_weight(12, 5), *zero_weight(12, 4)]}, "expected W_ih with 5 columns, got 4"),
        ({"hidden": [(None, False)]}, "must not be None"),
        ({"projection": zero_weight(3, 6)}, "expected W_hh with 3 columns, got 6"),
        ({"projection": zero_weight(3, 5), "hidden": zero_weight(24, 3)}, "expected W_hr with 6 columns, got 5"),
        ({"recurrence": 3, "projection": zero_weight(3, 6)}, "only an LSTM has a projected state"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ArgumentError, match=rf"\[(recurrent|row_blocks)\].*{message}"):
        native(**changes)


def test_a_weight_prepacked_for_another_isa_is_refused():
    kernels.use_isa("scalar")
    old = zero_weight(24, 6)
    kernels.use_isa(None)
    if kernels.isa() == "scalar":
        pytest.skip("no other instruction set")
    with pytest.raises(ArgumentError, match="prepacked for scalar"):
        native(hidden=old)
    native()
