"""Dropout without state: which elements stay is a hash of (seed, step, site, vertex, unit).

The same vertex drops the same units whatever shares its batch, in every executor, and the backward
pass computes the mask again instead of storing it. The hash is a 32-bit integer mixer of two
multiplications (the "lowbias32" constants of Chris Wellons' hash-prospector search, 2018).
"""

from __future__ import annotations

import numpy as np

MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
SHIFTS = (16, 15, 16)
UNIT_STRIDE = 0x9E3779B9  # 2^32 / golden ratio
BITS = 24  # a uniform number has this many bits


def mix(x: np.ndarray) -> np.ndarray:
    """Scramble uint32[...] into uint32[...], one to one."""
    x = x ^ (x >> np.uint32(SHIFTS[0]))
    x = x * np.uint32(MULTIPLIERS[0])
    x = x ^ (x >> np.uint32(SHIFTS[1]))
    x = x * np.uint32(MULTIPLIERS[1])
    return x ^ (x >> np.uint32(SHIFTS[2]))


def site_key(seed: int, step: int, site: int) -> int:
    """Key of one dropout call of one step, as an unsigned 32-bit integer."""
    key = np.zeros(1, "uint32")
    for part in (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, step & 0xFFFFFFFF, site):
        key = mix(key + np.uint32(UNIT_STRIDE) ^ np.uint32(part))
    return int(key[0])


def vertex_keys(vertex_id: np.ndarray) -> np.ndarray:
    """Fold int64[n] identities of vertices into uint32[n]."""
    low = (vertex_id & 0xFFFFFFFF).astype("uint32")
    high = (vertex_id >> 32 & 0xFFFFFFFF).astype("uint32")
    return low ^ np.where(high != 0, mix(high), np.uint32(0))


def threshold(rate: float) -> int:
    """A unit is dropped when the upper BITS bits of its hash are below this."""
    return round(rate * (1 << BITS))


def scale(rate: float, key: int, vertex_key: np.ndarray, width: int) -> np.ndarray:
    """Factor of every unit: 0 or 1 / (1 - rate).

    Shapes: vertex_key uint32[n] -> float64[n, width].
    """
    rows = mix(vertex_key ^ np.uint32(key))
    units = np.arange(width, dtype="uint32") * np.uint32(UNIT_STRIDE)
    bits = mix(rows[:, None] ^ units[None, :]) >> np.uint32(32 - BITS)
    return np.where(bits >= np.uint32(threshold(rate)), 1.0 / (1.0 - rate), 0.0)
