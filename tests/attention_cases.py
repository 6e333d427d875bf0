"""What the tests of attention share: the formula in torch, problems, and a checker with derived bounds."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from tqs_fast.reference import ops as reference

UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
LANES = 3


def draw(*shape, dtype=torch.float64, seed=0):
    """Standard normal, float32 numbers in any dtype."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def math_attention(q, k, v, mask=None, causal=False, causal_offset=0, scale=None):
    """The formula in torch operations. A query that sees no key gives 0."""
    scores = (q.shape[-1] ** -0.5 if scale is None else scale) * (q @ k.mT)
    if mask is not None:
        scores = scores + mask
    if causal:
        keys, queries = (torch.arange(x.shape[-2], device=q.device) for x in (k, q))
        hidden = keys > queries[:, None] + causal_offset
        scores = scores.masked_fill(hidden, -torch.inf)
    top = scores.amax(-1, keepdim=True).detach()
    powers = (scores - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = powers.sum(-1, keepdim=True)
    return powers / torch.where(total == 0, 1.0, total) @ v


@cache
def problem(queries, keys, depth, width, dtype=torch.float64, heads=2, masked=False):
    """(q, k, v, mask), their tangents [LANES, ...]; the same numbers in every dtype."""
    shapes = [(queries, depth), (keys, depth), (keys, width), (queries, keys)]
    primal = [draw(heads, *shape, dtype=dtype, seed=place) for place, shape in enumerate(shapes)]
    tangents = [draw(LANES, *part.shape, dtype=dtype, seed=4 + place) for place, part in enumerate(primal)]
    if not masked:
        primal[3] = tangents[3] = None
    return tuple(primal), tuple(tangents)


def run(primal, tangents=(None,) * 4, causal=False, causal_offset=0, scale=None):
    """out and dout (None without tangents) of the two operators themselves."""
    settings = (primal[0].shape[-1] ** -0.5 if scale is None else scale, causal, causal_offset)
    out = torch.ops.tqs_fast.attention(*primal, *settings)
    if all(tangent is None for tangent in tangents):
        return out, None
    return out, torch.ops.tqs_fast.attention_tangents(*primal, *tangents, *settings)


class Expectation:
    """What out [..., S, E] and dout [K, ..., S, E] must be, by NumPy in float64, and how far off they may be.

    Element bound, u the roundoff. A score has D + 3 roundings on the way of any term: its error is at most
    (D + 3) u A, A = scale |q||k| + |mask|. That is the relative error of exp(score), and the maximum that is
    subtracted shares it: 2 (D + 3) u A, with 6 u for exp and its argument. A sum over T keys has T roundings, and one
    more for each time the maximum grows (at most T): 2 T for the sum over values and 2 T for the total. So an element
    of out is off by at most (2 (D + 3) A + 4 T + 16) u times the sum of |terms|; dout has the same and 2 D + 8 for its
    slopes, and subtracts out, whose own error adds once more: twice all.
    Aggregate bound: roundings are independent, so their count enters by its root; 4 for small samples.
    """

    def __init__(self, primal, tangents=(None,) * 4, causal=False, causal_offset=0, scale=None):
        q, k, v, mask, dq, dk, dv, dmask = (
            None if part is None else np.asarray(part, np.float64) for part in (*primal, *tangents)
        )
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        depth, keys = q.shape[-1], k.shape[-2]
        identity = np.broadcast_to(np.eye(keys), (*q.shape[:-2], keys, keys))
        weights = reference.attention(q, k, identity, mask, scale, causal, causal_offset)
        turned = np.swapaxes(k, -1, -2)
        scores = abs(scale) * (np.abs(q) @ np.abs(turned))
        if mask is not None:
            scores = scores + np.where(np.isinf(mask), 0, np.abs(mask))
        scores = np.where(weights > 0, scores, 0).max(-1, keepdims=True, initial=0)
        self.out, self.size = weights @ v, weights @ np.abs(v)
        self.worst = 2 * (depth + 3) * scores + 4 * keys + 16
        self.typical = 2 * np.sqrt(depth + 3) * scores + 2 * np.sqrt(4 * keys + 16)
        self.slope_roundings = 2 * depth + 8
        slopes, sizes = [], []
        if dq is not None:
            slopes.append(scale * (dq @ turned))
            sizes.append(abs(scale) * (np.abs(dq) @ np.abs(turned)))
        if dk is not None:
            slopes.append(scale * (q @ np.swapaxes(dk, -1, -2)))
            sizes.append(abs(scale) * (np.abs(q) @ np.abs(np.swapaxes(dk, -1, -2))))
        if dmask is not None:
            slopes.append(dmask)
            sizes.append(np.abs(dmask))
        moved, size = weights * sum(slopes), weights * sum(sizes)
        self.dout, self.dsize = np.zeros((LANES, *self.out.shape)), np.zeros((LANES, *self.out.shape))
        if slopes:
            self.dout += moved @ v - moved.sum(-1, keepdims=True) * self.out
            self.dsize += size @ np.abs(v) + size.sum(-1, keepdims=True) * self.size
        if dv is not None:
            self.dout += weights @ dv
            self.dsize += weights @ np.abs(dv)

    def check(self, out, dout=None, label=""):
        """Assert that `out` and, where given, `dout` are within both bounds of their dtype."""
        compare(f"{label} out", out, self.out, self.size, self.worst, self.typical)
        if dout is not None:
            worst, typical = self.worst + self.slope_roundings, self.typical + np.sqrt(self.slope_roundings)
            compare(f"{label} dout", dout, self.dout, self.dsize, 2 * worst, 2 * typical)


def compare(label, got, expected, size, worst, typical):
    """|error| <= worst u size, and its norm at most that of 4 typical u size."""
    u = UNIT[got.dtype]
    got = np.asarray(got, np.float64)
    assert got.shape == expected.shape, f"{label}: expected shape {expected.shape}, got {got.shape}"
    error, bound = np.abs(got - expected), worst * u * size
    within = error <= bound  # False for NaN
    if not within.all():
        excess = np.where(within, -1.0, np.nan_to_num(error / np.maximum(bound, 1e-300), nan=np.inf))
        place = np.unravel_index(int(excess.argmax()), error.shape)
        raise AssertionError(
            f"{label}: {(~within).sum()} of {error.size} out of bound; worst at {[int(i) for i in place]}: got "
            f"{got[place]!r}, expected {expected[place]!r}, error {error[place]:.3e}, bound {bound[place]:.3e}"
        )
    norm, allowed = np.linalg.norm(error), 4 * u * np.linalg.norm(typical * size)
    assert norm <= allowed, f"{label}: error norm {norm:.3e} above {allowed:.3e}"
