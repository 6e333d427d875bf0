"""Packed modules on disk: one safetensors file with the whole state, the plan and the format of every packed weight.

Tensors of a packed weight W (`weight[first:end]` for a row block) are `W.codes` (U8), `W.scales` (BF16) and `W.zeros`
(U8, absent if symmetric); every other tensor has its name in the state dict. A tensor with several names is stored
under the first. Metadata:

    format     "tqs-fast/model"
    version    "1"
    plan       the plan as JSON
    packed     {weight or block name: {bits, group_size, activation, shape, dtype, names}} as JSON; activation is
               "float" or "int8", names are those of all its owners
    aliases    {further name: first name} of the shared tensors, as JSON
    checksums  {tensor: CRC-32 of its bytes, in hexadecimal} as JSON, and under "" that of the entries above; files of
               earlier releases have none and are loaded without

CRC-32 finds what disks and copies do to a file (no flipped byte passes), not what somebody does on purpose. zlib's is
faster than reading: 4.3 GB/s on a core where bytes are copied from the page cache at 1.6 (SHA-256 1.8, BLAKE2b 0.9).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tqs_fast.errors import ArgumentError, FileFormatError

FORMAT = "tqs-fast/model"
VERSION = "1"
CHECKSUMS = "checksums"


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """`metadata` as JSON; atomically: the old file stays until the new one is complete.

    Raises:
        ArgumentError: it cannot be written.
    """
    texts = {"format": FORMAT, "version": VERSION} | {name: json.dumps(entry) for name, entry in metadata.items()}
    # Cloned, because safetensors refuses tensors that share memory, as slices of one buffer do.
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    texts[CHECKSUMS] = json.dumps(_checksums(owned, texts))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(owned, temporary, texts)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise ArgumentError(f"[save] cannot write {path}: {error}; choose a writable path") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata, as they are written, and the tensors.

    Raises:
        FileFormatError: a file that is missing, truncated, damaged, foreign or of another version.
    """
    if not Path(path).is_file():
        raise FileFormatError(f"[load] {path}: there is no such file; write one with tqs_fast.save")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # Cloned, because they come as views, and views are not kept in the form that kernels read (_prepared.py).
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            f"[load] {path}: not a complete safetensors file ({error}); copy or write it again"
        ) from error
    if metadata.get("format") != FORMAT:
        raise mismatch(
            path, f"expected format {FORMAT!r}, got {metadata.get('format')!r}", "pass a file written by tqs_fast.save"
        )
    if metadata.get("version") != VERSION:
        remedy = "install the release of tqs-fast that wrote it, or write it again"
        raise mismatch(path, f"expected version {VERSION!r}, got {metadata.get('version')!r}", remedy)
    if CHECKSUMS in metadata:
        written = parse(metadata, CHECKSUMS, path)
        for name, found in _checksums(tensors, metadata).items():
            if found != written.get(name):
                what = f"the tensor {name}" if name else "the metadata"
                remedy = "the file was damaged since; copy it again, or write it again with tqs_fast.save"
                raise mismatch(path, f"{what} does not have the checksum that it was written with", remedy)
    return metadata, tensors


def _checksums(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """CRC-32 of every tensor, and of the metadata but for themselves under the one name that no tensor has."""
    text = json.dumps({key: value for key, value in metadata.items() if key != CHECKSUMS}, sort_keys=True)
    sums = {name: zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data) for name, tensor in tensors.items()}
    return {name: f"{found:08x}" for name, found in {**sums, "": zlib.crc32(text.encode())}.items()}


def parse(metadata: Mapping[str, str], key: str, path: Any) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise damaged(path, f"its metadata entry {key!r} is missing or not JSON") from error
    if not isinstance(value, dict):
        raise damaged(path, f"its metadata entry {key!r} is not a JSON object")
    return value


def damaged(path: Any, what: str) -> FileFormatError:
    return mismatch(path, what, "the file is damaged; write it again with tqs_fast.save")


def mismatch(path: Any, what: str, remedy: str = "pass the float module that was quantized") -> FileFormatError:
    return FileFormatError(f"[load] {path}: {what}; {remedy}")
