"""Every packed format. A row here adds it to all checks of packing, dequantization and products."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple


class Format(NamedTuple):
    bits: int
    group_size: int  # 0: per channel
    symmetric: bool

    def __str__(self) -> str:
        group = f"group{self.group_size}" if self.group_size else "channel"
        return f"int{self.bits}-{group}-{'symmetric' if self.symmetric else 'asymmetric'}"


FORMATS = tuple(Format(*row) for row in product((2, 3, 4, 8), (0, 32, 64, 128), (True, False)))

# [M, N, K]: one of everything, just below, at and above the blocks of each instruction set (6 and 8 rows, 16 and 32
# columns, 8 and 16 codes), short last groups, and more than one group of the largest size.
SHAPES = (
    (1, 1, 1),
    (1, 2, 3),
    (2, 1, 8),
    (5, 15, 31),
    (6, 16, 32),
    (7, 17, 33),
    (8, 32, 64),
    (9, 33, 65),
    (13, 31, 130),
    (17, 64, 16),
    (3, 50, 300),
)
