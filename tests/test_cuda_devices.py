"""All families of kernels on devices with less shared memory than an H200: what asks for more than there is fails when
it is launched, on the emulator as there. Every test runs on an emulated 9.0 and, in a process of its own, on an 8.0 and
an 8.6 (whose limits are those of 8.9)."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import test_cuda_half
from cases.ops import CASES, attention, linear, matmul, normalize, packed_linear, softmax
from programs import Native, View, draw
from test_cuda_engine import EMULATED, GPU
from test_cuda_program import chain_of
from test_program_ops import TANGENTS, check_values_and_tangents
from tqs_fast._native import core

pytestmark = pytest.mark.skipif(not EMULATED or not torch.cuda.is_available(), reason="needs an emulated GPU")

HERE = "TQS_EMULATED_DEVICE"
KINDS = {case.kind: case for case in reversed(CASES)}
# Where the sizes decide how much shared memory there should be.
LARGE = (
    *((chain_of(constants), precision) for constants in (184, 220) for precision in ("float32", "float64")),
    (softmax("kept", View((1, 4096)), False), "float64"),
    (normalize("held", View((1, 8192)), 1, True), "bfloat16"),
    *(
        (attention(f"{width} wide", *(View((1, 1, rows, 64)) for rows in (66, 70)), View((1, 1, 70, width))), precision)
        for precision in ("float32", "float64")
        for width in (64, 100)
    ),
    (linear("in tiles of 128", View((172, 8)), 256), "bfloat16"),
    (matmul("in tiles of 128", View((172, 8)), View((8, 256))), "bfloat16"),
    (packed_linear("of 66 rows", View((22, 256)), 40), "bfloat16"),
)
halves = [(case, "float16") for case in KINDS.values() if not test_cuda_half.on_tensor_cores(case)]


@pytest.mark.parametrize(("case", "precision"), [*halves, *LARGE], ids=str)
def test_families(case, precision):
    if precision in test_cuda_half.HALVES:
        test_cuda_half.test_ops(case, precision)
    else:
        data = draw(case, 1, TANGENTS)
        check_values_and_tangents(Native(case, precision, data.values, GPU), case, precision, data)


def test_this_is_the_device_that_was_asked_for():
    shared = {"8.0": 163, "8.6": 99, "9.0": 227}[os.environ.get(HERE, "9.0")]
    assert ctypes.CDLL(core.__file__).emulated_shared_bytes() == shared << 10


@pytest.mark.skipif(HERE in os.environ, reason="is one of those devices")
@pytest.mark.parametrize("device", ["8.0", "8.6"])
def test_with_less_shared_memory(device):
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run(command, env={**os.environ, HERE: device}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert f"{1 + len(halves) + len(LARGE)} passed" in done.stdout
