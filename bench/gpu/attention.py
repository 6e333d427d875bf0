"""Question: what do K tangents of attention cost on one GPU, in time and memory, next to what else there is?

bfloat16, 16 tangents of q, k and v, one context of 512 to 8192 positions, 16 heads of 64 or 8 of 128, with `--causal`
every position seeing those before it:

    ours           torch.func: vmap(jvp(tqs.ops.attention))
    operator       torch.ops.tqs_fast.attention and attention_tangents, without torch.func around them
    math           torch.func: vmap(jvp(softmax(q k^T) v written out)), all tangents at once
    math, in turn  the same, one tangent after the other
    jvp-flash      jvp-flash-attention (Triton; where it is installed), one tangent after the other
    forward only   scaled_dot_product_attention of 1 + K stacked inputs: what forward differences take

Time by CUDA events, contestants in turn, the median of rounds; memory is the most that torch allocated beyond the
arguments. Operations are 2 (D + E) per pair of query and seen key for the primal and 4 (D + E) for a tangent; their
rate is shown as a share of a large bfloat16 product's, measured in the same run. Up to 1024 positions results are
compared with the formula in float32 first; errors relative to the largest element are reported.

    python bench/gpu/attention.py --out bench/results/attention_cuda.json
    python bench/gpu/attention.py --device cpu --quick --out attention.json       whether it runs
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness
from gpu.clock import product_rate, seconds
from tqs_fast.ops import attention

HEADS = {64: 16, 128: 8}  # a model of 1024
FORWARD = "forward only"
COMPARED = 1024  # positions up to which results are compared
Parts = tuple[Tensor, ...]
Way = Callable[[Parts, Parts], tuple[Tensor, Tensor]]


def formula(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    scores = q.shape[-1] ** -0.5 * q @ k.mT
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    return torch.softmax(scores, -1) @ v


def along(function: Callable[..., Tensor]) -> Way:
    """Output, and its tangents [K, ...] at once."""
    return lambda primal, tangents: vmap(lambda *t: jvp(function, primal, t), out_dims=(None, 0))(*tangents)


def in_turn(function: Callable[..., Tensor]) -> Way:
    def way(primal: Parts, tangents: Parts) -> tuple[Tensor, Tensor]:
        pairs = [jvp(function, primal, parts) for parts in zip(*tangents, strict=True)]
        return pairs[0][0], torch.stack([tangent for _, tangent in pairs])

    return way


def operator(primal: Parts, tangents: Parts, *, causal: bool) -> tuple[Tensor, Tensor]:
    settings = (primal[0].shape[-1] ** -0.5, causal, 0)
    return (
        torch.ops.tqs_fast.attention(*primal, None, *settings),
        torch.ops.tqs_fast.attention_tangents(*primal, None, *tangents, None, *settings),
    )


def forward_only(primal: Parts, tangents: Parts, *, causal: bool) -> tuple[Tensor, Tensor]:
    """No tangents: the outputs of the stacked inputs, which are not compared."""
    stacked = (torch.cat([x[None], dx]) for x, dx in zip(primal, tangents, strict=True))
    out = F.scaled_dot_product_attention(*stacked, is_causal=causal)
    return out[0], out[1:]


def ways(causal: bool) -> tuple[dict[str, Way], dict[str, str]]:
    """The contestants; and why others are missing."""
    found: dict[str, Way] = {
        "ours": along(partial(attention, causal=causal)),
        "operator": partial(operator, causal=causal),
        "math": along(partial(formula, causal=causal)),
        "math, in turn": in_turn(partial(formula, causal=causal)),
        FORWARD: partial(forward_only, causal=causal),
    }
    try:
        from jvp_flash_attention.jvp_attention import JVPAttn
    except Exception as error:  # not installed, or a Triton that it does not know
        return found, {"jvp-flash": f"{type(error).__name__}: {error}"}

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result: Tensor = JVPAttn.fwd_dual(q[None], k[None], v[None], causal=causal)  # wants [batch, heads, S, D]
        return result[0]

    return found | {"jvp-flash": in_turn(flash)}, {}


def peak_bytes(call: Callable[[], Any], device: str) -> int | None:
    """The most that torch allocated meanwhile, on a GPU."""
    if device != "cuda":
        call()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def errors(way: Way, primal: Parts, tangents: Parts, causal: bool) -> dict[str, float]:
    """Of out and dout, relative to the largest element of the formula in float32."""
    wide = in_turn(partial(formula, causal=causal))(
        tuple(x.float() for x in primal), tuple(x.float() for x in tangents)
    )
    pairs = zip(("out", "dout"), way(primal, tangents), wide, strict=True)
    return {name: float((got.float() - exact).abs().max() / exact.abs().max()) for name, got, exact in pairs}


def measure(length: int, depth: int, contestants: dict[str, Way], options: argparse.Namespace) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(length)
    heads = HEADS[depth]

    def drawn(*more: int) -> Tensor:
        values = torch.randn(*more, heads, length, depth, generator=generator)
        return values.to(options.device, torch.bfloat16)

    primal, tangents = tuple(drawn() for _ in range(3)), tuple(drawn(options.tangents) for _ in range(3))
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    for name, way in contestants.items():
        try:
            if length <= COMPARED and name != FORWARD:
                rows[name] = {"error": errors(way, primal, tangents, options.causal)}
            way(primal, tangents)  # compiles, where it does
            calls[name] = lambda way=way: way(primal, tangents)
            rows[name] = rows.get(name, {}) | {"bytes": peak_bytes(calls[name], options.device)}
        except Exception as error:  # out of memory, or a shape that a peer does not take
            rows[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
            calls.pop(name, None)
            if options.device == "cuda":
                torch.cuda.empty_cache()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for turn in range(options.rounds):
        if turn and time.perf_counter() - began > options.seconds:
            break
        for name, call in calls.items():
            samples[name].append(seconds(call, options.device))
    pairs = length * (length + 1) // 2 if options.causal else length**2
    operations = heads * pairs * 2 * (2 * depth) * (1 + 2 * options.tangents)
    for name, times in samples.items():
        median = statistics.median(times)
        rows[name] |= {"seconds": times, "median_seconds": median, "operations_per_second": operations / median}
    return {"length": length, "depth": depth, "heads": heads, "operations": operations, "contestants": rows}


def show(result: dict[str, Any], most: float) -> None:
    print(f"S = {result['length']}, d = {result['depth']}")
    ours = result["contestants"]["ours"].get("median_seconds", float("nan"))
    for name, row in result["contestants"].items():
        if "failed" in row:
            print(f"  {name:14} {row['failed']}", flush=True)
            continue
        memory = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:9.0f} MiB"
        share = 100 * row["operations_per_second"] / most
        error = "".join(f"  {part} off by {value:.1e}" for part, value in row.get("error", {}).items())
        print(
            f"  {name:14} {1e3 * row['median_seconds']:9.3f} ms {memory}  {row['median_seconds'] / ours:6.2f} x ours  "
            f"{share:5.1f} % of a product{error}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--depths", nargs="+", type=int, default=[64, 128], choices=sorted(HEADS))
    parser.add_argument("--tangents", type=int, default=16)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="no new round after so long, per length and depth")
    parser.add_argument("--quick", action="store_true", help="a short context, 3 tangents, one round")
    parser.add_argument("--out", required=True, help="a name in bench/results, or a path that ends in .json")
    options = parser.parse_args()
    if options.quick:
        options.lengths, options.tangents, options.rounds = [48], 3, 1
    contestants, missing = ways(options.causal)
    most = product_rate(options.device, torch.bfloat16, 512 if options.quick else 8192)
    document: dict[str, Any] = {
        "device": options.device, "tangents": options.tangents, "causal": options.causal, "product": most,
        "missing": missing, "results": [],
    }  # fmt: skip
    for length in options.lengths:
        for depth in options.depths:
            result = measure(length, depth, contestants, options)
            show(result, most)
            document["results"].append(result)
            harness.write(options.out, document)  # what there is, should time run out
    if any("failed" in result["contestants"]["ours"] for result in document["results"]):
        raise SystemExit("ours failed")


if __name__ == "__main__":
    main()
