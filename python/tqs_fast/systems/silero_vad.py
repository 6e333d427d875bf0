"""`silero-vad`: a trained streaming voice activity detector with an LSTM state, 16 kHz, 512 samples per step.

The network of `silero_vad.jit` in the silero-vad package, rebuilt from plain torch modules and its state dict. (The
`.safetensors` beside it is another checkpoint.) The package is only looked up, never imported.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import torch

from tqs_fast.errors import ArgumentError
from tqs_fast.systems.speech import speech_like
from tqs_fast.systems.system import Recurrent
from tqs_fast.systems.tree import Tree

CHUNK = 512  # samples per step, 32 ms
CONTEXT = 64  # samples of the previous chunk that are seen again
HOP = 128
BINS = 129
CHANNELS = (BINS, 128, 64, 64, 128)
STRIDES = (1, 2, 2, 1)
HIDDEN = 128


class SileroVAD(torch.nn.Module):
    """Magnitude spectrum by a fixed convolution, four convolutions, an LSTM cell, one speech probability."""

    basis: torch.Tensor  # [2 * BINS, 1, 256] cosine and sine rows; a constant, not a weight

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", torch.zeros(2 * BINS, 1, 2 * HOP))
        self.encoder = torch.nn.ModuleList(
            torch.nn.Conv1d(CHANNELS[i], CHANNELS[i + 1], 3, stride=STRIDES[i], padding=1) for i in range(4)
        )
        self.rnn = torch.nn.LSTMCell(HIDDEN, HIDDEN)
        self.out = torch.nn.Conv1d(HIDDEN, 1, 1)

    def forward(
        self, samples: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`samples` [N, 64 + 512], hidden and cell [N, 128] -> probability [N, 1], hidden, cell."""
        padded = torch.nn.functional.pad(samples, (0, CONTEXT), mode="reflect").unsqueeze(1)
        spectrum = torch.nn.functional.conv1d(padded, self.basis, stride=HOP)
        x = torch.sqrt(spectrum[:, :BINS].pow(2) + spectrum[:, BINS:].pow(2))
        for convolution in self.encoder:
            x = torch.relu(convolution(x))
        hidden, cell = self.rnn(x.squeeze(-1), (hidden, cell))
        probability = torch.sigmoid(self.out(torch.relu(hidden.unsqueeze(-1))))
        return probability.squeeze(1).mean(dim=1, keepdim=True), hidden, cell


def silero_vad() -> Recurrent:
    """The detector as a driven system: inputs `[N, steps, 512]` audio in [-1, 1], output `[N, 1]` probability.

    Random states are silent; `inputs` are artificial speech in noise (see `speech_like`).

    Raises:
        ArgumentError: the silero-vad package is not installed.
    """
    module = SileroVAD()
    original = _original_state_dict()
    module.load_state_dict(
        {
            "basis": original["stft.forward_basis_buffer"],
            **{
                f"encoder.{i}.{name}": original[f"encoder.{i}.reparam_conv.{name}"]
                for i in range(4)
                for name in ("weight", "bias")
            },
            **{
                f"rnn.{name}": original[f"decoder.rnn.{name}"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            },
            **{f"out.{name}": original[f"decoder.decoder.2.{name}"] for name in ("weight", "bias")},
        }
    )
    return Recurrent(module, step=_step, initial_state=_silence, inputs=_inputs, name="silero-vad")


def original_path() -> Path:
    """Where the installed silero-vad package keeps its TorchScript file.

    Raises:
        ArgumentError: it is not installed.
    """
    spec = find_spec("silero_vad")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    paths = [Path(folder, "data", "silero_vad.jit") for folder in folders]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise ArgumentError('[load_system] silero-vad needs the silero-vad package: pip install "tqs-fast[models]"')
    return found[0]


def _original_state_dict() -> dict[str, torch.Tensor]:
    """Of the 16 kHz network, without its prefix."""
    with warnings.catch_warnings():
        # deprecated in favour of torch.export, which cannot read this file
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load.* is deprecated")
        script = torch.jit.load(str(original_path()), map_location="cpu")  # type: ignore[no-untyped-call]
    prefix = "_model."
    return {name.removeprefix(prefix): value for name, value in script.state_dict().items() if name.startswith(prefix)}


def _step(module: torch.nn.Module, state: Tree, chunk: torch.Tensor) -> tuple[Tree, torch.Tensor]:
    samples = torch.cat([state["context"], chunk], dim=1)
    probability, hidden, cell = module(samples, state["hidden"], state["cell"])
    return {"context": chunk[:, -CONTEXT:], "hidden": hidden, "cell": cell}, probability


def _silence(count: int, generator: torch.Generator) -> Tree:
    return {
        "context": torch.zeros(count, CONTEXT),
        "hidden": torch.zeros(count, HIDDEN),
        "cell": torch.zeros(count, HIDDEN),
    }


def _inputs(count: int, steps: int, generator: torch.Generator) -> torch.Tensor:
    return speech_like(count, steps * CHUNK, generator).reshape(count, steps, CHUNK)
