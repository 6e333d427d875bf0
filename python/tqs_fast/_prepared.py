"""Weights of modules in the form their kernel reads, made at the first product and kept while the weight lives."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from tqs_fast._native import core

Format = tuple[int, int, int]
"""bits, group_size, in_features."""


class _Entry(NamedTuple):
    codes: weakref.ref[Tensor]  # takes the entry away when it dies
    state: tuple[object, ...]  # what it was made from
    isa: str  # or "cuda"
    prepared: core.Prepared | Tensor


# By the identity of the codes, which a module holds on to; scales and zeros are looked at each time. (torch's
# WeakIdKeyDictionary makes a key object for every look-up, a tenth of a small product.) The prepacked form is as large
# as the packed weight, lives beside it and is never saved.
_entries: dict[int, _Entry] = {}


def find(codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format) -> core.Prepared | None:
    """What `keep` made of these tensors, unless one of them has changed or another instruction set was chosen."""
    return _find(codes, scales, zeros, form, core.isa())  # type: ignore[return-value]


def keep(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format, view: Callable[[], core.PackedView]
) -> core.Prepared | None:
    """Prepack and keep the weight of these tensors, which have been checked.

    None for views of other tensors, which are gone after the call, for strided ones, and for tensors that do not count
    their changes.
    """
    if not _can_be_kept(codes, scales, zeros):
        return None
    prepared = core.prepack(view())
    _keep(codes, scales, zeros, form, prepared.isa, prepared)
    return prepared


def find_cuda(codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format) -> Tensor | None:
    """As `find`, for tensors on a GPU."""
    return _find(codes, scales, zeros, form, "cuda")  # type: ignore[return-value]


def keep_cuda(codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format, panels: Tensor) -> None:
    """Keep what `prepack_cuda` made of these tensors, where `keep` would."""
    if _can_be_kept(codes, scales, zeros):
        _keep(codes, scales, zeros, form, "cuda", panels)


def _find(codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format, isa: str) -> core.Prepared | Tensor | None:
    entry = _entries.get(id(codes))
    if (
        entry is None
        or entry.codes() is not codes
        or entry.state != _state(codes, scales, zeros, form)
        or entry.isa != isa
    ):
        return None
    return entry.prepared


def _can_be_kept(codes: Tensor, scales: Tensor, zeros: Tensor | None) -> bool:
    parts = (codes, scales) if zeros is None else (codes, scales, zeros)
    return not any(part.is_inference() or part._base is not None or not part.is_contiguous() for part in parts)


def _keep(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format, isa: str, prepared: core.Prepared | Tensor
) -> None:
    key = id(codes)
    reference = weakref.ref(codes, lambda _: _entries.pop(key, None))
    _entries[key] = _Entry(reference, _state(codes, scales, zeros, form), isa, prepared)


def _state(codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format) -> tuple[object, ...]:
    kept = (form, codes.data_ptr(), codes._version, scales.data_ptr(), scales._version)
    return kept if zeros is None else (*kept, zeros.data_ptr(), zeros._version)
