"""Weights of a product, plain and packed, in NumPy.

Plain are float32[k, n_columns], or with operands in bfloat16 uint32[k / 2, n_columns] of pairs.
"""

from __future__ import annotations

import numpy as np

from ..kernels.cpu.bfloat16 import words
from ..lowering.specs import Product
from ..machine import Machine
from ..target_rules import Tile, weights_shape


def depth_of(machine: Machine, spec: Product) -> int:
    """Rows of plain weights."""
    return words(spec.k) if machine.operand_precision(spec.k) == "bf16" else spec.k


def plain(machine: Machine, spec: Product, packed: np.ndarray) -> np.ndarray:
    """What lies in weights that were packed by the machine's default."""
    tile, depth = machine.tile(spec.k, spec.n_columns), depth_of(machine, spec)
    if tile.narrow:
        return packed[0, :, :depth].T.copy()
    flat = packed.transpose(1, 0, 2).reshape(packed.shape[1], -1)
    return flat[:depth, : spec.n_columns].copy()


def packed(tile: Tile, spec: Product, weights: np.ndarray) -> np.ndarray:
    """Plain weights as a product with this tile reads them; what is added are zeros."""
    depth, n_columns = weights.shape
    shape = weights_shape(depth, n_columns, tile)
    if tile.narrow:
        made = np.zeros(shape, weights.dtype)
        made[0, :, :depth] = weights.T
        return made
    n_panels, padded, columns = shape
    flat = np.zeros((padded, n_panels * columns), weights.dtype)
    flat[:depth, :n_columns] = weights
    return flat.reshape(padded, n_panels, columns).transpose(1, 0, 2)
