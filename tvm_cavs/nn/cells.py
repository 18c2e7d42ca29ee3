"""The cells of the literature as vertex functions. Each takes words (int32 input `word`, absent
where a vertex has none), publishes its state, and pushes `logits` float32[n_classes].

All have the constructor `(vocab, embedding, hidden, n_classes, arity, dropout)`; `CELLS` is the
table of their names.
"""

from __future__ import annotations

from .. import arguments
from ..language import (
    Parameter,
    Value,
    Vertex,
    VertexFunction,
    concat,
    embedding,
    init,
    relu,
    sigmoid,
    split,
    tanh,
)


class Cell(VertexFunction):
    """What all cells share: the word table, its dropout, and the classifier on `h`.

    Args:
        vocab: number of words.
        embedding: width of a word's vector.
        hidden: width of each state field.
        n_classes: number of logits.
        arity: largest number of children.
        dropout: rate on word vectors and on the `h` that the classifier reads.

    Raises:
        ConfigError: one of them is no whole number of 1 or more; a rate that is not in [0, 1).

    Examples:
        A cell of one's own:

        >>> import tvm_cavs as cavs
        >>> class Sum(cavs.nn.Cell):
        ...     def forward(self, v):
        ...         h = cavs.tanh(self.word(v) + v.gather(0).h + v.gather(1).h)
        ...         v.scatter(h=h)
        ...         self.classify(v, h)
        >>> net = cavs.Network(Sum(vocab=10, embedding=8, hidden=8, n_classes=3))
        >>> print({name: p.shape for name, p in net.parameters().items()})
        {'E': (10, 8), 'V': (8, 3), 'd': (3,)}
    """

    fields: tuple[str, ...] = ("h",)

    def __init__(
        self,
        vocab: int,
        embedding: int,
        hidden: int,
        n_classes: int,
        arity: int = 2,
        dropout: float = 0.0,
    ) -> None:
        given = {"vocab": vocab, "embedding": embedding, "hidden": hidden, "n_classes": n_classes}
        where = type(self).__name__
        for what, count in given.items():
            arguments.whole(f"{where}({what}=...)", count, 1, arguments.MOST)
        self.arity = arguments.whole(f"{where}(arity=...)", arity, 1, arguments.MOST)
        self.dropout = arguments.number(f"{where}(dropout=...)", dropout, 0, below=1)
        self.hidden = hidden
        self.state = dict.fromkeys(self.fields, hidden)
        self.E = Parameter((vocab, embedding), init.Uniform(0.05))
        self.V = Parameter((hidden, n_classes))
        self.d = Parameter((n_classes,))

    def word(self, v: Vertex) -> Value:
        """The vertex's word vector, float32[embedding]; zeros where it has no word."""
        return v.dropout(embedding(v.pull("word"), self.E), self.dropout)

    def children(self, v: Vertex) -> Value:
        """The children's h side by side, float32[arity * hidden]."""
        return concat(*(v.gather(k).h for k in range(self.arity)))

    def classify(self, v: Vertex, h: Value) -> None:
        """Push the logits of `h`."""
        v.push("logits", v.dropout(h, self.dropout) @ self.V + self.d)


class TreeLSTM(Cell):
    """N-ary Tree-LSTM (Tai et al. 2015, eq. 9-14), one forget gate per child.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.TreeLSTM(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_children([[], [], [0, 1]], {"word": [7, 2, None]})
        >>> print(net(graph)["logits"].shape)
        (3, 3)
    """

    fields = ("h", "c")

    def __init__(
        self,
        vocab: int,
        embedding: int,
        hidden: int,
        n_classes: int,
        arity: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab, embedding, hidden, n_classes, arity, dropout)
        n, arity = 3 + self.arity, self.arity
        self.W = Parameter((embedding, n * hidden), init.Xavier(n_blocks=n))
        self.U = Parameter((arity * hidden, n * hidden), init.Xavier(n_blocks=n))
        self.b = Parameter((n * hidden,))

    def forward(self, v: Vertex) -> None:
        gates = self.word(v) @ self.W + self.children(v) @ self.U + self.b
        i, o, u, *forget = split(gates, 3 + self.arity)
        c = sigmoid(i) * tanh(u)
        for k, f in enumerate(forget):
            c = c + sigmoid(f) * v.gather(k).c
        h = sigmoid(o) * tanh(c)
        v.scatter(h=h, c=c)
        self.classify(v, h)


class LSTM(TreeLSTM):
    """Long short-term memory, a Tree-LSTM on a chain (Hochreiter & Schmidhuber 1997).

    Its arity is 1, whatever is given.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.LSTM(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_sequence(4, {"word": [1, 9, 0, 4]})
        >>> print(net(graph)["logits"].shape)
        (4, 3)
    """

    def __init__(
        self,
        vocab: int,
        embedding: int,
        hidden: int,
        n_classes: int,
        arity: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab, embedding, hidden, n_classes, 1, dropout)


class TreeRNN(Cell):
    """Recursive network h = tanh(W x + U [h_1; ...; h_N] + b) (Socher et al. 2011, eq. 2).

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.TreeRNN(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_children([[], [], [0, 1]], {"word": [7, 2, None]})
        >>> print(net(graph)["logits"].shape)
        (3, 3)
    """

    activation = staticmethod(tanh)

    def __init__(
        self,
        vocab: int,
        embedding: int,
        hidden: int,
        n_classes: int,
        arity: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab, embedding, hidden, n_classes, arity, dropout)
        self.W = Parameter((embedding, hidden))
        self.U = Parameter((arity * hidden, hidden))
        self.b = Parameter((hidden,))

    def forward(self, v: Vertex) -> None:
        h = self.activation(self.word(v) @ self.W + self.children(v) @ self.U + self.b)
        v.scatter(h=h)
        self.classify(v, h)


class TreeFC(TreeRNN):
    """Tree-FC (Looks et al. 2017, section 5): one layer with ReLU on the children's states.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.TreeFC(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_children([[], [], [0, 1]], {"word": [7, 2, None]})
        >>> print(net(graph)["logits"].shape)
        (3, 3)
    """

    activation = staticmethod(relu)


class TreeGRU(Cell):
    """N-ary tree GRU (Kokkinos & Potamianos 2017, eq. 4-8), one reset gate per child.

    Examples:
        >>> import tvm_cavs as cavs
        >>> cell = cavs.nn.TreeGRU(vocab=10, embedding=4, hidden=8, n_classes=3, arity=3)
        >>> net = cavs.Network(cell)
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_children([[], [], [], [0, 1, 2]], {"word": [7, 2, 5, None]})
        >>> print(net(graph)["logits"].shape)
        (4, 3)
    """

    def __init__(
        self,
        vocab: int,
        embedding: int,
        hidden: int,
        n_classes: int,
        arity: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab, embedding, hidden, n_classes, arity, dropout)
        n, arity = 1 + self.arity, self.arity
        self.W = Parameter((embedding, n * hidden), init.Xavier(n_blocks=n))
        self.U = Parameter((arity * hidden, n * hidden), init.Xavier(n_blocks=n))
        self.b = Parameter((n * hidden,))
        self.Wn = Parameter((embedding, hidden))
        self.Un = Parameter((arity * hidden, hidden))
        self.bn = Parameter((hidden,))

    def forward(self, v: Vertex) -> None:
        x, below = self.word(v), self.children(v)
        gates = sigmoid(x @ self.W + below @ self.U + self.b)
        z, *resets = split(gates, 1 + self.arity)
        n = tanh(x @ self.Wn + (concat(*resets) * below) @ self.Un + self.bn)
        total = v.gather(0).h
        for k in range(1, self.arity):
            total = total + v.gather(k).h
        h = z * total + (1.0 - z) * n
        v.scatter(h=h)
        self.classify(v, h)


class GRU(TreeGRU):
    """Gated recurrent unit (Cho et al. 2014): a tree GRU on a chain.

    Its arity is 1, whatever is given.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.GRU(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> graph = cavs.Graph.from_sequence(4, {"word": [1, 9, 0, 4]})
        >>> print(net(graph)["logits"].shape)
        (4, 3)
    """

    def __init__(
        self,
        vocab: int,
        embedding: int,
        hidden: int,
        n_classes: int,
        arity: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab, embedding, hidden, n_classes, 1, dropout)


CELLS: dict[str, type[Cell]] = {
    "tree_lstm": TreeLSTM,
    "tree_rnn": TreeRNN,
    "tree_fc": TreeFC,
    "tree_gru": TreeGRU,
    "lstm": LSTM,
    "gru": GRU,
}
