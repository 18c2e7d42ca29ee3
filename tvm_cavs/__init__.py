"""Networks whose structure differs per example, batched automatically and compiled through TVM.

Words, one per idea (Cavs, USENIX ATC 2018):

* vertex function F: what one vertex does; instance graph G: which vertices an example has.
* `gather(k)` reads the state of child k; `scatter` publishes this vertex's state to its parents;
  `pull` reads this vertex's external input; `push` gives an external output.
* stages of F: *eager* depends on no gather; *recurrent* depends on a gather and feeds a scatter;
  *lazy* depends on a gather and feeds no scatter.
* *level*: vertices that run together. *row*: a vertex's place in a packed buffer. *plan*: the
  levels and rows of a batch. *kind*: vertices with the same inputs present. *record*: a stored
  tuning result. *executor*: what runs a compiled network.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .versions import VERSION as __version__
from .versions import check_versions as _check_versions
from .versions import not_installed as _not_installed

if _TYPE_CHECKING:
    from .public import *  # noqa: F403

_check_versions()


def __getattr__(name: str) -> _Any:
    """Load what users are given when they ask for it: a deployed model needs a part of it only."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _find_spec(f"{__name__}.{name}") is not None:
        return _import_module(f".{name}", __name__)
    try:
        public = vars(_import_module(".public", __name__))
    except ModuleNotFoundError as error:
        if error.name != "safetensors":
            raise
        raise ModuleNotFoundError(_not_installed(error.name), name=error.name) from None
    globals().update({each: what for each, what in public.items() if not each.startswith("_")})
    if name in globals():
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """With what is not loaded yet."""
    return sorted({*globals(), *vars(_import_module(".public", __name__))})
