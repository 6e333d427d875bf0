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
    isa: str
    prepared: core.Prepared


# By the identity of the codes, which a module holds on to; scales and zeros are looked at each time. (torch's
# WeakIdKeyDictionary makes a key object for every look-up, a tenth of a small product.) The prepacked form is as large
# as the packed weight, lives beside it and is never saved.
_entries: dict[int, _Entry] = {}


def find(codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format) -> core.Prepared | None:
    """What `keep` made of these tensors, unless one of them has changed or another instruction set was chosen."""
    entry = _entries.get(id(codes))
    if (
        entry is None
        or entry.codes() is not codes
        or entry.state != _state(codes, scales, zeros, form)
        or entry.isa != core.isa()
    ):
        return None
    return entry.prepared


def keep(
    codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format, view: Callable[[], core.PackedView]
) -> core.Prepared | None:
    """Prepack and keep the weight of these tensors, which have been checked.

    None for views of other tensors, which are gone after the call, for strided ones, and for tensors that do not count
    their changes.
    """
    parts = (codes, scales) if zeros is None else (codes, scales, zeros)
    if any(part.is_inference() or part._base is not None or not part.is_contiguous() for part in parts):
        return None
    key, prepared = id(codes), core.prepack(view())
    reference = weakref.ref(codes, lambda _: _entries.pop(key, None))
    _entries[key] = _Entry(reference, _state(codes, scales, zeros, form), prepared.isa, prepared)
    return prepared


def _state(codes: Tensor, scales: Tensor, zeros: Tensor | None, form: Format) -> tuple[object, ...]:
    kept = (form, codes.data_ptr(), codes._version, scales.data_ptr(), scales._version)
    return kept if zeros is None else (*kept, zeros.data_ptr(), zeros._version)
