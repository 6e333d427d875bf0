"""Artificial speech in noise at 16 kHz: a source-filter voice, so that a voice activity detector has work to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.signal import lfilter, sosfilt  # type: ignore[import-untyped]  # scipy ships no types

Array = np.ndarray[Any, np.dtype[np.float64]]

RATE = 16_000
FRAME = 80  # 5 ms: formants and pitch are constant within
# Formants of ten vowels, Hz (men's averages after Peterson and Barney, 1952); other voices scale them.
VOWELS: Array = np.array(
    [
        [270, 2290, 3010],
        [390, 1990, 2550],
        [530, 1840, 2480],
        [660, 1720, 2410],
        [730, 1090, 2440],
        [570, 840, 2410],
        [440, 1020, 2240],
        [300, 870, 2240],
        [640, 1190, 2390],
        [490, 1350, 1690],
    ],
    dtype=np.float64,
)
BANDWIDTHS = (70.0, 100.0, 150.0, 250.0)
FOURTH_FORMANT = 3500.0


def speech_like(count: int, samples: int, generator: torch.Generator) -> torch.Tensor:
    """`[count, samples]` float32 in [-1, 1]: utterances and pauses of a second or so, over noise at 5 to 35 dB.

    Every stream has a voice (pitch, vocal tract length), a level and a background of its own.
    """
    seeds = torch.randint(2**62, (count,), generator=generator)
    streams = [_stream(samples, np.random.default_rng(int(seed))) for seed in seeds]
    return torch.from_numpy(np.stack(streams).astype(np.float32))


def _stream(samples: int, rng: np.random.Generator) -> Array:
    pitch = float(np.exp(rng.uniform(np.log(90), np.log(240))))
    tract = 1.0 + 0.18 * (pitch - 90) / 150 + rng.uniform(-0.04, 0.04)  # shorter for higher voices
    pieces: list[Array] = []
    total, speaking = 0, bool(rng.random() < 0.5)
    while total < samples:
        piece = _utterance(pitch, tract, rng) if speaking else np.zeros(int(RATE * rng.uniform(0.45, 1.1)))
        pieces.append(piece)
        total += len(piece)
        speaking = not speaking
    voice = np.concatenate(pieces)
    # begin anywhere within the first piece, so that streams do not start in step
    offset = int(rng.integers(0, min(len(pieces[0]), total - samples) + 1))
    voice = voice[offset : offset + samples]
    level = 0.05 * float(np.exp(rng.uniform(-0.7, 0.7)))
    noise = _background(samples, rng) * level * 10 ** (-rng.uniform(5, 35) / 20)
    mixed: Array = np.clip(level * voice + noise, -1, 1)
    return mixed


def _utterance(pitch: float, tract: float, rng: np.random.Generator) -> Array:
    """Syllables: often a burst of noise, then a voiced vowel that glides between formants. RMS near 1 while voiced."""
    length = int(RATE * rng.uniform(0.5, 1.3))
    pieces: list[Array] = []
    total = 0
    vowel = VOWELS[rng.integers(len(VOWELS))]
    while total < length:
        if rng.random() < 0.5:
            pieces.append(_consonant(rng))
        target = VOWELS[rng.integers(len(VOWELS))]
        fall = 1.0 - 0.15 * total / length  # declination of the pitch over an utterance
        pieces.append(_vowel(pitch * fall, tract * vowel, tract * target, rng))
        vowel = target
        total = sum(map(len, pieces))
    return np.concatenate(pieces)


def _vowel(pitch: float, begin: Array, end: Array, rng: np.random.Generator) -> Array:
    frames = int(rng.integers(16, 50))
    glide = 0.5 - 0.5 * np.cos(np.pi * np.clip(np.linspace(-0.2, 1.6, frames), 0, 1))
    bend = rng.uniform(-0.12, 0.12)
    source = _glottal_source(pitch * (1 + bend * np.linspace(-1, 1, frames)), rng)
    voiced = np.empty_like(source)
    memory = np.zeros((4, 2))
    for i, share in enumerate(glide):
        formants = np.append(begin + share * (end - begin), FOURTH_FORMANT)
        piece = slice(i * FRAME, (i + 1) * FRAME)
        voiced[piece], memory = sosfilt(_resonators(formants), source[piece], zi=memory)
    envelope = np.minimum(1, np.minimum(np.arange(len(voiced)), np.arange(len(voiced))[::-1]) / (0.02 * RATE))
    loudness = float(np.exp(rng.uniform(-0.5, 0.3)))
    return _unit(voiced) * envelope * loudness


def _glottal_source(pitch: Array, rng: np.random.Generator) -> Array:
    """Pulses with 1 % jitter at `pitch` [frames] Hz, -12 dB per octave, radiated (+6 dB), and a little breath."""
    per_sample = np.repeat(pitch, FRAME) * (1 + 0.01 * np.repeat(rng.standard_normal(len(pitch)), FRAME))
    phase = np.cumsum(per_sample / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    shaped = lfilter([1.0, -1.0], np.convolve([1.0, -0.97], [1.0, -0.90]), pulses)
    source: Array = _unit(shaped) + 0.04 * rng.standard_normal(len(shaped))
    return source


def _resonators(frequencies: Array) -> Array:
    """Second-order sections with unit gain at 0 Hz (Klatt, 1980)."""
    sections = np.zeros((len(frequencies), 6))
    for section, frequency, bandwidth in zip(sections, frequencies, BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / RATE)
        b = 2 * radius * np.cos(2 * np.pi * frequency / RATE)
        section[:] = [1 - b + radius**2, 0, 0, 1, -b, radius**2]
    return sections


def _consonant(rng: np.random.Generator) -> Array:
    """A fricative or a burst after a closure: noise around 2 to 6 kHz, 10 to 20 dB below the vowels."""
    closure = np.zeros(int(RATE * rng.uniform(0.02, 0.05))) if rng.random() < 0.5 else np.zeros(0)
    noise = rng.standard_normal(int(RATE * rng.uniform(0.03, 0.11)))
    coloured = lfilter([1.0], _pole_pair(rng.uniform(2000, 6000), 1200.0), noise)
    return np.concatenate([closure, _unit(coloured) * np.hanning(len(noise)) * rng.uniform(0.1, 0.35)])


def _pole_pair(frequency: float, bandwidth: float) -> Array:
    radius = np.exp(-np.pi * bandwidth / RATE)
    return np.array([1.0, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2])


def _background(samples: int, rng: np.random.Generator) -> Array:
    """Between white and brown noise, unit RMS."""
    tilt = rng.uniform(0.0, 0.95)
    return _unit(lfilter([1.0], [1.0, -tilt], rng.standard_normal(samples)))


def _unit(signal: Array) -> Array:
    scaled: Array = signal / max(float(np.sqrt(np.mean(signal**2))), 1e-12)
    return scaled
