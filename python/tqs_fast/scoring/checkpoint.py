"""Checkpoints of a scoring run: one file per finished chunk, written atomically, bound to the run by a fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tqs_fast._files import read_json, write_json
from tqs_fast.engines.tf32 import tf32_asked
from tqs_fast.errors import CheckpointError, TqsError
from tqs_fast.systems import States
from tqs_fast.systems.tree import tree_leaves

FORMAT = "tqs-fast/checkpoint"
VERSION = 1


def fingerprint(
    description: Mapping[str, Any], module: torch.nn.Module, states: States, rollout: torch.Tensor
) -> dict[str, str]:
    """SHA-256 of each part of a run, so that a refusal can name the part that differs.

    The outputs of the float `rollout` stand for what has no text of its own: the code of the step, the libraries, and
    the number of threads where that changes rounding. tf32 is a part of its own: one lane may be too small for it.
    """
    parts = {key: _digest(json.dumps(value, sort_keys=True).encode()) for key, value in description.items()}
    if tf32_asked():
        parts["tf32"] = _digest(b"asked")
    weights = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            weights.update(name.encode() + _bytes(tensor))
    starts = hashlib.sha256()
    for leaf in tree_leaves((states.state, () if states.inputs is None else states.inputs)):
        starts.update(_bytes(leaf))
    return parts | {
        "weights": weights.hexdigest(),
        "initial conditions": starts.hexdigest(),
        "float rollout": _digest(_bytes(rollout)),
    }


class Checkpoint:
    """A folder of finished chunks.

    Args:
        path: the folder; made if it does not exist.
        parts: the fingerprint of the run.

    Raises:
        CheckpointError: the folder belongs to another run (names what differs), is not a checkpoint, or cannot be
            written.
    """

    def __init__(self, path: str | os.PathLike[str], parts: dict[str, str]) -> None:
        self._folder = Path(path)
        manifest = self._folder / "manifest.json"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = not any(self._folder.iterdir())
        except OSError as error:
            raise CheckpointError(
                f"[checkpoint] cannot use {self._folder} as a folder ({error.strerror}); choose another path"
            ) from error
        try:
            if fresh:
                document = {"format": FORMAT, "version": VERSION, "fingerprint": parts}
                write_json(manifest, document, function="checkpoint")
                return
            known = read_json(manifest, format=FORMAT, version=VERSION, function="checkpoint").object("fingerprint")
        except TqsError as error:
            raise CheckpointError(f"{error}; this folder is no checkpoint of ours") from error
        differing = sorted(key for key in known.keys() | parts.keys() if known.get(key) != parts.get(key))
        if differing:
            raise CheckpointError(
                f"[checkpoint] {self._folder} belongs to another run: {', '.join(differing)} differ; "
                "give the same arguments to resume it, or choose another path"
            )

    def load(self, number: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray[Any, Any]] | None:
        """The arrays of chunk `number`, or None when it is not there or damaged (it is then computed again).

        Every array in an .npz file carries a CRC-32, which reading it verifies.
        """
        try:
            with self._path(number).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {key: file[key] for key in shapes}
        except Exception:  # a flipped byte raises whatever the layers of the format raise
            return None
        return arrays if all(arrays[key].shape == shape for key, shape in shapes.items()) else None

    def save(self, number: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Write chunk `number` whole or not at all."""
        partial = self._path(number).with_suffix(f".{os.getpid()}.tmp")
        try:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path(number))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                f"[checkpoint] cannot write chunk {number} to {self._folder} ({error.strerror}); earlier chunks "
                f"are kept: "
                "free some space and run again"
            ) from error

    def _path(self, number: int) -> Path:
        return self._folder / f"chunk-{number:05d}.npz"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    return str((tensor.dtype, tuple(tensor.shape))).encode() + flat.view(torch.uint8).numpy().tobytes()
