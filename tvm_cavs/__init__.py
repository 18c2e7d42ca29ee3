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

from . import data as data
from . import executors as executors
from . import nn as nn
from .errors import CacheError as CacheError
from .errors import CavsError as CavsError
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import DataError as DataError
from .errors import GraphError as GraphError
from .errors import OutOfMemoryError as OutOfMemoryError
from .errors import ShapeError as ShapeError
from .errors import TargetError as TargetError
from .errors import TraceError as TraceError
from .errors import TrainingError as TrainingError
from .graph import Graph as Graph
from .graph import batch as batch
from .language import Parameter as Parameter
from .language import RowSparse as RowSparse
from .language import Vertex as Vertex
from .language import VertexFunction as VertexFunction
from .language import abs as abs
from .language import argmax as argmax
from .language import concat as concat
from .language import embedding as embedding
from .language import equal as equal
from .language import exp as exp
from .language import gelu as gelu
from .language import greater as greater
from .language import init as init
from .language import layer_norm as layer_norm
from .language import log as log
from .language import log_softmax as log_softmax
from .language import maximum as maximum
from .language import minimum as minimum
from .language import one_hot as one_hot
from .language import pick as pick
from .language import reduce_max as reduce_max
from .language import reduce_mean as reduce_mean
from .language import reduce_sum as reduce_sum
from .language import relu as relu
from .language import reshape as reshape
from .language import sigmoid as sigmoid
from .language import silu as silu
from .language import softmax as softmax
from .language import split as split
from .language import sqrt as sqrt
from .language import tanh as tanh
from .language import where as where
from .nn import Network as Network
from .nn import loss as loss
from .nn import record as record
from .training import Trainer as Trainer
from .training import evaluate as evaluate
from .versions import VERSION as __version__
from .versions import check_versions as _check_versions

_check_versions()
