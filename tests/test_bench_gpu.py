"""The benches of a GPU run to their ends on an emulated one, with small sizes; their figures say nothing there."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tqs_fast._native import core

BENCH = Path(__file__).resolve().parent.parent / "bench"
pytestmark = [
    pytest.mark.skipif(
        core.cuda_architectures() != "emulated" or not torch.cuda.is_available(), reason="needs an emulated GPU"
    ),
    pytest.mark.filterwarnings("default"),  # of torch, about itself
]

FORECASTER = "gpu/score_forecaster.py --width 128 --layers 1 --context 64 --horizon 2 --count 2 --bits 4"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs a command line of bench/; what it wrote."""

    def run(command):
        script, *arguments = command.split()
        out = tmp_path / "out.json"
        monkeypatch.syspath_prepend(str(BENCH))
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--out", str(out)])
        runpy.run_path(str(BENCH / script), run_name="__main__")
        return json.loads(out.read_text())

    return run


@pytest.mark.parametrize("options", ["", "--asymmetric --groups 32 0"])
def test_products(bench, options):
    document = bench(f"bench_qgemm.py --device cuda --quick {options}")
    assert len(document["rows"]) == (8 if not options else 12)
    for row in document["rows"]:
        assert {"ours", "ours, int8 rows", "cuBLAS bf16"} <= row["microseconds"].keys()
        assert row["error / bound"] <= 1


@pytest.mark.parametrize("options", ["", "--causal"])
def test_attention(bench, options):
    for result in bench(f"gpu/attention.py --quick {options}")["results"]:
        for name in ("ours", "operator", "math"):
            assert max(result["contestants"][name]["error"].values()) < 0.02
        assert "seconds" in result["contestants"]["forward only"]


@pytest.mark.parametrize("network", ["gru", "lstm"])
def test_rollouts(bench, network):
    document = bench(f"bench_rollout.py --device cuda --networks {network} --horizon 2 --tangents 2 --rounds 1")
    (result,) = document["networks"]
    for way in ("native", "func steps", "differences"):
        assert result["contestants"][way]["wrong"] is False


@pytest.mark.parametrize(
    "options",
    ["", "--dtype bfloat16", "--stream --methods residual --layers 2"],
    ids=["float32", "bfloat16", "streamed"],
)
def test_scores(bench, options):
    document = bench(f"{FORECASTER} {options}")
    assert set(document["methods"]) == ({"residual"} if "residual" in options else {"residual", "noise", "adjoint"})
    assert document["methods"]["residual"]["engine"]["name"] == "native"


def test_what_the_sanitizer_sees(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    runpy.run_path(str(BENCH / "gpu/sanitized.py"), run_name="__main__")
