"""Arrays of row-major positions, the attribute of "remap" operations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class Positions:
    """int64 positions of elements, -1 where there is none; equal by content."""

    def __init__(self, array: npt.NDArray[np.int64]) -> None:
        self.array = np.ascontiguousarray(array)
        self._key = (self.array.shape, self.array.tobytes())

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Positions) and self._key == other._key

    @staticmethod
    def within(array: npt.NDArray[np.int64], sizes: Sequence[int], box: Sequence[tuple[int, int]]) -> Positions:
        """The same elements, counted in a box of the tensor."""
        indices = np.unravel_index(array.clip(min=0), tuple(sizes))
        moved = [index - start for index, (start, _) in zip(indices, box, strict=True)]
        inside = [np.where(array < 0, 0, index) for index in moved]
        flat = np.ravel_multi_index(inside, [stop - start for start, stop in box])
        return Positions(np.where(array < 0, -1, flat))
