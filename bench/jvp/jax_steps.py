"""The networks' steps in JAX, over the weights of their torch modules: `STEPS[name](module)` gives `step(state)`.

Weights are constants of the compiled function, so XLA may lay them out as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from jvp import recurrent, selective_scan, transformer

Array = jax.Array
State = Any
Step = Callable[[State], tuple[State, Array]]
Weights = dict[str, Array]


def weights_of(module: torch.nn.Module) -> Weights:
    return {name: jnp.asarray(tensor.detach().numpy()) for name, tensor in module.state_dict().items()}


def within(weights: Weights, prefix: str) -> Weights:
    """The weights of the submodule `prefix`, under their names in it."""
    start = f"{prefix}."
    return {name.removeprefix(start): weight for name, weight in weights.items() if name.startswith(start)}


def linear(weights: Weights, name: str, x: Array) -> Array:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def norm(weights: Weights, name: str, x: Array) -> Array:
    """LayerNorm, or RMSNorm where there is no bias; epsilon as torch has it."""
    if f"{name}.bias" in weights:
        x = x - x.mean(-1, keepdims=True)
        return (
            x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weights[f"{name}.weight"]
            + weights[f"{name}.bias"]
        )
    epsilon = np.finfo(np.float32).eps
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[f"{name}.weight"]


# ---------------------------------------------------------------- recurrent


def gru(module: recurrent.Gru) -> Step:
    w = weights_of(module)

    def step(state: State) -> tuple[State, Array]:
        h, value = state["h"], state["value"]
        from_input = value @ w["cell.weight_ih"].T + w["cell.bias_ih"]
        from_state = h @ w["cell.weight_hh"].T + w["cell.bias_hh"]
        (ri, zi, ni), (rh, zh, nh) = jnp.split(from_input, 3, -1), jnp.split(from_state, 3, -1)
        z = jax.nn.sigmoid(zi + zh)
        h = (1 - z) * jnp.tanh(ni + jax.nn.sigmoid(ri + rh) * nh) + z * h
        value = value + recurrent.RATE * linear(w, "head", h)
        return {"h": h, "value": value}, value

    return step


def lstm(module: recurrent.Lstm) -> Step:
    w = weights_of(module)

    def step(state: State) -> tuple[State, Array]:
        x, hs, cs = state["value"], [], []
        for n in range(recurrent.LAYERS):
            gates = x @ w[f"lstm.weight_ih_l{n}"].T + w[f"lstm.bias_ih_l{n}"]
            gates = gates + state["h"][:, n] @ w[f"lstm.weight_hh_l{n}"].T + w[f"lstm.bias_hh_l{n}"]
            i, f, g, o = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * state["c"][:, n] + jax.nn.sigmoid(i) * jnp.tanh(g)
            x = jax.nn.sigmoid(o) * jnp.tanh(c)
            hs.append(x)
            cs.append(c)
        value = state["value"] + recurrent.RATE * linear(w, "head", x)
        return {"h": jnp.stack(hs, 1), "c": jnp.stack(cs, 1), "value": value}, value

    return step


# ---------------------------------------------------------------- transformers


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    scores = q @ jnp.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1) @ v


def turned(x: Array, angles: Array) -> Array:
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)], -1)


class Blocks:
    """The blocks of a `transformer.Transformer`."""

    def __init__(self, module: transformer.Transformer) -> None:
        self.weights = weights_of(module)
        self.heads = module.blocks[0].heads
        self.blocks = [within(self.weights, f"blocks.{number}") for number in range(len(module.blocks))]

    def project(self, block: Weights, x: Array, positions: Array) -> tuple[Array, Array, Array]:
        batch, length, width = x.shape
        qkv = linear(block, "qkv", norm(block, "norm1", x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = jnp.transpose(qkv, (2, 0, 3, 1, 4))
        if "frequencies" in self.weights:
            angles = positions * self.weights["frequencies"]
            q, k = turned(q, angles), turned(k, angles)
        return q, k, v

    def finish(self, block: Weights, x: Array, attended: Array) -> Array:
        x = x + linear(block, "out", jnp.swapaxes(attended, 1, 2).reshape(x.shape))
        hidden = jax.nn.gelu(linear(block, "up", norm(block, "norm2", x)), approximate=False)
        return x + linear(block, "down", hidden)

    def read_out(self, value: Array, x: Array) -> Array:
        return value + transformer.RATE * linear(self.weights, "head", norm(self.weights, "norm", x))

    def forecast(self, window: Array, mask: Array, last_only: bool) -> Array:
        x = linear(self.weights, "embed", window)
        if "positions" in self.weights:
            x = x + self.weights["positions"]
        positions = jnp.arange(window.shape[1], dtype=window.dtype)[:, None]
        for number, block in enumerate(self.blocks, start=1):
            q, k, v = self.project(block, x, positions)
            if last_only and number == len(self.blocks):
                x, q, mask = x[:, -1:], q[:, :, -1:], mask[..., -1:, :]
            x = self.finish(block, x, attend(q, k, v, mask))
        return self.read_out(window[:, -1], x[:, -1])


def slid(window: Array, value: Array, axis: int = 1) -> Array:
    """`value` joins at the end of the window's `axis`, the oldest leaves."""
    return jnp.concatenate([jax.lax.slice_in_dim(window, 1, None, axis=axis), value], axis)


def seen_before(length: int) -> Array:
    return jnp.tril(jnp.ones((length, length), bool))


def window(module: transformer.Transformer, last_only: bool = False) -> Step:
    blocks = Blocks(module)

    def step(state: State) -> tuple[State, Array]:
        value = blocks.forecast(state, seen_before(state.shape[1]), last_only)
        return slid(state, value[:, None]), value

    return step


def padded(module: transformer.Transformer, last_only: bool = False) -> Step:
    blocks = Blocks(module)

    def step(state: State) -> tuple[State, Array]:
        valid = state["valid"]
        length = valid.shape[1]
        mask = seen_before(length) & ((valid > 0.5)[:, None, None, :] | jnp.eye(length, dtype=bool))
        value = blocks.forecast(state["window"], mask, last_only)
        return {
            "window": slid(state["window"], value[:, None]),
            "valid": slid(valid, jnp.ones_like(valid[:, :1])),
        }, value

    return step


def cached(module: transformer.Transformer) -> Step:
    blocks = Blocks(module)

    def step(state: State) -> tuple[State, Array]:
        valid = slid(state["valid"], jnp.ones_like(state["valid"][:, :1]))
        mask = (valid > 0.5)[:, None, None, :]
        x = linear(blocks.weights, "embed", state["value"])[:, None]
        keys, values = [], []
        for block, old_keys, old_values in zip(blocks.blocks, state["keys"], state["values"], strict=True):
            q, k, v = blocks.project(block, x, state["position"][:, None, None, :])
            keys.append(slid(old_keys, k, 2))
            values.append(slid(old_values, v, 2))
            x = blocks.finish(block, x, attend(q, keys[-1], values[-1], mask))
        value = blocks.read_out(state["value"], x[:, -1])
        return {
            "value": value,
            "position": state["position"] + 1,
            "valid": valid,
            "keys": tuple(keys),
            "values": tuple(values),
        }, value

    return step


# ---------------------------------------------------------------- selective scan


def selective_scan_step(module: selective_scan.SelectiveScan) -> Step:
    weights = weights_of(module)
    mixers = [within(weights, f"mixers.{number}") for number in range(len(module.mixers))]
    rank, states = module.mixers[0].rank, module.mixers[0].states

    def mix(w: Weights, x: Array) -> Array:
        length = x.shape[1]
        u, gate = jnp.split(linear(w, "into", norm(w, "norm", x)), 2, -1)
        padded = jnp.pad(u, ((0, 0), (selective_scan.TAPS - 1, 0), (0, 0)))
        taps = [padded[:, i : i + length] * w["convolution.weight"][:, 0, i] for i in range(selective_scan.TAPS)]
        u = jax.nn.silu(sum(taps) + w["convolution.bias"])
        chosen, B, C = jnp.split(linear(w, "select", u), [rank, rank + states], -1)
        dt = jax.nn.softplus(linear(w, "step", chosen))
        decay = jnp.exp(dt[..., None] * -jnp.exp(w["log_decay"]))
        drive = (dt * u)[..., None] * B[:, :, None, :]

        def advance(h: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            decayed, driven, seen = now
            h = decayed * h + driven
            return h, (h * seen[:, None, :]).sum(-1)

        in_time = [jnp.moveaxis(part, 1, 0) for part in (decay, drive, C)]
        _, outputs = jax.lax.scan(advance, jnp.zeros_like(drive[:, 0]), tuple(in_time), unroll=True)
        y = jnp.moveaxis(outputs, 0, 1) + w["skip"] * u
        return x + linear(w, "out", y * jax.nn.silu(gate))

    def step(state: State) -> tuple[State, Array]:
        x = linear(weights, "embed", state)
        for mixer in mixers:
            x = mix(mixer, x)
        value = state[:, -1] + selective_scan.RATE * linear(weights, "head", norm(weights, "norm", x[:, -1]))
        return slid(state, value[:, None]), value

    return step


STEPS: dict[str, Callable[[Any], Step]] = {
    "gru": gru,
    "lstm": lstm,
    "window": window,
    "trimmed_window": lambda module: window(module, last_only=True),
    "padded": padded,
    "trimmed_padded": lambda module: padded(module, last_only=True),
    "cached": cached,
    "selective_scan": selective_scan_step,
}
