"""Rules for CPUs, in the order in which they are asked."""

from .register_tile import register_tile
from .stream import stream

RULES = (register_tile, stream)
