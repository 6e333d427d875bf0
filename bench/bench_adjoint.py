"""Question: does Adjoint rank layers as the true damage of rounding them does, and what does it cost?

For every system and seed, one table of `tqs.Adjoint(probes=4)` against, from the same initial conditions,

    residual     damage of the one rounding that is used (round to nearest), measured
    stochastic   damage averaged over stochastic roundings (each weight up or down at random, its mean kept): the
                 expectation that Adjoint predicts, up to the size of the error. What two halves of these roundings
                 agree on is the most that any prediction can be expected to reach.

Rank correlations are Spearman's over layers. "delta" is the same prediction with Δ²/12 in place of the measured squared
error of a group. Ratios are predicted over measured damage. Costs are processor seconds over those of one forward
rollout of the same system in torch, one thread, in turn in the same run: "rollouts" is everything but rounding (float
rollout and backward passes), "all" is the whole of `tqs.score`. The two transformers differ in their number of layers
alone.

    python bench/bench_adjoint.py [--systems lorenz-gru silero-vad fracast transformer-8 transformer-32] [--bits 4 8]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

import harness
import tqs_fast as tqs
from tqs_fast.engines import Lane, choose_engine, roll_outputs, roll_reference
from tqs_fast.scoring.adjoint import expected_damage
from tqs_fast.scoring.adjoint_norms import finest_sums, squared_norms
from tqs_fast.scoring.task import Task, prepare
from tqs_fast.systems import default_initial, draw

Array = np.ndarray[Any, np.dtype[np.float64]]
# initial conditions and horizon: fracast steps 48 values at a time, through windows of 2048
SETTINGS = {
    "lorenz-gru": (128, 32),
    "silero-vad": (32, 96),
    "fracast": (8, 96),
    "transformer-8": (16, 24),
    "transformer-32": (16, 24),
}
WIDTH, HEADS, CONTEXT, CHANNELS = 16, 2, 16, 3


class Layer(nn.Module):
    """Pre-norm causal attention and a feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(count, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(count, length, WIDTH))
        mixed: torch.Tensor = x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))
        return mixed


class Transformer(nn.Module):
    """Random weights; half of the last value is carried over, so that rollouts stay alive."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        x = self.embed(window)
        for layer in self.layers:
            x = layer(x)
        forecast: torch.Tensor = 0.5 * window[:, -1] + self.head(x[:, -1])
        return forecast


def load(name: str) -> tqs.System:
    if not name.startswith("transformer"):
        return tqs.load_system(name)
    torch.manual_seed(0)
    module = Transformer(int(name.split("-")[1]))
    return tqs.Forecaster(module, CONTEXT, channels=CHANNELS, default_initial="synthetic", name=name)


def grid(weight: torch.Tensor, quantizer: tqs.Quantizer, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of every element of the matrix, float64 [rows, columns] each."""
    packed = quantizer.pack(weight, bits)
    columns = packed.shape[1]
    scale = torch.from_numpy(packed.scales.astype(np.int32) << 16).view(torch.float32).double()
    zero = (
        torch.full_like(scale, 2.0 ** (bits - 1)) if packed.zeros is None else torch.from_numpy(packed.zeros).double()
    )
    size = packed.group_size or columns
    return scale.repeat_interleave(size, 1)[:, :columns], zero.repeat_interleave(size, 1)[:, :columns]


def rounded_at_random(
    weight: torch.Tensor, quantizer: tqs.Quantizer, bits: int, generator: torch.Generator
) -> torch.Tensor:
    """`weight` with every element rounded up or down on its grid, its mean kept except where it is clipped."""
    scale, zero = grid(weight, quantizer, bits)
    drawn = torch.rand(scale.shape, generator=generator, dtype=torch.float64)
    codes = (weight.double().flatten(1) / scale + drawn).floor() + zero
    return ((codes.clamp(0, 2**bits - 1) - zero) * scale).reshape(weight.shape).to(weight)


def measured(task: Task, quantizer: tqs.Quantizer, bits: int, roundings: int) -> tuple[Array, Array, Array]:
    """Damage of round to nearest [L], of stochastic roundings [L, R], and the energy of these over the former's [L]."""
    engine, _ = choose_engine("auto", task.system, task.states, task.parameters, horizon=task.horizon)
    reference = roll_reference(task.system, task.states, task.horizon, outputs=engine.roll())
    generator = torch.Generator().manual_seed(task.seed)
    nearest, at_random, energies = [], [], []
    for index, parameter in enumerate(task.parameters):
        weight = parameter.detach()
        changed = [quantizer.dequantized(weight, bits).to(weight)]
        changed += [rounded_at_random(weight, quantizer, bits, generator) for _ in range(roundings)]
        damages = engine.run([Lane({index: c}) for c in changed], reference).samples.mean(dim=1).numpy()
        energy = [float((c - weight).double().square().sum()) for c in changed]
        nearest.append(damages[0])
        at_random.append(damages[1:])
        energies.append(np.mean(energy[1:]) / energy[0])
    return np.array(nearest), np.array(at_random), np.array(energies)


def delta_prediction(task: Task, norms: list[Array], quantizer: tqs.Quantizer, bits: int) -> Array:
    """Σ_g Δ_g² / 12 ‖G_g‖_F², [L]."""
    damages = []
    for squared, parameter in zip(norms, task.parameters, strict=True):
        error = finest_sums(grid(parameter.detach(), quantizer, bits)[0].square() / 12)
        damages.append(expected_damage(squared, error, parameter[0].numel(), quantizer.group_size).mean())
    return np.array(damages)


def rank(a: Array, b: Array) -> float:
    return float(spearmanr(a, b)[0])


def accuracy(task: Task, table: tqs.Sensitivity, norms: list[Array], bits: int, roundings: int) -> dict[str, Any]:
    quantizer = table.quantizer
    predicted = table.damage[:, table.bits.index(bits)]
    nearest, at_random, energy = measured(task, quantizer, bits, roundings)
    stochastic = at_random.mean(axis=1)
    delta = delta_prediction(task, norms, quantizer, bits)
    halves = at_random[:, ::2].mean(axis=1), at_random[:, 1::2].mean(axis=1)
    return {
        "bits": bits,
        "rank": {
            "residual": rank(predicted, nearest), "stochastic": rank(predicted, stochastic),
            "delta, residual": rank(delta, nearest), "delta, stochastic": rank(delta, stochastic),
            "residual against stochastic": rank(nearest, stochastic), "halves of stochastic": rank(*halves),
        },
        "ratio": {
            "residual": np.quantile(predicted / nearest, [0.25, 0.5, 0.75]).tolist(),
            "stochastic": np.quantile(predicted * energy / stochastic, [0.25, 0.5, 0.75]).tolist(),
        },
        "largest damage": float(nearest.max()),
        "predicted": predicted.tolist(), "nearest": nearest.tolist(), "stochastic": stochastic.tolist(),
    }  # fmt: skip


def cost(task: Task, method: tqs.Adjoint, rounds: int) -> dict[str, Any]:
    """Seconds, and multiples of one forward rollout, of the parts."""
    system, states, horizon = task.system, task.states, task.horizon
    start = tqs.Contexts(states.state, inputs=states.inputs, allow_nan=True)

    def rollouts() -> None:
        reference = roll_reference(system, states, horizon, keep_states=True)
        squared_norms(task, reference, method.probes, lambda done, total: None)

    ways: dict[str, Callable[[], Any]] = {
        "forward": lambda: roll_outputs(system, states, horizon),
        "rollouts": rollouts,
        "all": lambda: tqs.score(system, horizon=horizon, method=method, initial=start),
    }
    seconds = harness.paired(ways, rounds, time.process_time)
    return {
        "seconds": {way: statistics.median(samples) for way, samples in seconds.items()},
        "rollouts / forward": harness.ratio(seconds, "rollouts", "forward"),
        "all / forward": harness.ratio(seconds, "all", "forward"),
    }


def run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    system = load(name)
    count, horizon = SETTINGS[name]
    states = draw(default_initial(system, count), system, horizon=horizon, seed=seed)
    start = tqs.Contexts(states.state, inputs=states.inputs, allow_nan=True)
    method = tqs.Adjoint(probes=options.probes)
    table = tqs.score(system, horizon=horizon, method=method, initial=start, seed=seed)
    task = prepare(
        system, horizon=horizon, initial=start, engine="auto", layers=None, row_blocks=1, seed=seed, memory_limit=None
    )
    reference = roll_reference(system, states, horizon, keep_states=True)
    norms = squared_norms(task, reference, method.probes, lambda done, total: None).of_block
    began = time.perf_counter()
    rows = [accuracy(task, table, norms, bits, options.roundings) for bits in options.bits]
    spent = time.perf_counter() - began
    result = {
        "system": name, "seed": seed, "layers": len(table.layers), "initial_conditions": count, "horizon": horizon,
        "names": [layer.name for layer in table.layers], "accuracy": rows, "judge_seconds": spent,
        "cost": cost(task, method, options.rounds), "counted": table.provenance["cost"],
        "how": table.provenance["engine"]["reason"],
    }  # fmt: skip
    show(result)
    return result


def show(result: dict[str, Any]) -> None:
    spent = result["cost"]
    rollouts = spent["rollouts / forward"]
    print(
        f"{result['system']}, seed {result['seed']}, {result['layers']} layers ({result['how']}): "
        f"{rollouts['median']:.1f} forward rollouts ({rollouts['low']:.1f} to {rollouts['high']:.1f}), "
        f"{spent['all / forward']['median']:.1f} with rounding, {spent['seconds']['all']:.2f} s; "
        f"judged in {result['judge_seconds']:.0f} s"
    )
    for row in result["accuracy"]:
        ranks = ", ".join(f"{against} {value:.2f}" for against, value in row["rank"].items())
        ratios = ", ".join(
            f"{against} {median:.2f} ({low:.2f} to {high:.2f})" for against, (low, median, high) in row["ratio"].items()
        )
        print(f"  {row['bits']} bits: rank correlation with {ranks}\n          predicted / measured: {ratios}")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--probes", type=int, default=4)
    parser.add_argument("--roundings", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="of timing")
    parser.add_argument("--out", default="adjoint", help="name of the result file, or a path that ends in .json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = [run(name, seed, options) for name in options.systems for seed in range(options.seeds)]
    medians = {
        f"{bits} bits, {against}": statistics.median(
            row["rank"][against] for result in results for row in result["accuracy"] if row["bits"] == bits
        )
        for bits in options.bits
        for against in results[0]["accuracy"][0]["rank"]
    }
    for what, value in medians.items():
        print(f"median rank correlation, {what}: {value:.2f}")
    print("written to", harness.write(options.out, {"medians": medians, "results": results}))


if __name__ == "__main__":
    main()
