"""The GRU's tangents written out by hand: primal and tangents stacked, one matrix product for all rows.

With g = W_i x + b_i, q = W_h h + b_h (the bias for the primal row only) and r, z, n, h' as in torch.nn.GRUCell:
dr = r (1 - r) (dg_r + dq_r), dz likewise, dn = (1 - n^2) (dg_n + dr q_n + r dq_n),
dh' = (1 - z) dn + z dh + dz (h - n).

One text for torch and JAX: `xp` holds what differs between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from jvp.form import Contestant, Form
from jvp.recurrent import RATE


class Library(NamedTuple):
    cat: Callable[..., Any]
    sigmoid: Callable[..., Any]
    tanh: Callable[..., Any]


def stack_gru(form: Form) -> tuple[torch.Tensor, torch.Tensor]:
    """h and value of the only initial condition, [1 + K, ...], the primal first."""
    h = torch.cat([form.state["h"], form.tangents["h"][:, 0]])
    return h, torch.cat([form.state["value"], form.tangents["value"][:, 0]])


def gru_step(xp: Library, w: dict[str, Any], h: Any, value: Any) -> tuple[Any, Any]:
    """One step of the stacked rows."""
    g, q = value @ w["cell.weight_ih"].T, h @ w["cell.weight_hh"].T
    (gr, gz, gn), (qr, qz, qn) = thirds(g), thirds(q)
    (bgr, bgz, bgn), (bqr, bqz, bqn) = thirds(w["cell.bias_ih"]), thirds(w["cell.bias_hh"])
    r, z = xp.sigmoid(gr[:1] + bgr + qr[:1] + bqr), xp.sigmoid(gz[:1] + bgz + qz[:1] + bqz)
    inner = qn[:1] + bqn
    n = xp.tanh(gn[:1] + bgn + r * inner)
    dr, dz = r * (1 - r) * (gr[1:] + qr[1:]), z * (1 - z) * (gz[1:] + qz[1:])
    dn = (1 - n * n) * (gn[1:] + dr * inner + r * qn[1:])
    primal, tangents = h[:1], h[1:]
    h = xp.cat([(1 - z) * n + z * primal, (1 - z) * dn + z * tangents + dz * (primal - n)])
    out = h @ w["head.weight"].T
    return h, value + RATE * xp.cat([out[:1] + w["head.bias"], out[1:]])


def thirds(x: Any) -> tuple[Any, Any, Any]:
    width = x.shape[-1] // 3
    return x[..., :width], x[..., width : 2 * width], x[..., 2 * width :]


def split(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[T, 1 + K, C] -> outputs [T, 1, C] and tangents [T, K, 1, C]."""
    return rows[:, :1], rows[:, 1:, None]


def gru(form: Form, horizon: int) -> Contestant:
    """In eager torch."""
    weights = dict(form.system.module.named_parameters())
    library = Library(torch.cat, torch.sigmoid, torch.tanh)

    @torch.no_grad()
    def call() -> torch.Tensor:
        h, value = stack_gru(form)
        values = []
        for _ in range(horizon):
            h, value = gru_step(library, weights, h, value)
            values.append(value)
        return torch.stack(values)

    return Contestant(call, split)
