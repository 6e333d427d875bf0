"""What a run of `recover` has come to, and its file: an interrupted run goes on where it was, bit for bit."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from tqs_fast.errors import CheckpointError
from tqs_fast.recovery.recovered import Progress

VERSION = 2


class Training:
    """What is trained, the optimiser and the looks of a run.

    Args:
        start: float weights to train, one tensor each, and what is trained besides; copied.
        rates: learning rate of each.
        weights: how many of `start` are weights.
        seed: of the generator.

    Attributes:
        latent, besides: the weights as trained so far, and the rest.
        kept: all of them, as they were at the best look.
        history, best, step: as in `Recovery`; steps taken.
    """

    def __init__(self, start: Sequence[torch.Tensor], rates: Sequence[float], weights: int, seed: int) -> None:
        self._trained = [values.clone() for values in start]
        self.latent, self.besides = self._trained[:weights], self._trained[weights:]
        self.optimizer = torch.optim.Adam(
            [{"params": [w], "lr": rate} for w, rate in zip(self._trained, rates, strict=True)]
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[Progress] = []
        self.kept: list[torch.Tensor] = []
        self.best = 0
        self.step = 0

    def take(self, gradients: Sequence[torch.Tensor]) -> None:
        """One update.

        A rollout that diverges moves nothing: gradients are left out where one is not finite, or so large that its
        square is not, which Adam would never forget.
        """
        if all(bool(gradient.square().isfinite().all()) for gradient in gradients):
            for tensor, gradient in zip(self._trained, gradients, strict=True):
                tensor.grad = gradient
            self.optimizer.step()
        self.step += 1

    def pull(self, rounded: Sequence[torch.Tensor], share: float) -> None:
        """Move the weights towards `rounded`, by a share of the way."""
        with torch.no_grad():
            for weight, value in zip(self.latent, rounded, strict=True):
                weight -= share * (weight - value)

    def note(self, look: Progress) -> None:
        """Add a look, and keep the weights if it is the best."""
        self.history.append(look)
        if not self.kept or look.deployed < self.history[self.best].deployed:
            self.best, self.kept = len(self.history) - 1, [w.detach().clone() for w in self._trained]

    def save(self, path: Path, fingerprint: str) -> None:
        """Write everything, atomically."""
        document = {
            "version": VERSION,
            "fingerprint": fingerprint,
            "trained": self._trained,
            "kept": self.kept,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "history": [astuple(look) for look in self.history],
            "best": self.best,
            "step": self.step,
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(document, temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise CheckpointError(f"[recover] cannot write {path}: {error}; choose a writable path") from error
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self, path: Path, fingerprint: str) -> None:
        """Take over what `save` wrote.

        Raises:
            CheckpointError: damaged, or of a run with other arguments.
        """
        damaged = f"[recover] {path} is damaged (%s); delete it to start anew"
        try:
            with zipfile.ZipFile(path) as file:  # torch.save writes a CRC-32 of every tensor, torch.load reads none
                if (name := file.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{name} does not have the checksum that it was written with")
            document: dict[str, Any] = torch.load(path, weights_only=True)
            known = (document["version"], document["fingerprint"])
        except Exception as error:  # torch.load raises whatever its format's layers raise
            raise CheckpointError(damaged % error) from error
        if known != (VERSION, fingerprint):
            raise CheckpointError(
                f"[recover] {path} belongs to a run with another system, plan or arguments; delete it or choose "
                "another path"
            )
        try:
            with torch.no_grad():
                for tensor, values in zip(self._trained, document["trained"], strict=True):
                    tensor.copy_(values)
            self.kept = list(document["kept"])
            self.optimizer.load_state_dict(document["optimizer"])
            self.generator.set_state(document["generator"])
            self.history = [Progress(*look) for look in document["history"]]
            self.best, self.step = document["best"], document["step"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(damaged % error) from error
