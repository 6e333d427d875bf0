"""Methods that roll out lanes: which variants of a weight, and what their damages say about every bit-width."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast import _cuda_weights, kernels
from tqs_fast.engines import Change, Drawn, materialise
from tqs_fast.errors import ArgumentError
from tqs_fast.quantization import BITS, Quantizer

FloatArray = npt.NDArray[np.float64]


class Method(Protocol):
    """What `score` needs of a method: `variants` lanes per weight, and their damages as a column per bit-width."""

    @property
    def bits(self) -> tuple[int, ...]:
        """The menu, B bit-widths."""

    @property
    def quantizer(self) -> Quantizer:
        """How weights are rounded."""

    @property
    def meaning(self) -> str:
        """One sentence: what the numbers in the table's damage columns are."""

    @property
    def variants(self) -> int:
        """Lanes per weight, V."""

    @property
    def infinitesimal(self) -> bool:
        """Whether lanes are tangents (exact derivatives) rather than errors of finite size."""

    def variant(self, name: str, weight: torch.Tensor, number: int, seed: int) -> Change:
        """The weight as lane `number` uses it, same shape and dtype; of an infinitesimal method, its direction."""

    def energy(self, weight: torch.Tensor, change: Change) -> float:
        """Squared norm of the change over that of the weight."""

    def growth_curves(self, lanes: FloatArray) -> FloatArray:
        """The error curve `[L, T]` that growth rates are read off, from those of the lanes `[L, V, T]`."""

    def relative_error(self, weight: torch.Tensor, energies: FloatArray) -> FloatArray:
        """‖Q_b(θ) - θ‖² / ‖θ‖² for every bit-width, `[B]`; `energies [V]` are those of the lanes."""

    def damages(self, lanes: FloatArray, energies: FloatArray, relative_error: FloatArray) -> FloatArray:
        """Damages at every bit-width `[B, ...]` from those of the lanes `[V, ...]`."""

    def gains(self, lanes: FloatArray, energies: FloatArray) -> FloatArray:
        """Damage per unit of relative weight-error energy, of each lane that estimates it: `[P, ...]`."""


def check_bits(name: str, bits: tuple[int, ...]) -> None:
    """Raise ArgumentError, in the name of method `name`, for a menu that is none."""
    if not bits or list(bits) != sorted(set(bits)) or not set(bits) <= set(BITS):
        raise ArgumentError(f"[{name}] bits must be increasing and among {BITS}, got {bits}")


@dataclass(frozen=True)
class Residual:
    """Every layer really quantized, one layer and bit-width at a time: damage measured at its true size.

    The gain is taken at the largest bit-width, where the error is smallest and saturation furthest.

    Attributes:
        bits: the menu, increasing, among 2, 3, 4, 8.
        quantizer: how weights are rounded.

    Source: residual perturbation of arXiv:2606.13300.
    """

    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("Residual", self.bits)

    @property
    def meaning(self) -> str:
        return "damage of the rollout with this layer rounded and everything else float, measured at its true size"

    @property
    def variants(self) -> int:
        return len(self.bits)

    @property
    def infinitesimal(self) -> bool:
        return False

    def variant(self, name: str, weight: torch.Tensor, number: int, seed: int) -> torch.Tensor:
        return self.quantizer.dequantized(weight, self.bits[number]).to(weight)

    def energy(self, weight: torch.Tensor, change: Change) -> float:
        return relative_energy(weight, materialise(change, weight))

    def growth_curves(self, lanes: FloatArray) -> FloatArray:
        return lanes[:, -1]

    def relative_error(self, weight: torch.Tensor, energies: FloatArray) -> FloatArray:
        return energies

    def damages(self, lanes: FloatArray, energies: FloatArray, relative_error: FloatArray) -> FloatArray:
        return lanes

    def gains(self, lanes: FloatArray, energies: FloatArray) -> FloatArray:
        return lanes[-1:] / np.where(energies[-1] > 0, energies[-1], np.nan)


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of one size in every layer, θ + ε‖θ‖ ξ/‖ξ‖: independent of quantizer and bit-width.

    The damage at b bits is predicted to first order: gain · ‖Q_b(θ) - θ‖²/‖θ‖².

    Attributes:
        probes: draws of ξ per layer.
        epsilon: ε, relative size of the noise.
        bits: the menu that damages are predicted for.
        quantizer: whose rounding error they are predicted for.

    Source: norm-matched Gaussian perturbation of arXiv:2606.13300; ξ is the counter-based stream of
    `tqs_fast.kernels.normal`, keyed by seed, layer name and probe.
    """

    probes: int = 8
    epsilon: float = 0.02
    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("Noise", self.bits)
        if self.probes < 1:
            raise ArgumentError(f"[Noise] probes must be at least 1, got {self.probes}")
        if not 0 < self.epsilon < 1:
            raise ArgumentError(f"[Noise] epsilon must lie between 0 and 1, got {self.epsilon}")

    @property
    def meaning(self) -> str:
        return (
            "first-order damage: energy of the rounding error times the damage that small "
            "Gaussian noise in this layer does per unit of energy"
        )

    @property
    def variants(self) -> int:
        return self.probes

    @property
    def infinitesimal(self) -> bool:
        return False

    def variant(self, name: str, weight: torch.Tensor, number: int, seed: int) -> Drawn:
        key = stream(name, number)
        scale = float(self.epsilon * weight.double().norm() / normal(weight, seed, key).norm())
        return Drawn(seed, key, scale, 0, weight.numel())

    def energy(self, weight: torch.Tensor, change: Change) -> float:
        return relative_energy(weight, materialise(change, weight))

    def growth_curves(self, lanes: FloatArray) -> FloatArray:
        return np.asarray(lanes.mean(axis=1))

    def relative_error(self, weight: torch.Tensor, energies: FloatArray) -> FloatArray:
        return rounding_energies(weight, self.quantizer, self.bits)

    def damages(self, lanes: FloatArray, energies: FloatArray, relative_error: FloatArray) -> FloatArray:
        return np.asarray(np.multiply.outer(relative_error, self.gains(lanes, energies).mean(axis=0)))

    def gains(self, lanes: FloatArray, energies: FloatArray) -> FloatArray:
        return lanes / energies.reshape(-1, *[1] * (lanes.ndim - 1))


@dataclass(frozen=True)
class Tangent:
    """The limit of `Noise` as its size goes to zero: exact derivatives of the rollout along ‖θ‖ ξ/‖ξ‖.

    Nothing saturates and nothing is rounded away, so that gains and growth rates are those of infinitesimal errors.
    The damage at b bits is predicted to first order: gain · ‖Q_b(θ) - θ‖²/‖θ‖².

    Attributes:
        probes: directions ξ per layer, the same as those of `Noise` with this seed.
        bits: the menu that damages are predicted for.
        quantizer: whose rounding error they are predicted for.

    Source: e_t = (∂y_t/∂θ) δ, the first-order term of the perturbation of arXiv:2606.13300.
    """

    probes: int = 8
    bits: tuple[int, ...] = BITS
    quantizer: Quantizer = field(default_factory=Quantizer)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", tuple(self.bits))
        check_bits("Tangent", self.bits)
        if self.probes < 1:
            raise ArgumentError(f"[Tangent] probes must be at least 1, got {self.probes}")

    @property
    def meaning(self) -> str:
        return (
            "first-order damage: energy of the rounding error times the damage of infinitesimal "
            "Gaussian noise in this layer per unit of energy"
        )

    @property
    def variants(self) -> int:
        return self.probes

    @property
    def infinitesimal(self) -> bool:
        return True

    def variant(self, name: str, weight: torch.Tensor, number: int, seed: int) -> torch.Tensor:
        noise = normal(weight, seed, stream(name, number))
        direction: torch.Tensor = weight.double().norm() / noise.norm() * noise
        return direction.to(weight)

    def energy(self, weight: torch.Tensor, change: Change) -> float:
        assert isinstance(change, torch.Tensor)
        norm = float(weight.double().square().sum())
        return float(change.double().square().sum()) / norm if norm else 0.0

    def growth_curves(self, lanes: FloatArray) -> FloatArray:
        return np.asarray(lanes.mean(axis=1))

    def relative_error(self, weight: torch.Tensor, energies: FloatArray) -> FloatArray:
        return rounding_energies(weight, self.quantizer, self.bits)

    def damages(self, lanes: FloatArray, energies: FloatArray, relative_error: FloatArray) -> FloatArray:
        return np.asarray(np.multiply.outer(relative_error, self.gains(lanes, energies).mean(axis=0)))

    def gains(self, lanes: FloatArray, energies: FloatArray) -> FloatArray:
        return lanes / energies.reshape(-1, *[1] * (lanes.ndim - 1))


def stream(name: str, number: int) -> int:
    """The random stream of probe `number` of the layer (or of whatever else is drawn) called `name`."""
    return (zlib.crc32(name.encode()) << 32) | number


def normal(weight: torch.Tensor, seed: int, key: int) -> torch.Tensor:
    """The first elements of stream `key`, in the shape of `weight` and where it lies, as float64."""
    if _cuda_weights.on_device(weight):
        return _cuda_weights.normal(weight, seed=seed, stream=key).double()
    return torch.from_numpy(kernels.normal(weight.numel(), seed=seed, stream=key)).double().reshape(weight.shape)


def rounding_energies(weight: torch.Tensor, quantizer: Quantizer, bits: tuple[int, ...]) -> FloatArray:
    """‖Q_b(θ) - θ‖² / ‖θ‖² at every bit-width, `[B]`."""
    return np.array([relative_energy(weight, quantizer.dequantized(weight, b)) for b in bits])


def relative_energy(weight: torch.Tensor, changed: torch.Tensor) -> float:
    """‖changed - weight‖² / ‖weight‖² in float64; 0 for a zero weight that did not change."""
    sums = [(_energy(b.double() - a.double()), _energy(a.double())) for a, b in _pieces(weight, changed)]
    difference, before = (float(sum(column)) for column in zip(*sums, strict=True))
    return difference / before if difference else 0.0


def _pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Elements of tensors of one shape, some at a time: float64 copies of all would take eight times a weight."""
    return zip(*(torch.split(tensor.detach().flatten(), 2**24) for tensor in tensors), strict=True)


def _energy(values: torch.Tensor) -> torch.Tensor | float:
    """‖values‖², on the device where they lie on one; the same bits from run to run."""
    if _cuda_weights.on_device(values):
        return values.square().sum()
    return float(np.square(values.cpu().numpy()).sum())  # NumPy sums in one order for any number of threads


class Described(Protocol):
    """A frozen dataclass of JSON values with a menu and a quantizer."""

    @property
    def bits(self) -> tuple[int, ...]:
        """The menu."""

    @property
    def quantizer(self) -> Quantizer:
        """How weights are rounded."""


def describe(method: Described) -> dict[str, Any]:
    """The method as JSON, for provenance and fingerprints."""
    values = {key: value for key, value in vars(method).items() if key != "quantizer"}
    return {"name": type(method).__name__, **values, "bits": list(method.bits), "quantizer": vars(method.quantizer)}
