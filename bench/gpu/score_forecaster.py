"""Question: what does it take to score a forecaster of 10^9 parameters on one GPU?

Random weights of realistic shapes (bench/gpu/forecasters.py), `Residual` over all layers with bits (2, 3, 4, 8),
`Noise` and `Adjoint`; per method the seconds, the peak of device memory, and how many plain rollouts of the same
horizon and contexts would have taken as long.

    python bench/gpu/score_forecaster.py --out bench/results/score_forecaster.json
    python bench/gpu/score_forecaster.py --width 256 --layers 2 --device cpu       to try it

`--stream` keeps the weights in host memory and lets half of their bytes be the memory limit of the GPU, so that most of
them pass through it at every step (engine="native:cuda"; `Adjoint` would differentiate on the CPU and is left out).
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tqs_fast as tqs

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness
from gpu.forecasters import forecaster

METHODS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "residual": lambda options: tqs.Residual(bits=tuple(options.bits)),
    "noise": lambda options: tqs.Noise(probes=2),
    "adjoint": lambda options: tqs.Adjoint(probes=2),
}


class Peak:
    """The most device memory in use while it is entered, by asking every few milliseconds (torch sees its own only)."""

    def __init__(self, device: str) -> None:
        self.bytes = 0
        self._device, self._ended = device, threading.Event()

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while self._device == "cuda" and not self._ended.wait(0.005):
            free, total = torch.cuda.mem_get_info()
            self.bytes = max(self.bytes, total - free)


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds, and what the call returned."""
    start = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--horizon", type=int, default=16)
    parser.add_argument("--count", type=int, default=8, help="contexts")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 8])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--memory-limit", type=int)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--out", help="a name in bench/results, or a path that ends in .json")
    options = parser.parse_args()
    if options.stream and options.device == "cpu":
        parser.error("--stream brings weights to a GPU; leave out --device cpu")
    home, engine = ("cpu", f"native:{options.device}") if options.stream else (options.device, "native")
    dtype = getattr(torch, options.dtype)
    system = forecaster(width=options.width, layers=options.layers, context=options.context, device=home, dtype=dtype)
    if options.stream:
        options.methods = [name for name in options.methods if name != "adjoint"]
        options.memory_limit = options.memory_limit or sum(p.nbytes // 2 for p in system.module.parameters())
    contexts = torch.randn(options.count, options.context, 1, generator=torch.Generator().manual_seed(1)).to(dtype)

    def roll() -> Any:
        return tqs.rollout(system, contexts, horizon=options.horizon, engine=engine)

    first, _ = timed(roll, options.device)
    rollout = min(timed(roll, options.device)[0] for _ in range(3))
    result: dict[str, Any] = {
        "device": options.device,
        "parameters": sum(p.numel() for p in system.module.parameters()), "horizon": options.horizon,
        "dtype": options.dtype, "engine": engine, "memory_limit": options.memory_limit,
        "contexts": options.count, "context": options.context, "first_rollout_seconds": first,
        "rollout_seconds": rollout, "methods": {},
    }  # fmt: skip
    for name in options.methods:
        method = METHODS[name](options)

        def score(method: Any = method) -> Any:
            return tqs.score(
                system, horizon=options.horizon, initial=tqs.Contexts(contexts), method=method,
                memory_limit=options.memory_limit, engine=engine if options.stream else "auto",
            )  # fmt: skip

        with Peak(options.device) as peak:
            try:
                seconds, table = timed(score, options.device)
                row = {"seconds": seconds, "rollouts": seconds / rollout, "engine": table.provenance["engine"]}
            except Exception as error:  # the others may do
                row = {"failed": f"{type(error).__name__}: {str(error).strip()[:400]}"}
        result["methods"][name] = row | {"peak_bytes": peak.bytes}
        print(name, result["methods"][name], flush=True)
        if options.out:
            harness.write(options.out, result)
    print(json.dumps(result, indent=1))
    if any("failed" in row for row in result["methods"].values()):
        raise SystemExit("a method failed")


if __name__ == "__main__":
    main()
