"""The rotary transformer with a context that grows, for ways that can and cannot change sizes or keep keys and values.

Plain, the window gains a value at every step. Padded, values stand at the end of a window of fixed size, `valid` marks
them, and none leaves it within the horizon. Cached, a step reads one value and carries keys and values of those before
it. Rotary positions are relative, so all compute the same numbers.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.func import jvp, vmap
from torch.nn import functional

import tqs_fast as tqs
from jvp.form import Form, Network, directions, seeded
from jvp.transformer import Transformer, attend, predict
from tqs_fast.systems.tree import Tree

State = dict[str, Tree]


def padded_mask(valid: torch.Tensor) -> torch.Tensor:
    """[N, 1, S, S]: a query sees the valid keys up to itself; an invalid one sees itself, so that no row is empty."""
    seen = torch.ones(valid.shape[1], valid.shape[1], dtype=torch.bool, device=valid.device).tril()
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return seen & ((valid > 0.5)[:, None, None, :] | itself)


def padded_step(
    module: Transformer, state: State, explicit: bool = False, last_only: bool = False
) -> tuple[State, torch.Tensor]:
    """State: window [N, S, C], valid [N, S] (0 or 1)."""
    window, valid = state["window"], state["valid"]
    value = module(window, padded_mask(valid), explicit=explicit, last_only=last_only)
    one = torch.ones_like(valid[:, :1])
    return {
        "window": torch.cat([window[:, 1:], value[:, None]], dim=1),
        "valid": torch.cat([valid[:, 1:], one], dim=1),
    }, value


def cached_step(module: Transformer, state: State, explicit: bool = False) -> tuple[State, torch.Tensor]:
    """One position. State: the value [N, C] to read next, its position [N, 1], and of those before it, per layer,
    keys (turned) and values [N, H, S, E], newest last, with valid [N, S] saying which are filled.
    """
    valid = torch.cat([state["valid"][:, 1:], torch.ones_like(state["valid"][:, :1])], dim=1)
    mask = (valid > 0.5)[:, None, None, :]
    turn = module.turn(state["position"][:, None, None, :])
    x = module.embed(state["value"])[:, None]
    keys, values = [], []
    for block, old_keys, old_values in zip(module.blocks, state["keys"], state["values"], strict=True):
        q, k, v = block.project(x, turn, explicit)
        keys.append(torch.cat([old_keys[:, :, 1:], k], dim=2))
        values.append(torch.cat([old_values[:, :, 1:], v], dim=2))
        x = block.finish(x, attend(q, keys[-1], values[-1], mask, False, explicit), explicit)
    value = module.read_out(state["value"], x[:, -1], explicit)
    return {
        "value": value,
        "position": state["position"] + 1,
        "valid": valid,
        "keys": tuple(keys),
        "values": tuple(values),
    }, value


def fill_cache(module: Transformer, state: State) -> State:
    """The cached state of a padded one: keys and values of all values but the newest, which is yet to be read."""
    window, valid = state["window"], state["valid"]
    mask = padded_mask(valid)
    turn = module.turn(torch.arange(window.shape[1], device=window.device, dtype=window.dtype)[:, None])
    x, keys, values = module.embed(window), [], []
    for block in module.blocks:
        q, k, v = block.project(x, turn, explicit=True)
        keys.append(_shifted(k))
        values.append(_shifted(v))
        x = block.finish(x, attend(q, k, v, mask, False, explicit=True), explicit=True)
    return {
        "value": window[:, -1],
        "position": torch.full_like(valid[:, :1], window.shape[1] - 1),
        "valid": torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1),
        "keys": tuple(keys),
        "values": tuple(values),
    }


def _shifted(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], dim=2)


def padded_to(context: int, window: torch.Tensor) -> torch.Tensor:
    """The window [..., S, C] at the end of `context` positions, zeros before it."""
    return functional.pad(window, (0, 0, context - window.shape[-2], 0))


def rotary(
    tangents: int = 16,
    width: int = 256,
    heads: int = 4,
    hidden: int = 1024,
    layers: int = 4,
    context: int = 96,
    filled: int = 32,
    channels: int = 8,
    count: int = 1,
    seed: int = 0,
) -> Network:
    """`filled` values at the start; the forms agree for `context - filled` steps, and one more."""
    module = seeded(lambda: Transformer(True, width, heads, hidden, layers, context, channels), seed)
    window = torch.randn(count, filled, channels, generator=torch.Generator().manual_seed(seed))
    seeds = directions(window, tangents, seed + 1)

    def pad(window: torch.Tensor) -> State:
        valid = torch.ones_like(window[:, :, :1])
        return {"window": padded_to(context, window), "valid": padded_to(context, valid)[:, :, 0]}

    def windows(count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(count, filled, channels, generator=generator)

    padding = pad(window)
    padded_seeds = {"window": padded_to(context, seeds), "valid": torch.zeros(tangents, count, context)}
    with torch.no_grad():
        cache, cache_seeds = vmap(
            lambda direction: jvp(lambda z: fill_cache(module, z), (padding,), (direction,)), out_dims=(None, 0)
        )(padded_seeds)

    def growing(ways: tuple[str, ...], note: str, explicit: bool = False, last_only: bool = False) -> Form:
        forecast = partial(predict, explicit=explicit, last_only=last_only)
        system = tqs.Forecaster(
            module, filled, channels=channels, predict=forecast, growing=True, name="rotary", initial_state=windows
        )
        return Form(system, window, seeds, None, ways, note)

    def padded(ways: tuple[str, ...], note: str, explicit: bool = False, last_only: bool = False) -> Form:
        system = tqs.System(
            module,
            step=partial(padded_step, explicit=explicit, last_only=last_only),
            initial_state=lambda count, generator: pad(windows(count, generator)),
            name="rotary-padded",
        )
        return Form(system, padding, padded_seeds, "trimmed_padded" if last_only else "padded", ways, note)

    def cached(ways: tuple[str, ...], note: str, explicit: bool = False) -> Form:
        system = tqs.System(
            module,
            step=partial(cached_step, explicit=explicit),
            initial_state=torch.no_grad()(lambda count, generator: fill_cache(module, pad(windows(count, generator)))),
            name="rotary-cached",
        )
        return Form(system, cache, cache_seeds, "cached", ways, note)

    last, written_out = "last layer at the last position only", "softmax and norms written out"
    carried = "keys, values and their tangents in the state; those of the first values not timed"
    return Network(
        "rotary",
        {
            "plain": growing(("native", "func rollout", "differences"), "scaled_dot_product_attention, causal"),
            "trimmed": growing(("differences",), last, last_only=True),
            "trimmed explicit": growing(("func rollout", "func steps"), f"{last}, {written_out}", True, True),
            "padded": padded(("native", "jax jvp", "jax differences"), "of fixed size, with a mask"),
            "trimmed padded": padded(
                ("jax jvp", "jax differences", "compiled differences"),
                f"of fixed size, with a mask, {last}",
                last_only=True,
            ),
            "trimmed padded explicit": padded(
                ("compiled steps",), f"of fixed size, with a mask, {last}, {written_out}", True, True
            ),
            "cached": cached(("native", "jax jvp", "jax differences", "differences", "compiled differences"), carried),
            "cached explicit": cached(("func rollout", "compiled steps"), f"{carried}; {written_out}", explicit=True),
        },
        counted="cached explicit",
    )
