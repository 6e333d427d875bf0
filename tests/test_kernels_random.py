"""Counter-based random numbers: published vectors, the oracle, slices, moments."""

from __future__ import annotations

import numpy as np
import pytest

from checking import same_bits
from tqs_fast import kernels
from tqs_fast._native import core
from tqs_fast.errors import ArgumentError
from tqs_fast.reference import random as reference

# Random123 1.09, kat_vectors: philox4x32 with 10 rounds.
KNOWN = (
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_published_vectors(counter, key, words):
    assert core.philox4x32_10(counter, key) == words
    assert reference.philox4x32_10(counter, key) == words


@pytest.mark.parametrize(("seed", "stream", "offset"), [(0, 0, 0), (7, 3, 5), (2**64 - 1, 2**63, 2**40 + 2)])
def test_streams_equal_the_oracle(seed, stream, offset):
    indices = range(offset, offset + 200)
    uniform = kernels.uniform(200, seed=seed, stream=stream, offset=offset)
    same_bits(uniform, np.array([reference.uniform(seed, stream, i) for i in indices], np.float32))
    normal = kernels.normal(200, seed=seed, stream=stream, offset=offset)
    expected = np.array([reference.normal(seed, stream, i) for i in indices])
    # One rounding to float32 is half a unit; the two float64 evaluations differ far below that.
    assert (np.abs(normal - expected) <= 2.0**-24 * np.abs(expected) * 1.0001).all()


def test_a_slice_is_a_slice():
    for draw in (kernels.normal, kernels.uniform):
        whole = draw(1000, seed=1, stream=2)
        for offset, count in ((0, 0), (1, 1), (3, 5), (4, 4), (997, 3)):
            same_bits(draw(count, seed=1, stream=2, offset=offset), whole[offset : offset + count])


def test_seeds_and_streams_differ():
    draws = [kernels.uniform(64, seed=seed, stream=stream) for seed in (0, 1, 2**32) for stream in (0, 1, 2**32)]
    for i, left in enumerate(draws):
        for right in draws[:i]:
            assert (left != right).mean() > 0.9


def test_moments_and_range():
    count = 200_000
    normal = kernels.normal(count, seed=11).astype(np.float64)
    # Five standard errors of the first four moments of a standard normal sample: one failure in a million seeds.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((normal**power).mean() - moment) < 5 * np.sqrt(variance / count)
    assert abs((normal[1:] * normal[:-1]).mean()) < 5 / np.sqrt(count)
    uniform = kernels.uniform(count, seed=11)
    assert uniform.min() > 0.0
    assert uniform.max() < 1.0
    assert abs(uniform.astype(np.float64).mean() - 0.5) < 5 * np.sqrt(1 / 12 / count)


def test_wrong_arguments():
    for arguments in ({"count": -1, "seed": 0}, {"count": 1, "seed": -1}, {"count": 1, "seed": 0, "offset": 2**64}):
        count = arguments.pop("count")
        with pytest.raises(ArgumentError, match=r"\[normal\]"):
            kernels.normal(count, **arguments)
