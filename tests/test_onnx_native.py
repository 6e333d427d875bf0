"""ONNX graphs by torch and by the native engine, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper

import tqs_fast as tqs
from onnx_cases import CASES, Case, node
from onnx_models import map_model, model, recurrent_model, weight, written
from tqs_fast.engines.native_rollout import roll_native
from tqs_fast.errors import ArgumentError, CaptureError
from tqs_fast.onnx import OnnxModule
from tqs_fast.onnx.operators import OPERATORS

TOLERANCE = 2e-5  # of the largest element: float32, and functions that two libraries approximate differently
START = tqs.Attractor(count=4)


def step(module: Any, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return state, module(state).reshape(len(state), -1)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_operator(case: Case, tmp_path: Path) -> None:
    module = OnnxModule(written(case.build(), tmp_path))

    def draw(count: int, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(count, *case.x, generator=generator)
        return torch.sigmoid(x) if case.positive else x

    system = tqs.System(module, step=step, initial_state=draw)
    x = draw(3, torch.Generator().manual_seed(1))
    expected = module(x).reshape(3, -1)
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    by_torch = module.in_torch()(x)
    assert by_torch.dtype == torch.float32
    assert float((by_torch.reshape(3, -1) - expected).abs().max()) <= limit
    native = roll_native(system, x, None, horizon=1).outputs[0]
    assert float((native - expected).abs().max()) <= limit


def test_every_operator_has_a_case() -> None:
    covered = set().union(*(case.covers for case in CASES))
    assert set(OPERATORS) - covered == {("", "Swish")}  # of opset 24, which ONNX Runtime 1.20 does not run
