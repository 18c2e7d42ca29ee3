"""An exported model -> answers, in a process without the compiler and the vertex language.

`load(folder)` gives a `Model`; `model(graphs)` answers. It stands on the runtime, and needs NumPy
and `apache-tvm-ffi` only.
"""

from .manifest import BACKWARD as BACKWARD
from .manifest import FORMAT as FORMAT
from .manifest import LIBRARY as LIBRARY
from .manifest import MANIFEST as MANIFEST
from .manifest import PARAMETERS as PARAMETERS
from .manifest import PROGRAM as PROGRAM
from .manifest import VALUES as VALUES
from .manifest import VOCABULARY as VOCABULARY
from .manifest import digest as digest
from .model import Model as Model
from .model import load as load
from .program import Deployed as Deployed
from .program import Output as Output
from .tensors import buffer_name as buffer_name
from .writing import to_data as to_data

# What users need; the rest is for the exporter.
__all__ = ["Model", "load"]
