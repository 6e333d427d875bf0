"""The rotary transformer with a context that grows: recomputed at every step, or with cached keys and values.

A fixed-size window holds the values so far at its end; `valid` marks them. Rotary positions are relative and no value
leaves the window within the horizon, so both forms compute the same numbers.
"""

from __future__ import annotations

import torch
from torch.func import jvp, vmap

import tqs_fast as tqs
from jvp.form import Form, Network, directions, seeded
from jvp.transformer import Transformer, attend
from tqs_fast.systems.tree import Tree

State = dict[str, Tree]


def growing_mask(valid: torch.Tensor) -> torch.Tensor:
    """[N, 1, S, S]: a query sees the valid keys up to itself; an invalid one sees itself, so that no row is empty."""
    seen = torch.ones(valid.shape[1], valid.shape[1], dtype=torch.bool, device=valid.device).tril()
    itself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return seen & ((valid > 0.5)[:, None, None, :] | itself)


def growing_step(
    module: Transformer, state: State, explicit: bool = False, last_only: bool = False
) -> tuple[State, torch.Tensor]:
    """State: window [N, S, C], valid [N, S] (0 or 1)."""
    window, valid = state["window"], state["valid"]
    value = module(window, growing_mask(valid), explicit=explicit, last_only=last_only)
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
    """The cached state of a growing one: keys and values of all values but the newest, which is yet to be read."""
    window, valid = state["window"], state["valid"]
    mask = growing_mask(valid)
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
    """`filled` values at the start; exact with a cache for `context - filled` steps."""
    module = seeded(lambda: Transformer(True, width, heads, hidden, layers, context, channels), seed)

    def initial_state(count: int, generator: torch.Generator) -> State:
        valid = torch.zeros(count, context)
        valid[:, context - filled :] = 1
        return {
            "window": torch.randn(count, context, channels, generator=generator) * valid[:, :, None],
            "valid": valid,
        }

    def initial_cache(count: int, generator: torch.Generator) -> State:
        with torch.no_grad():
            return fill_cache(module, initial_state(count, generator))

    state = initial_state(count, torch.Generator().manual_seed(seed))
    seeds = directions(state, tangents, seed + 1, leaves=lambda key: key == "window")
    seeds["window"] = seeds["window"] * state["valid"][:, :, None]
    with torch.no_grad():
        cache, cache_seeds = vmap(
            lambda direction: jvp(lambda z: fill_cache(module, z), (state,), (direction,)), out_dims=(None, 0)
        )(seeds)

    def growing(ways: tuple[str, ...], note: str, explicit: bool = False, last_only: bool = False) -> Form:
        def step(module: torch.nn.Module, state: State) -> tuple[State, torch.Tensor]:
            return growing_step(module, state, explicit, last_only)

        system = tqs.System(module, step=step, initial_state=initial_state, name="rotary")
        return Form(system, state, seeds, "trimmed_growing" if last_only else "growing", ways, note)

    def cached(ways: tuple[str, ...], note: str, explicit: bool = False) -> Form:
        def step(module: torch.nn.Module, state: State) -> tuple[State, torch.Tensor]:
            return cached_step(module, state, explicit)

        system = tqs.System(module, step=step, initial_state=initial_cache, name="rotary-cached")
        return Form(system, cache, cache_seeds, "cached", ways, note)

    last = "last layer at the last position only"
    by_hand = "keys, values and their tangents carried in the state"
    return Network(
        "rotary",
        {
            "plain": growing(("native", "jax jvp", "jax differences", "differences"), "recomputed at every step"),
            "trimmed": growing(
                ("jax jvp", "jax differences", "compiled differences"), f"recomputed, {last}", last_only=True
            ),
            "trimmed explicit": growing(
                ("func rollout", "compiled steps"), f"recomputed, {last}, softmax written out", True, True
            ),
            "cached": cached(("native", "jax jvp", "jax differences", "differences", "compiled differences"), by_hand),
            "cached explicit": cached(
                ("func rollout", "func steps", "compiled steps"), f"{by_hand}, softmax written out", explicit=True
            ),
        },
        counted="trimmed explicit",
    )
