"""Weights of modules in the form their kernel reads, made at the first product and kept while the weight lives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from tqs_fast._native import core


class _Entry(NamedTuple):
    tensors: tuple[tuple[int, int], ...]  # address and version of codes, scales and zeros
    prepared: core.Prepared


# By the codes, which a module holds on to; scales and zeros are looked at each time. The prepacked form is as large as
# the packed weight (3 bits: as one of 4), lives beside it and is never saved.
_entries: WeakIdKeyDictionary = WeakIdKeyDictionary()


def prepared(codes: Tensor, scales: Tensor, zeros: Tensor | None, view: core.PackedView) -> core.Prepared | None:
    """The weight of these tensors, prepacked for the instruction set in use; made again when one of them has changed.

    None for a view of other tensors, which is gone after the call, and for tensors that do not count their changes.
    """
    parts = (codes, scales) if zeros is None else (codes, scales, zeros)
    if any(part.is_inference() or part._base is not None for part in parts):
        return None
    tensors = tuple((part.data_ptr(), part._version) for part in parts)
    entry: _Entry | None = _entries.get(codes)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    if entry is None or entry.tensors != tensors or entry.prepared.isa != core.isa():
        entry = _entries[codes] = _Entry(tensors, core.prepack(view))
    return entry.prepared
