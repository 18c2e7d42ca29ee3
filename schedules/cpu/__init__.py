"""Rules for CPUs, in the order in which they are asked."""

from .region import region
from .register_tile import register_tile
from .stream import stream

RULES = (register_tile, region, stream)
