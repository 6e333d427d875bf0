"""Ours: the native engine's tangent rollout."""

from __future__ import annotations

from typing import Any

import tqs_fast as tqs
from jvp.form import Contestant, Form


def rollout(form: Form, horizon: int) -> Contestant:
    """`tqs.rollout` as a user calls it."""

    def call() -> Any:
        return tqs.rollout(form.system, form.state, horizon=horizon, tangents=form.tangents, engine="native")

    return Contestant(call, lambda rolled: (rolled.outputs, rolled.tangent_outputs))
