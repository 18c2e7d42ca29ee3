"""What has more vertices or slots than numbers of 32 bits tell apart is refused before it is built.

Nothing here takes memory: the arrays are one number seen many times.
"""

import numpy as np
import pytest

import tvm_cavs as cavs
from tvm_cavs.data.dataset import build_graphs_flat

TOO_MANY = 2**31 + 5


def many(value: int) -> np.ndarray:
    return np.broadcast_to(np.int64(value), (TOO_MANY,))


@pytest.mark.parametrize(
    ("child_ptr", "child", "what", "n"),
    [
        (many(0), [], "vertices of a graph", "2,147,483,652"),
        ([0, 1], many(0), "slots for children of a graph", "2,147,483,653"),
    ],
)
def test_a_graph(child_ptr: object, child: object, what: str, n: str) -> None:
    with pytest.raises(cavs.GraphError, match=f"{what}: {n}, .*may be 2,147,483,647.*Make"):
        cavs.Graph.from_csr(child_ptr, child)


def test_a_batch_of_vertices() -> None:
    graph = cavs.Graph.from_sequence(1 << 16)
    with pytest.raises(cavs.GraphError, match="vertices of a batch: 2,147,483,648, .*fewer graphs"):
        cavs.batch([graph] * (1 << 15))
    forest = cavs.data.Dataset.from_graphs([graph]).graphs
    with pytest.raises(cavs.GraphError, match="vertices of a batch: 2,147,483,648, .*fewer graphs"):
        cavs.batch([forest[0]] * (1 << 15))


def test_a_batch_of_slots() -> None:
    n = 1 << 16
    graph = cavs.Graph.from_csr([0, 0, n], np.zeros(n, int))
    with pytest.raises(cavs.GraphError, match="slots for children of a batch: 2,147,483,648"):
        cavs.batch([graph] * (1 << 15))


def test_a_data_set() -> None:
    with pytest.raises(cavs.GraphError, match="vertices of a data set: 2,147,483,653, .*several"):
        build_graphs_flat([TOO_MANY], range(TOO_MANY), [], {})
    with pytest.raises(
        cavs.GraphError, match="slots for children of a data set: 2,147,483,653, .*several"
    ):
        build_graphs_flat([1], [0], range(TOO_MANY), {})
