"""Every error this package raises on bad input. Each is also a ValueError.

A message says what was given, what was expected, where, and the remedy.
"""


class CavsError(ValueError):
    """Base of all errors of tvm_cavs."""


class ShapeError(CavsError):
    """Operands whose shapes or dtypes do not fit an operation."""


class TraceError(CavsError):
    """A vertex function that cannot be traced into a Program."""


class GraphError(CavsError):
    """An instance graph that is not a valid DAG, or does not fit the vertex function."""


class OutOfMemoryError(CavsError, MemoryError):
    """What a batch or a network needs does not fit into memory; the text says what would."""


class DataError(CavsError):
    """A data file that cannot be read; the message names file and line."""


class ConfigError(CavsError):
    """A run configuration with unknown keys or wrong values; all problems at once."""


class CheckpointError(CavsError):
    """A checkpoint that is truncated, damaged, or belongs to another model."""


class TargetError(CavsError):
    """A target or executor that is unknown or cannot run here."""


class CacheError(CavsError):
    """A folder of compiled kernels that is not the user's own, or a limit that is no size."""


class TrainingError(CavsError):
    """Training cannot go on: the loss or a gradient is not finite."""


class TuningError(CavsError):
    """Measuring kernels cannot begin or go on, or its records cannot be kept."""


class BenchError(CavsError):
    """Systems that were to be compared and do not compute the same, or cannot run."""


class PeerError(BenchError):
    """A compared system that cannot run a case; the text says why."""


class DeployError(CavsError):
    """An exported model that is damaged, of another version, or not for this machine; or one that
    cannot be written.
    """
