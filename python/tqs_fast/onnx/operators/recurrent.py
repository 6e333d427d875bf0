"""LSTM, GRU and RNN, written out step by step.

    LSTM: i, o, f, c = W x + R h (rows in this order); C' = f C + i c; H' = o tanh(C')
    GRU: z, r, h = ...; H' = (1 - z) h + z H; RNN: H' = tanh(W x + R H)

as the ONNX operator reference has them. Weights keep their form `[directions, gates * hidden, inputs]`, so that a probe
of one changes the same numbers as in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from tqs_fast.onnx.operators.registry import Call, Value, operator

DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}
Cell = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@operator("LSTM", "GRU", "RNN")
def recurrent(
    call: Call,
    x: Value,
    weight: Value,
    recurrence: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    hidden: Value | None = None,
    cell: Value | None = None,
    peepholes: Value | None = None,
) -> tuple[torch.Tensor, ...]:
    """x `[T, N, I]` -> y `[T, directions, N, H]`, last hidden state (and cell) `[directions, N, H]`."""
    call.supports_only(layout=0, clip=0.0, input_forget=0)
    series, W, R = call.tensor(x), call.tensor(weight), call.tensor(recurrence)
    if peepholes is not None:
        raise call.refused("peepholes are not supported")
    steps, count = series.shape[:2]
    given = call.numbers(lengths, "lengths")
    if given is not None and any(length != steps for length in given):
        raise call.refused("sequences of different lengths are not supported")
    directions, rows, size = R.shape
    kind = call.get("direction", "forward")
    functions = _functions(call, directions)
    zeros = torch.zeros((directions, count, size), dtype=series.dtype)
    h0, c0 = (zeros if start is None else call.tensor(start) for start in (hidden, cell))
    b = torch.zeros((directions, 2 * rows), dtype=series.dtype) if bias is None else call.tensor(bias)
    outputs, last_h, last_c = [], [], []
    for d in range(directions):
        step = _cell(call, R[d], b[d], functions[d])
        backwards = kind == "reverse" or d == 1
        h, c, found = h0[d], c0[d], []
        # the first half of the bias belongs to the inputs
        projected = F.linear(series, W[d], b[d, :rows])
        for t in reversed(range(steps)) if backwards else range(steps):
            h, c = step(projected[t], h, c)
            found.append(h)
        outputs.append(torch.stack(found[::-1] if backwards else found))
        last_h.append(h)
        last_c.append(c)
    results = (torch.stack(outputs, dim=1), torch.stack(last_h), torch.stack(last_c))
    return results if call.name == "LSTM" else results[:2]


def _functions(call: Call, directions: int) -> list[list[Callable[[torch.Tensor], torch.Tensor]]]:
    usual = DEFAULTS[call.name]
    names = call.get("activations") or usual * directions
    unknown = [name for name in names if name not in FUNCTIONS]
    if unknown:
        raise call.refused(f"the activation {unknown[0]} is not supported")
    each = len(usual)
    return [[FUNCTIONS[name] for name in names[d * each : (d + 1) * each]] for d in range(directions)]


def _cell(
    call: Call, R: torch.Tensor, bias: torch.Tensor, functions: list[Callable[[torch.Tensor], torch.Tensor]]
) -> Cell:
    """One step from what the inputs give `[N, gates * H]`, h and c."""
    rows, size = R.shape
    own = bias[rows:]
    first, second, third = (*functions, functions[0], functions[0])[:3]

    def lstm(a: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, o, f, g = torch.split(a + F.linear(h, R, own), size, dim=-1)
        c = first(f) * c + first(i) * second(g)
        return first(o) * third(c), c

    def gru(a: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if call.get("linear_before_reset", 0):
            product = F.linear(h, R, own)
            z, r = (first(a[..., k : k + size] + product[..., k : k + size]) for k in (0, size))
            g = second(a[..., 2 * size :] + r * product[..., 2 * size :])
        else:
            product = F.linear(h, R[: 2 * size], own[: 2 * size])
            z, r = (first(a[..., k : k + size] + product[..., k : k + size]) for k in (0, size))
            g = second(a[..., 2 * size :] + F.linear(r * h, R[2 * size :], own[2 * size :]))
        return (1 - z) * g + z * h, c

    def plain(a: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return first(a + F.linear(h, R, own)), c

    return {"LSTM": lstm, "GRU": gru, "RNN": plain}[call.name]
