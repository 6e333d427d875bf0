"""Frames orthonormalised on the emulated GPU (csrc/cuda/device/orthonormalize.cuh): by one chunk of rows and by trees
of them, against NumPy and against the routine of the processor."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest

import emulated
from checking import same_bits
from tqs_fast._native import core

pytestmark = pytest.mark.skipif(not emulated.COMPILER, reason="needs a C++ compiler")

ROUNDING = 2.0**-53
SAMPLES = 2
# Columns of a chunk take 80 KiB: one chunk, then trees of 2 and 3 levels.
ONE_CHUNK = [(1, 1), (2, 1), (3, 3), (7, 4), (9, 3), (33, 2), (64, 64), (131, 8), (900, 9)]
TREES = [(1100, 8), (1030, 9), (9000, 5), (400, 64), (300, 70)]


def chunk_rows(directions):
    return (81920 - 256 - 8 * directions) // (8 * (directions + 2))


def roundings(size, directions):
    """Of a column, relative to its norm: each reflection of each level, a sum over every 32nd row and three more."""
    levels, rows = 1, size
    while rows > chunk_rows(directions):
        levels, rows = levels + 1, -(-rows // chunk_rows(directions)) * directions
    return 2 * levels * directions * (min(size, chunk_rows(directions)) / 32 + 20) * ROUNDING


class Frames:
    """Samples' states [N, D] and frames [N, D, K], with what a rollout adds up, in memory of the emulator."""

    def __init__(self, frames, states=None, blocks=1):
        self.library = emulated.emulator().library
        self.library.emulated_stretch.restype = ctypes.c_char_p
        self.library.emulated_stretch_scratch.restype = ctypes.c_int64
        self.count, self.size, self.directions = frames.shape
        self.blocks = blocks
        shapes = {
            "frames": ((self.count, 1 + self.directions, self.size), np.float64),
            "logs": ((blocks, self.count, self.directions), np.float64),
            "condition": ((self.count,), np.float64),
            "diverged": ((self.count,), np.int64),
            "failed": ((self.count,), np.int32),
        }
        self.arrays = {name: emulated.Guarded(self.library, *shape) for name, shape in shapes.items()}
        self["frames"][:, 0] = 0.0 if states is None else states
        for name, value in (("logs", 0), ("condition", 1), ("diverged", -1), ("failed", 0)):
            self[name][...] = value
        self.put(frames)

    def __getitem__(self, name):
        return self.arrays[name].array

    @property
    def q(self):
        return self["frames"][:, 1:].transpose(0, 2, 1).copy()

    def put(self, frames):
        self["frames"][:, 1:] = frames.transpose(0, 2, 1)

    def stretch(self, step=0, block=0):
        shape = [ctypes.c_int64(n) for n in (self.count, self.directions, self.size)]
        scratch = emulated.Guarded(self.library, (self.library.emulated_stretch_scratch(*shape),), np.uint8)
        times = (ctypes.c_int64 * 3)(step, block, self.blocks)
        places = [self.arrays["frames"], scratch]
        places += [self.arrays[name] for name in ("logs", "condition", "diverged", "failed")]
        said = self.library.emulated_stretch(*shape, times, *(ctypes.c_void_p(place.address) for place in places))
        assert said is None, said
        return self


def on_the_processor(frame):
    """(Q, logs, condition) of [D, K]."""
    size, directions = frame.shape
    rows, logs = np.ascontiguousarray(frame.T), np.empty(directions)
    condition = core.orthonormalize(frame=rows.ctypes.data, size=size, directions=directions, logs=logs.ctypes.data)
    return rows.T, logs, condition


def check(frame, q, logs, condition):
    """Columns are orthonormal and span what they should, with R on the way."""
    size, directions = frame.shape
    bound = roundings(size, directions)
    lengths = np.linalg.norm(frame, axis=0)
    np.testing.assert_allclose(q.T @ q, np.eye(directions), rtol=0, atol=math.sqrt(directions) * bound)
    r = q.T @ frame
    np.testing.assert_allclose(np.tril(r / lengths, -1), 0, atol=2 * bound)
    assert (np.linalg.norm(frame - q @ np.triu(r), axis=0) <= 3 * bound * lengths).all()
    expected = np.linalg.qr(frame)[1]
    scaled = expected / np.linalg.norm(expected, axis=0)
    inverse = np.linalg.norm(np.linalg.inv(scaled)) / math.sqrt(directions)
    sensitive = bound * directions * inverse  # of what depends on the angles between columns
    np.testing.assert_allclose(logs, np.log(np.abs(np.diag(expected))), rtol=0, atol=sensitive)
    assert condition == pytest.approx(inverse, rel=2 * sensitive)
    return sensitive


@pytest.mark.parametrize(("size", "directions"), ONE_CHUNK + TREES)
def test_frames_of_every_size(size, directions):
    """Columns of equal and of very different lengths."""
    generator = np.random.default_rng(size * 100 + directions)
    frames = generator.standard_normal((SAMPLES, size, directions))
    frames[1:] *= np.exp(4 * generator.standard_normal((SAMPLES - 1, 1, directions)))
    done = Frames(frames).stretch()
    for n, (frame, q) in enumerate(zip(frames, done.q, strict=True)):
        sensitive = check(frame, q, done["logs"][0, n], done["condition"][n])
        expected, logs, condition = on_the_processor(frame)
        signs = np.sign((q * expected).sum(axis=0))
        if (size, directions) in ONE_CHUNK:
            assert (signs == 1).all()
        np.testing.assert_allclose(q * signs, expected, rtol=0, atol=2 * sensitive)
        np.testing.assert_allclose(done["logs"][0, n], logs, rtol=0, atol=2 * sensitive)
        assert done["condition"][n] == pytest.approx(condition, rel=4 * sensitive)
    assert (done["diverged"] == -1).all()
    assert not done["failed"].any()


@pytest.mark.parametrize(("size", "directions"), [(50, 6), (4000, 6)])
def test_columns_that_have_turned_towards_each_other(size, directions):
    """To an angle of 10^-7: the square of the condition is beyond float64."""
    generator = np.random.default_rng(0)
    frame = generator.standard_normal((1, size, 1)) + 1e-7 * generator.standard_normal((1, size, directions))
    done = Frames(frame).stretch()
    check(frame[0], done.q[0], done["logs"][0, 0], done["condition"][0])
    assert done["condition"][0] > 1e6


@pytest.mark.parametrize("size", [6, 5000])
def test_dependent_and_extreme_columns(size):
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, 3)))[0]
    bound = 2 * roundings(size, 3)
    for column in (np.zeros(size), basis[:, 0]):
        frame = np.stack([basis[:, 0], column, basis[:, 2]], axis=1)
        done = Frames(frame[None]).stretch()
        assert done["logs"][0, 0, 1] < math.log(bound)
        assert done["condition"][0] > 1 / bound
        np.testing.assert_allclose(done.q[0].T @ done.q[0], np.eye(3), atol=bound)
        assert (done["condition"][0] == math.inf) == (on_the_processor(frame)[2] == math.inf)
    done = Frames(np.zeros((1, size, 2))).stretch()
    assert done["condition"][0] == math.inf
    assert (done["logs"] == -math.inf).all()
    assert (done.q[0] == on_the_processor(np.zeros((size, 2)))[0]).all()
    assert done["failed"][0] == 0
    for length in (1e-300, 1e-160, 1e160, 1e300):
        done = Frames(basis[None] * length).stretch()
        np.testing.assert_allclose(done["logs"][0, 0], math.log(length), rtol=0, atol=bound + 1e-13)
        assert done["condition"][0] == pytest.approx(1, rel=10 * bound)
        np.testing.assert_allclose(np.abs(done.q[0]), np.abs(basis), atol=bound)


@pytest.mark.parametrize(("size", "directions"), [(40, 5), (3000, 5)])
def test_samples_that_are_not_finite_are_set_aside(size, directions):
    """The first by its state, the second by its frame, the third not at all, the fourth by both."""
    generator = np.random.default_rng(1)
    frames, states = generator.standard_normal((4, size, directions)), generator.standard_normal((4, size))
    alone = Frames(frames[2:3], states[2:3], blocks=3)
    frames[1, -1, directions - 1], states[0, -1] = np.nan, -np.inf
    frames[3, 0, 0], states[3, size // 2] = np.inf, np.nan
    done = Frames(frames, states, blocks=3)
    again = generator.standard_normal(frames.shape)
    for step, block in ((4, 1), (9, 2)):
        done.stretch(step, block)
        alone.stretch(step, block)
        same_bits(done.q[2], alone.q[0])
        left = done.q[3].copy()
        done["frames"][:, 0] = 1.0
        done.put(again)
        alone.put(again[2:3])
    assert done["failed"].tolist() == [1, 1, 0, 1]
    assert done["diverged"].tolist() == [4, -1, -1, 4]
    assert done["condition"][1] == math.inf
    same_bits(done["condition"][2:3], alone["condition"])
    same_bits(done["logs"][:, 2:3], alone["logs"])
    for failed in (0, 1, 3):
        assert (done["logs"][0, failed] == 0).all()
        assert np.isnan(done["logs"][1:, failed]).all()
    same_bits(left, again[3].copy())  # not touched once it was set aside


def test_logs_are_added_up_and_the_largest_condition_is_kept():
    generator = np.random.default_rng(2)
    frames = generator.standard_normal((3, SAMPLES, 20, 4))
    frames[1, :, :, 1] = frames[1, :, :, 0] + 1e-3 * frames[1, :, :, 1]
    done = Frames(frames[0], blocks=2)
    for frame, block in zip(frames, (0, 0, 1), strict=True):
        done.put(frame)
        done.stretch(0, block)
    each = [Frames(frame).stretch() for frame in frames]
    same_bits(done["logs"][0], each[0]["logs"][0] + each[1]["logs"][0])
    same_bits(done["logs"][1], each[2]["logs"][0])
    same_bits(done["condition"], each[1]["condition"])


@pytest.mark.parametrize(("size", "directions"), [(100, 7), (2500, 7)])
def test_the_same_bits_alone_and_in_any_order_of_threads(size, directions):
    frames = np.random.default_rng(3).standard_normal((SAMPLES, size, directions))
    whole = Frames(frames).stretch()
    library = emulated.emulator().library
    for n in range(SAMPLES):
        library.emulated_reverse(1)
        alone = Frames(frames[n : n + 1]).stretch()
        library.emulated_reverse(0)
        same_bits(alone.q[0], whole.q[n])
        same_bits(alone["logs"][0, 0], whole["logs"][0, n])
        same_bits(alone["condition"], whole["condition"][n : n + 1])


def test_directions_that_are_too_many():
    library = emulated.emulator().library
    library.emulated_stretch_scratch.restype = ctypes.c_int64
    assert library.emulated_stretch_scratch(*map(ctypes.c_int64, (1, 70, 1000))) > 0
    assert library.emulated_stretch_scratch(*map(ctypes.c_int64, (1, 71, 1000))) == -1
