"""Instance graphs: children lists -> Graph, batches of them, kinds of vertices, equal subgraphs.

NumPy only, and no vertex function: what a network reads comes here as a list of `Read`.
"""

from .batching import batch as batch
from .batching import unbatch as unbatch
from .field import Field as Field
from .field import empty_field as empty_field
from .field import made_field as made_field
from .graph import Graph as Graph
from .graph import small_graph as small_graph
from .kind import MAX_LOOKUP_BITS as MAX_LOOKUP_BITS
from .kind import Kind as Kind
from .kind import check_bits as check_bits
from .kind import kind_of as kind_of
from .kind import masks as masks
from .levels import pointers as pointers
from .levels import ranges as ranges
from .levels import steps as steps
from .reads import Read as Read
from .reads import check_inputs as check_inputs
from .sharing import COPIES as COPIES
from .sharing import Policy as Policy
from .sharing import Shared as Shared
from .sharing import Sharing as Sharing
from .sharing import with_copies as with_copies
