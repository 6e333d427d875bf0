"""Oracle of csrc/core/rng: Philox4x32-10 and the numbers made of it, one element at a time."""

from __future__ import annotations

from statistics import NormalDist

_WORD = 2**32


def philox4x32_10(counter: list[int], key: list[int]) -> list[int]:
    """Four 32-bit words of a 128-bit counter under a 64-bit key (Salmon et al., SC11)."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second // _WORD) ^ c[1] ^ k[0], second % _WORD, (first // _WORD) ^ c[3] ^ k[1], first % _WORD]
        k = [(k[0] + 0x9E3779B9) % _WORD, (k[1] + 0xBB67AE85) % _WORD]
    return c


def word(seed: int, stream: int, index: int) -> int:
    """32-bit word `index` of a stream."""
    block = index // 4
    counter = [block % _WORD, block // _WORD, stream % _WORD, stream // _WORD]
    return philox4x32_10(counter, [seed % _WORD, seed // _WORD])[index % 4]


def uniform(seed: int, stream: int, index: int) -> float:
    """Uniform on (0, 1), exact in float32."""
    return (word(seed, stream, index) // 2**9 + 0.5) / 2**23


def normal(seed: int, stream: int, index: int) -> float:
    """Standard normal by the inverse of its distribution function, float64 (the native one is rounded to float32)."""
    return NormalDist().inv_cdf((word(seed, stream, index) + 0.5) / 2**32)
