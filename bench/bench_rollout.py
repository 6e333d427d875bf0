"""Question: how long does a rollout with K tangents take on one device, next to PyTorch's ways on that device?

The networks of bench_jvp.py in float32 and a forecaster of some 200 million parameters (bench/gpu/forecasters.py) in
float32 from one context and in bfloat16 from eight, 64 steps, 16 tangents. Contestants take turns in one process:

    native               `tqs.rollout(..., tangents=..., engine="native")`, results back in host memory
    func steps           torch.func: vmap(jvp(step)), step by step
    compiled steps       torch.compile of that; on a GPU with mode="reduce-overhead", its CUDA graphs
    differences          eager torch over stacked forward differences

Every result is compared with central differences of the float64 rollout first; a wrong one is reported and not timed.
The large forecaster is compared with `func steps` instead; beside its time is what its linear layers alone do per
second, over the rate of a large product in the same run. torch differentiates attention and recurrent cells as they are
written out: on a GPU its fused kernels have no forward mode.

    python bench/bench_rollout.py --device cuda --out bench/results/rollout_cuda.json
    python bench/bench_rollout.py --networks gru transformer --horizon 8       on the processor
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import harness
from gpu.clock import product_rate
from gpu.forecasters import forecaster
from jvp import native, torch_ways, truth
from jvp.form import Contestant, Form, Network, directions
from jvp.recurrent import gru, lstm
from jvp.transformer import transformer
from tqs_fast.systems.tree import tree_map

EPSILON = 1e-3
NETWORKS: dict[str, Callable[[int], Network]] = {"gru": gru, "lstm": lstm, "transformer": transformer}
LARGE = {"forecaster-200m": (torch.float32, 1), "forecaster-200m-bfloat16": (torch.bfloat16, 8)}  # type, contexts

WAYS = ("native", "func steps", "compiled steps", "differences")
DIFFERENTIATED = {"func steps", "compiled steps"}  # by torch


def large(dtype: torch.dtype, contexts: int, tangents: int) -> Network:
    """The 200 M forecaster from random contexts."""
    system = forecaster(width=1024, layers=16, context=512, dtype=dtype)
    state = torch.randn(contexts, 512, 1, generator=torch.Generator().manual_seed(0))
    form = Form(system, state.to(dtype), directions(state, tangents, seed=1).to(dtype), None, ())
    return Network(system.name, {"plain": form})


def linear_operations(form: Form) -> int:
    """Of the linear layers in one step."""
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
        counts.append(2 * inputs[0].numel() * layer.out_features)

    hooks = [m.register_forward_hook(count) for m in form.system.module.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        form.system.step(form.system.module, form.state)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def compiled_steps(form: Form, horizon: int, device: str) -> Contestant:
    """Through inductor; on a GPU every step as a CUDA graph, whose outputs are copied before the next replay."""
    if device == "cpu":
        return torch_ways.compiled_steps(form, horizon)
    advance = torch.compile(torch_ways.step_tangents(form), dynamic=False, fullgraph=True, mode="reduce-overhead")

    def step(state: Any, tangents: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(torch.clone, advance(state, tangents))

    return torch_ways.roll_tangents(step, form, horizon)


def contestants(network: Network, horizon: int, device: str) -> dict[str, Callable[[], Contestant]]:
    form, written = (placed(network.forms.get(name, network.plain), device) for name in ("plain", "written"))
    return {
        "native": lambda: native.rollout(form, horizon),
        "func steps": lambda: torch_ways.func_steps(written, horizon),
        "compiled steps": lambda: compiled_steps(written, horizon, device),
        "differences": lambda: torch_ways.differences(form, horizon, EPSILON),
    }


def placed(form: Form, device: str) -> Form:
    """Module, state and tangents on the device."""
    form.system.module.to(device)
    return replace(
        form,
        state=tree_map(lambda leaf: leaf.to(device), form.state),
        tangents=tree_map(lambda leaf: leaf.to(device), form.tangents),
    )


def settled(call: Callable[[], Any], device: str, way: str) -> Callable[[], Any]:
    """`call` until its work is done."""

    def run() -> Any:
        with sdpa_kernel(SDPBackend.MATH) if way in DIFFERENTIATED else nullcontext():
            result = call()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All contestants of one network in turn."""
    network = large(*LARGE[name], options.tangents) if name in LARGE else NETWORKS[name](options.tangents)
    expected = None if name in LARGE else truth.find_truth(network.plain, options.horizon)
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    results: dict[str, Any] = {}
    for way, make in contestants(network, options.horizon, options.device).items():
        if way not in options.ways:
            continue
        start = time.perf_counter()
        try:
            contestant = make()
            call = settled(contestant.call, options.device, way)
            outputs, tangents = contestant.read(call())
            row: dict[str, Any] = {"first_seconds": time.perf_counter() - start}
            rolled = outputs.detach().cpu(), tangents.detach().cpu()
            results[way] = rolled
            if expected is not None:
                row["error"] = expected.error(rolled)
                row["wrong"] = not row["error"] <= (truth.DIFFERENCES if way == "differences" else truth.EXACT)
            if not row.get("wrong"):
                calls[way] = call
            rows[way] = row
        except Exception as error:  # what a way cannot do is a result of this bench
            rows[way] = {"failed": f"{type(error).__name__}: {str(error).strip()[:400]}"}
    if expected is None and {"native", "func steps"} <= results.keys():
        ours, theirs = results["native"][1], results["func steps"][1].double()
        rows["native"]["difference"] = truth.worst_step(ours, theirs)
    seconds = harness.paired(calls, options.rounds)
    for way, times in seconds.items():
        rows[way] |= {"median_seconds": statistics.median(times), "seconds": times}
    if name in LARGE:
        size = 8192 if options.device == "cuda" else 1024
        most = product_rate(options.device, LARGE[name][0], size)
        done = linear_operations(placed(network.plain, options.device)) * (1 + options.tangents) * options.horizon
        for way in seconds:
            rows[way]["share of a product's rate"] = done / rows[way]["median_seconds"] / most
    ratios = {way: harness.ratio(seconds, "native", way) for way in seconds if way != "native" and "native" in seconds}
    return {"network": name, "contestants": rows, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS, *LARGE], default=[*NETWORKS, *LARGE])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--horizon", type=int, default=64)
    parser.add_argument("--tangents", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="a name in bench/results, or a path that ends in .json")
    options = parser.parse_args()
    result: dict[str, Any] = {"device": options.device, "networks": [], "failed": {}}
    for name in options.networks:
        try:
            measured = measure(name, options)
        except Exception as error:  # one network's alone
            result["failed"][name] = f"{type(error).__name__}: {str(error).strip()[:400]}"
            print(name, result["failed"][name], flush=True)
            continue
        result["networks"].append(measured)
        for way, row in measured["contestants"].items():
            print(f"{name:18} {way:16}", {key: value for key, value in row.items() if key != "seconds"}, flush=True)
        if options.out:
            harness.write(options.out, result)
    ours = [measured["contestants"].get("native", {}) for measured in result["networks"]]
    if result["failed"] or any("failed" in row or row.get("wrong") for row in ours):
        raise SystemExit("ours is wrong, or failed")


if __name__ == "__main__":
    main()
