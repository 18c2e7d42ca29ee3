"""Whatever is read or made: a valid object, or a CavsError. Nothing else, and never a wrong number.

More cases by hand: TVM_CAVS_EXAMPLES=5000 pytest tests/data/test_any_file.py
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tvm_cavs import record
from tvm_cavs.data.dataset import Dataset
from tvm_cavs.data.glove import load_glove
from tvm_cavs.data.jsonl import jsonl_dataset
from tvm_cavs.data.listops import generate, read_listops_tsv
from tvm_cavs.data.listops_trees import listops_dataset
from tvm_cavs.data.loader import Loader
from tvm_cavs.data.ptb import parse_ptb_tree, ptb_dataset
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import CavsError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph, check
from tvm_cavs.runs.build import build_loss, build_network, build_trainer
from tvm_cavs.runs.schema import RunConfig
from tvm_cavs.runs.splits import build_data
from tvm_cavs.training.evaluation import as_json, evaluate
from tvm_cavs.training.metrics import METRICS, Tally

N = int(os.environ.get("TVM_CAVS_EXAMPLES", "60"))
few = settings(
    max_examples=N,
    deadline=None,
    derandomize=N == 60,
    suppress_health_check=list(HealthCheck),
)

ODD = st.sampled_from(
    [None, True, False, -1, 0, 1, 2, 2**31, 10**22, 10**400, 0.5, -0.0, 1e39, 1e308]
    + [float("nan"), float("inf"), "a", "b", "", "1", "<unk>", "\ud800", "\ufeffa", "é", [], {}]
    + [[1.0, None], [1, 2], [0.5, "a"], [[1], [2]], [[1], 2], ["a", "b"], b"a", object()]
)
SMALL = st.one_of(st.integers(-2, 40), ODD)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "file"


def attempt(make):
    """What `make` gives, or None where it refuses in the way that it should."""
    try:
        return make()
    except CavsError as error:
        assert str(error)
        return None


def check_dataset(dataset):
    """Valid graphs of finite values, which can be batched and printed."""
    if dataset is None:
        return
    whole = batch(dataset.graphs)
    check(whole)
    for field in whole.inputs.values():
        assert field.values.dtype in (np.int32, np.float32)
        assert np.isfinite(field.values).all()
        absent = -1 if field.values.dtype == np.int32 else 0
        assert (field.values[~field.present] == absent).all()
    for name, kind in dataset.kinds.items():
        assert (whole.inputs[name].values.dtype == np.float32) == (kind == "numbers")
    if "label" in dataset.kinds:
        assert (dataset.kinds["label"] == "tokens") == (dataset.classes is not None)
    assert len(dataset.lines) == len(dataset)
    assert str(dataset) and dataset.place(0, 0)
    str(dataset.vocab).encode()


# What is written to files: lines of a format with odd values in them, and odd bytes.


def jsonable(values):
    return values.filter(lambda value: not isinstance(value, bytes) and type(value) is not object)


def entries(n):
    """The entries of one input: of one kind, or with odd ones among them."""
    kinds = [st.integers(0, 3), st.floats(-2, 2, width=16), st.sampled_from("abc")]
    pure = [st.lists(st.one_of(st.none(), kind), min_size=n, max_size=n) for kind in kinds]
    wide = st.lists(st.lists(st.floats(-1, 1, width=16), min_size=2, max_size=2), min_size=n)
    odd = st.lists(st.one_of(st.integers(0, 1), jsonable(ODD)), min_size=n, max_size=n)
    return st.one_of(*pure, wide.map(lambda rows: rows[:n]), odd)


@st.composite
def graph_lines(draw):
    """A line of JSON, mostly of a valid graph."""
    n = draw(st.integers(0, 4))
    children = [draw(st.lists(st.integers(-1, v - 1), max_size=2)) for v in range(n)]
    inputs = {name: draw(entries(n)) for name in draw(st.sets(st.sampled_from(["word", "label"])))}
    line = {"children": children, "inputs": inputs}
    if draw(st.integers(0, 9)) == 0:
        line[draw(st.sampled_from(["children", "parents", "inputs", "x"]))] = draw(jsonable(ODD))
    return json.dumps(line)


MARKS = [b"\xef\xbb\xbf", b"\xff\xfe", b"\x1f\x8b", b"\xfd7zXZ\x00", b"PK\x03\x04"]
BYTES = [b"", b"\xff", b"\x00", b"[[", b"1e400", b"NaN", b'"', b"\n", b"9" * 30]


@st.composite
def texts(draw, lines):
    """Bytes of a file: lines, with other ends, marks and odd bytes at times."""
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\n\n", "\r", " \n"]))
    text = end.join(draw(st.lists(lines, max_size=4))) + draw(st.sampled_from(["", end]))
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    starts = [
        b"",
        b"",
        b"",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x1f\x8b",
        b"\xfd7zXZ\x00",
        b"PK\x03\x04",
    ]
    content[:0] = draw(st.sampled_from(starts))
    if content and draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(content) - 1))
        content[at : at + draw(st.integers(0, 3))] = draw(
            st.sampled_from(
                [b"", b"\xff", b"\x00", b"[[", b"1e400", b"NaN", b'"', b"\n", b"9" * 30]
            )
        )
    return bytes(content)


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "vocab": st.one_of(st.just(Vocab(("<unk>", "a"))), ODD),
        "n_classes": SMALL,
        "min_count": SMALL,
        "classes": st.one_of(st.just(("a", "b")), st.just(None), ODD),
        "kinds": st.one_of(
            st.dictionaries(
                st.sampled_from(["word", "label"]),
                st.sampled_from(["tokens", "integers", "numbers", "no"]),
            )
        ),
    },
)


@few
@given(content=texts(graph_lines()), arguments=ARGUMENTS)
def test_json_lines(path, content, arguments):
    path.write_bytes(content)
    check_dataset(attempt(lambda: jsonl_dataset(path)))
    check_dataset(attempt(lambda: jsonl_dataset(path, **arguments)))


PIECES = [*"((()))", " ", "3", "2 good", "NP", "0.5", "-1", "9" * 40, "9" * 5000, "1e400"]
BRACKETS = st.one_of(
    st.lists(st.sampled_from([*PIECES, "\t", "\u00a0", "#", "nan", "a b"]), max_size=12).map(
        "".join
    ),
    st.sampled_from(["(3 (2 a) (1 b))", "((0 x))", "(S (NP a) (VP b))", "(1", "  (2 b))", "# x"]),
)


@few
@given(content=texts(BRACKETS), arguments=ARGUMENTS)
def test_brackets(path, content, arguments):
    path.write_bytes(content)
    attempt(lambda: parse_ptb_tree(content.decode("utf-8", "replace")))
    check_dataset(attempt(lambda: ptb_dataset(path, **arguments)))
    check_dataset(attempt(lambda: ptb_dataset(path, unescape=True, lower=True)))


@few
@given(
    content=texts(
        st.lists(
            st.sampled_from(["3", "[MAX", "[SM", "]", "(", ")", "9", "\t", "", "x"]), max_size=9
        ).map(" ".join)
        | st.sampled_from(["9\t( ( ( [MAX 3 ) 9 ) ] )", "3\t3"])
    ),
    form=st.sampled_from(["binary", "nary", "no", None, []]),
    given_=st.one_of(st.lists(st.sampled_from(["3", "[MAX 3 9 ]", "", 3, None]), max_size=3), ODD),
)
def test_list_operations(path, content, form, given_):
    path.write_bytes(content)
    attempt(lambda: read_listops_tsv(path))
    made = attempt(lambda: listops_dataset(given_, form))
    if made is not None:
        whole = batch(made.graphs)
        check(whole)
        for field in whole.inputs.values():
            assert (field.values[~field.present] == -1).all()


@few
@given(n=SMALL, seed=SMALL, max_tokens=SMALL, max_depth=SMALL, exclude=ODD)
def test_generated_expressions(n, seed, max_tokens, max_depth, exclude):
    assume(not (type(n) is int and n > 1000))
    for arguments in (
        (n, seed, max_tokens, exclude, max_depth),
        (n, 0, max_tokens),
        (n, seed, None, frozenset(), max_depth),
    ):
        made = attempt(lambda arguments=arguments: generate(*arguments))
        assert made is None or len(set(made)) == n


NUMBER_TEXTS = ["1", "-0.5", "1e39", "nan", "inf", "x", "", "1e400", "0x1", "\ufeff", "1_0"]


@few
@given(
    content=texts(st.lists(st.sampled_from(["a", "b", *NUMBER_TEXTS]), max_size=4).map(" ".join)),
    width=SMALL,
    fill=st.sampled_from([None, np.ones((3, 2), np.float32), np.ones(2), 5]),
)
def test_word_vectors(path, content, width, fill):
    path.write_bytes(content)
    vocab = Vocab(("<unk>", "a", "b"))
    for w in (width, 2):
        found = attempt(lambda w=w: load_glove(path, vocab, w, fill))
        if found is not None:
            rows, n = found
            assert rows.shape == (3, w) and rows.dtype == np.float32 and np.isfinite(rows).all()
            assert 0 <= n <= 2


GRAPHS = [Graph.from_children([[], [0]], {"x": [1, 2]}), Graph.from_children([[]])]


@few
@given(
    tokens=st.one_of(ODD, st.lists(ODD, max_size=3)),
    indices=st.one_of(SMALL, st.lists(SMALL, max_size=3)),
    graphs=st.one_of(ODD, st.lists(st.one_of(st.sampled_from(GRAPHS), ODD), max_size=3)),
    sizes=st.tuples(SMALL, SMALL, SMALL, SMALL),
)
def test_vocabularies_and_loaders(tokens, indices, graphs, sizes):
    vocab = attempt(lambda: Vocab.build(tokens, 1))
    attempt(lambda: Vocab(tokens))
    attempt(lambda: Vocab.build(["a"], sizes[0]))
    if vocab is not None:
        assert Vocab(tuple(vocab.to_list())) == vocab
        assert vocab.words(vocab.index(vocab.tokens)) == list(vocab.tokens)
        attempt(lambda: vocab.index(tokens))
        words = attempt(lambda: vocab.words(indices))
        assert words is None or [vocab.place[word] for word in words] == list(indices)
    batch_size, budget, seed, epoch = sizes
    for dataset in (
        attempt(lambda: Dataset(graphs)),
        attempt(lambda: Dataset.from_graphs(graphs)),
        Dataset(tuple(GRAPHS)),
    ):
        loader = attempt(lambda d=dataset: Loader(d, batch_size, budget, seed=seed))
        parts = attempt(lambda k=loader: k.parts(epoch)) if loader else None
        if parts is not None:
            assert sorted(np.concatenate(parts).tolist()) == list(range(len(dataset)))


LABELS = [[1, None], [0, 7], [-3, 1], [0.5, None], [[0.5, 1.0], [0.0, 2.0]], [None, None]]
SHAPES = [(2,), (2, 0), (2, 1), (2, 2), (2, 5), (2, 2, 2), (3, 2), ()]


@few
@given(
    label=st.sampled_from(LABELS),
    shape=st.sampled_from(SHAPES),
    value=st.sampled_from([0.0, 1.0, 1e38, np.nan, np.inf, -np.inf]),
    name=st.sampled_from(list(METRICS)),
)
def test_metrics(label, shape, value, name):
    tally = Tally((name,))
    graph = Graph.from_children([[], [0]], {"label": label})
    attempt(lambda: tally.add(np.full(shape, value, np.float32), graph))
    json.dumps(as_json(tally.values()), allow_nan=False)


# What passes the door trains, is measured, and passes it again with the config that is saved.


INTEGERS, NUMBERS, WORDS = st.integers(0, 3), st.floats(0, 1, width=16), st.sampled_from("ab")
LISTS = st.lists(st.floats(0, 1, width=16), min_size=2, max_size=2)
FITTING = [
    (INTEGERS, "softmax_cross_entropy"),
    (WORDS, "softmax_cross_entropy"),
    (NUMBERS, "squared_error"),
    (INTEGERS, "squared_error"),
    (LISTS, "squared_error"),
    (NUMBERS, "logistic"),
    (LISTS, "logistic"),
]


@st.composite
def splits(draw):
    """Lines of a training and a dev set, mostly alike, and a loss that mostly fits."""
    kind, loss = draw(st.sampled_from(FITTING))
    other, _ = draw(st.sampled_from([(kind, loss)] * 20 + [*FITTING, (ODD, loss)]))
    if draw(st.integers(0, 9)) == 0:
        loss = draw(st.sampled_from(FITTING))[1]
    names = ["word", "label"]
    found = []
    for label in (kind, other):
        lines = []
        if draw(st.integers(0, 31)) == 31:
            names = names[: draw(st.integers(0, 1))]
        for _ in range(draw(st.integers(1, 3))):
            n = draw(st.integers(1, 3))
            children = [[], [0], [0, 1]][:n]
            words = draw(st.lists(st.sampled_from(["x", "y", None]), min_size=n, max_size=n))
            labels = [draw(st.one_of(st.none(), jsonable(label))) for _ in range(n - 1)]
            labels.append(draw(jsonable(label)))
            inputs = {name: {"word": words, "label": labels}[name] for name in names}
            lines.append(json.dumps({"children": children, "inputs": inputs}))
        found.append("\n".join(lines))
    return *found, loss


@settings(few, max_examples=max(N, 100))
@given(made=splits(), model=st.sampled_from([{}] * 8 + [{"cell": "lstm"}, {"arity": 1}]))
def test_what_is_accepted_trains_and_is_measured(path, made, model):
    train, dev, loss = made
    path.with_name("train").write_text(train, encoding="utf-8")
    path.with_name("dev").write_text(dev, encoding="utf-8")
    config = RunConfig.model_validate(
        {
            "data": {"name": "jsonl", "folder": str(path.parent), "train": "train", "dev": "dev"},
            "model": {"embedding": 2, "hidden": 2, **model},
            "train": {"loss": loss},
            "executor": {"name": "reference"},
        }
    )
    data = attempt(lambda: build_data(config))
    if data is None:
        return
    again = build_data(
        RunConfig.model_validate(data.config.model_dump(mode="json")), vocab=data.vocab
    )
    alone = build_data(data.config, ["dev"], data.vocab).splits["dev"]
    assert again.config == data.config
    for one, other in ((data.splits["train"], again.splits["train"]), (data.splits["dev"], alone)):
        for name, field in batch(one.graphs).inputs.items():
            np.testing.assert_array_equal(field.values, batch(other.graphs).inputs[name].values)
    net = build_network(data.config, data.vocab)
    with record():
        value = build_loss(data.config)(net(batch(data.splits["train"].graphs)))
    value.backward()
    build_trainer(data.config, net).step(1)
    metrics = evaluate(net, data.splits["dev"], data.config.train.metrics)
    assert metrics and all(np.isfinite(value) for value in metrics.values())
