"""The GRU's hand-written tangents (`by_hand`) in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jvp.by_hand import Library, gru_step, split, stack_gru
from jvp.form import Contestant, Form
from jvp.jax_steps import weights_of
from jvp.jax_ways import to_jax, to_torch


def gru(form: Form, horizon: int) -> Contestant:
    """One compiled scan over the stacked rows."""
    weights = weights_of(form.system.module)
    library = Library(jnp.concatenate, jax.nn.sigmoid, jnp.tanh)

    @jax.jit
    def roll(h: jax.Array, value: jax.Array) -> jax.Array:
        def step(rows: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            rows = gru_step(library, weights, *rows)
            return rows, rows[1]

        return jax.lax.scan(step, (h, value), None, length=horizon)[1]

    h, value = to_jax(stack_gru(form))
    return Contestant(lambda: jax.block_until_ready(roll(h, value)), lambda rows: split(to_torch(rows)))
