"""Readers against plain loops on random files: what is read, and where a fault is said to stand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.random_graphs import random_chain, random_dag, random_tree
from tvm_cavs.data import TOKENS
from tvm_cavs.data.dataset import Dataset
from tvm_cavs.data.glove import load_glove
from tvm_cavs.data.jsonl import jsonl_dataset, read_graphs, to_json
from tvm_cavs.data.loader import Loader
from tvm_cavs.data.ptb import PtbTree, ptb_dataset, read_ptb_trees
from tvm_cavs.data.spelling import Spelling
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import DataError
from tvm_cavs.graph.graph import Graph

SEEDS = range(8)
WORDS = ("<unk>", "a", "b", "c", "d")


def random_graphs(rng: np.random.Generator) -> list[Graph]:
    """Trees, DAGs and chains; some without some of the inputs."""
    makers: list[Callable[[], Graph]] = [
        lambda: random_tree(rng, 3, int(rng.integers(1, 9))),
        lambda: random_dag(rng, 3, int(rng.integers(1, 9))),
        lambda: random_chain(rng, int(rng.integers(1, 9))),
    ]
    return [makers[rng.integers(3)]() for _ in range(int(rng.integers(2, 8)))]


def assert_same(one: Graph, other: Graph, names: list[str]) -> None:
    assert one.child_ptr.tolist() == other.child_ptr.tolist()
    assert one.child.tolist() == other.child.tolist()
    for name in names:
        mine, its = one.inputs[name], other.inputs[name]
        assert mine.present.tolist() == its.present.tolist(), name
        held = mine.present
        np.testing.assert_array_equal(mine.values[held], its.values[held], err_msg=name)


@pytest.mark.parametrize("seed", SEEDS)
def test_json_lines_there_and_back(seed: int, tmp_path: Path) -> None:
    graphs, vocab, path = random_graphs(np.random.default_rng(seed)), Vocab(WORDS), tmp_path / "x"
    path.write_text("\n\n".join(to_json(graph) for graph in graphs))
    names = list(graphs[0].inputs)
    found = jsonl_dataset(path)
    assert found.lines == tuple(range(1, 2 * len(graphs), 2)) and found.vocab is None
    integers, numbers = dict.fromkeys(("word", "label"), "integers"), ("x", "target")
    assert found.kinds == integers | dict.fromkeys(numbers, "numbers")
    for one, other in zip(graphs, found, strict=True):
        assert_same(one, other, names)
    kinds = {"word": TOKENS, "x": "numbers"}
    lines = [(n, to_json(graph, kinds, vocab)) for n, graph in enumerate(graphs)]
    for one, other in zip(graphs, read_graphs("here", lines, kinds, vocab), strict=True):
        assert_same(one, other, list(kinds))
        assert list(other.inputs) == list(kinds)


GOOD: dict[str, Callable[[np.random.Generator], Any]] = {
    "tokens": lambda rng: str(rng.choice(["a", "b"])),
    "integers": lambda rng: int(rng.integers(-5, 5)),
    "numbers": lambda rng: float(rng.integers(1, 9)) + 0.5,
    "lists": lambda rng: [int(rng.integers(9)), 0.5, float(rng.normal())],
    "matrices": lambda rng: rng.normal(size=(2, 3)).tolist(),
}
FAULTS: list[tuple[str, str, str]] = [  # kind of the column, the faulty entry in JSON, what is said
    ("tokens", "3", "3 is a number in a list of tokens"),
    ("tokens", '["c"]', "another shape"),
    ("tokens", '"\\udc00"', "half of a surrogate pair"),
    ("tokens", "true", "true is neither"),
    ("integers", '"a"', "'a' is a token in a list of numbers"),
    ("integers", "2147483648", "does not fit int32"),
    ("integers", "-2147483649", "does not fit int32"),
    ("numbers", "3.5e38", "is not finite in float32"),
    ("numbers", "-3.5e38", "is not finite in float32"),
    ("numbers", "[1]", "another shape"),
    ("lists", "[1, 2]", "a list of 2"),
    ("lists", "[1, 2, 3, 4]", "a list of 4"),
    ("lists", "[1, 2, 1e39]", "is not finite"),
    ("lists", "[1, null, 2]", "null is neither"),
    ("lists", "[1, [2], 2]", "another shape"),
    ("lists", "7.5", "another shape"),
    ("matrices", "[[1, 2, 3], [4, 5, 1e39]]", "is not finite"),
    ("matrices", "[[1, 2, 3], [4, null, 6]]", "null is neither"),
    ("matrices", "[[1, 2, 3], [4, 5]]", "a list of 2"),
    ("matrices", "[[1, 2, 3], 4]", "another shape"),
]


@pytest.mark.parametrize(("kind", "fault", "said"), FAULTS)
def test_a_fault_is_named_by_line_and_vertex(
    kind: str, fault: str, said: str, tmp_path: Path
) -> None:
    """Wherever it stands; a second vertex at the beginning says what the others are."""
    path = tmp_path / "x.jsonl"
    for seed in range(6):
        rng = np.random.default_rng(seed)
        sizes = [2, *rng.integers(1, 6, int(rng.integers(1, 5))).tolist()]
        g = int(rng.integers(1, len(sizes)))
        v = int(rng.integers(sizes[g]))
        lines, numbers = [], []
        for i, n in enumerate(sizes):
            entries = [json.dumps(GOOD[kind](rng)) for _ in range(n)]
            entries = [e if i == 0 or rng.random() < 0.7 else "null" for e in entries]
            if i == g:
                entries[v] = fault
            lines += [""] * int(rng.integers(3))
            lines.append(f'{{"children": {[[]] * n}, "inputs": {{"x": [{", ".join(entries)}]}}}}')
            numbers.append(len(lines))
        path.write_text("\n".join(lines))
        with pytest.raises(DataError) as error:
            jsonl_dataset(path)
        assert str(error.value).startswith(f"{path}, line {numbers[g]}, vertex {v}: input 'x': ")
        assert said in str(error.value)


def test_of_numbers_at_the_end_of_float32_the_first_that_is_too_large_is_named(
    tmp_path: Path,
) -> None:
    """What rounds to the largest of float32 fits."""
    path, largest = tmp_path / "x", float(np.finfo(np.float32).max)
    rounded = largest * (1 + 2.0**-26)
    for sign in (1, -1):
        line = {"children": [[]] * 3, "inputs": {"x": [sign * rounded, 0.5, sign * 1e39]}}
        path.write_text(json.dumps(line))
        with pytest.raises(DataError, match="vertex 2: input 'x': .*1e.39 is not finite"):
            jsonl_dataset(path)
        line["inputs"]["x"].pop()  # type: ignore[call-overload]
        path.write_text(json.dumps(line | {"children": [[]] * 2}))
        assert jsonl_dataset(path)[0].inputs["x"].values.tolist() == [sign * largest, 0.5]


@pytest.mark.parametrize("reader", ["jsonl", "ptb"])
def test_the_first_label_that_is_no_class_is_named(reader: str, tmp_path: Path) -> None:
    path, words = tmp_path / "x", [f"w{i}" for i in range(30)]
    if reader == "jsonl":
        inputs = {"label": ["A", *words]}
        path.write_text(json.dumps({"children": [[]] * 31, "inputs": inputs}))
    else:
        path.write_text("(A " + " ".join(f"({w} x)" for w in words) + ")")
    read: Any = jsonl_dataset if reader == "jsonl" else ptb_dataset
    first = "vertex 1" if reader == "jsonl" else "vertex 0"  # the root is the last
    with pytest.raises(DataError, match=f"line 1, {first}: .*label 'w0' is none of the 1 class"):
        read(path, classes=("A",))
    for n in (12, 13):  # as many are listed
        with pytest.raises(DataError) as error:
            read(path, classes=[f"c{i}" for i in range(n)])
        assert ("c11, ...." in str(error.value)) == (n == 13), error.value
        assert "c12" not in str(error.value)


# Brackets: a random tree in post-order, written over one line or several.


def random_ptb(rng: np.random.Generator) -> PtbTree:
    tree = PtbTree([], [], [])

    def grow(depth: int) -> int:
        n = 0 if depth == 0 or rng.random() < 0.3 else int(rng.integers(1, 4))
        children = [grow(depth - 1) for _ in range(n)]
        tree.labels.append(int(rng.integers(5)))
        tree.tokens.append(None if n else str(rng.choice(["tea", "The", "-LRB-", "8\u00a0x"])))
        tree.children.append(children)
        return len(tree.labels) - 1

    grow(int(rng.integers(0, 4)))
    return tree


def written(tree: PtbTree, space: Callable[[], str], v: int = -1) -> str:
    """The brackets of vertex v and what is beneath it."""
    inner = tree.tokens[v] or space().join(written(tree, space, c) for c in tree.children[v])
    return f"({tree.labels[v]}{space()}{inner})"


def spaces(rng: np.random.Generator, over_lines: bool) -> Callable[[], str]:
    ways = [" ", "\t", "  ", *(["\n ", "\n\t", "\n\n  "] if over_lines else [])]
    return lambda: str(ways[rng.integers(len(ways))])


@pytest.mark.parametrize("over_lines", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_brackets_there_and_back(seed: int, over_lines: bool, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(seed), tmp_path / "x"
    trees = [random_ptb(rng) for _ in range(6)]
    texts = [written(tree, spaces(rng, over_lines)) for tree in trees]
    path.write_text("\n".join(f"# {i} (\n{text}" for i, text in enumerate(texts)))
    assert list(read_ptb_trees(path, 5)) == trees
    found = ptb_dataset(path, n_classes=5, lower=True, unescape=True, min_count=2)
    assert found.kinds == {"word": "tokens", "label": "integers"} and found.classes is None
    tokens = [t and Spelling(True, True)(t) for tree in trees for t in tree.tokens]
    often = [w for w in WORDS_OF_TREES if tokens.count(w) >= 2]
    assert found.vocab is not None and sorted(found.vocab.tokens[1:]) == sorted(often)
    begins = "\n".join(f"# {i} (\n{text}" for i, text in enumerate(texts))
    starts = [begins[: begins.index(f"# {i} (\n") + 7].count("\n") + 1 for i in range(6)]
    assert list(found.lines) == starts
    for tree, graph in zip(trees, found, strict=True):
        pairs = zip(graph.child_ptr, graph.child_ptr[1:], strict=False)
        assert [graph.child[a:b].tolist() for a, b in pairs] == tree.children
        assert graph.inputs["label"].values.tolist() == tree.labels
        place = {w: i for i, w in enumerate(found.vocab.tokens)}
        spelled = [t and Spelling(True, True)(t) for t in tree.tokens]
        expected = [-1 if t is None else place.get(t, 0) for t in spelled]
        assert graph.inputs["word"].values.tolist() == expected


WORDS_OF_TREES = ["tea", "the", "(", "8\u00a0x"]


@pytest.mark.parametrize("seed", range(20))
def test_a_fault_in_brackets_is_named_by_line_and_column(seed: int, tmp_path: Path) -> None:
    """A label out of range, at a random vertex of trees over several lines."""
    rng, path = np.random.default_rng(seed), tmp_path / "x"
    trees = [random_ptb(rng) for _ in range(4)]
    wrong = trees[rng.integers(4)]
    wrong.labels[int(rng.integers(len(wrong.labels)))] = 7
    text = "\n".join(written(tree, spaces(rng, True)) for tree in trees)
    at = text.index("(7")
    line, column = text[:at].count("\n") + 1, at - (text.rfind("\n", 0, at) + 1) + 1
    path.write_text(text)
    with pytest.raises(DataError) as error:
        list(read_ptb_trees(path, 5))
    assert str(error.value).startswith(f"{path}, line {line}, column {column}: label 7 is out of")


# Word vectors, spelling and batches.


def spelled_slowly(token: str, lower: bool, unescape: bool) -> str:
    if unescape:
        brackets = {"-LRB-": "(", "-RRB-": ")", "-LCB-": "{", "-RCB-": "}"}
        brackets |= {"-LSB-": "[", "-RSB-": "]"}
        token = brackets[token] if token in brackets else token
        token = token.replace("\\/", "/").replace("\\*", "*")
    return token.lower() if lower else token


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("unescape", [False, True])
def test_spellings(lower: bool, unescape: bool) -> None:
    tokens = ["The", "-LRB-", "-RRB-", "-LCB-", "-RCB-", "-LSB-", "-RSB-", "1\\/2", "\\*", "-lrb-"]
    spelling = Spelling(lower, unescape)
    assert [spelling(t) for t in tokens] == [spelled_slowly(t, lower, unescape) for t in tokens]


def test_json_lines_are_spelled_as_the_vocabulary_was() -> None:
    """And written as people read them: what is no ASCII stands as itself."""
    vocab = Vocab(("<unk>", "the", "(", "thé"))
    text = '{"children": [[], [], [], []], "inputs": {"word": ["The", "-LRB-", "thé", null]}}'
    for spelling, expected in ((Spelling(True, True), [1, 2, 3, -1]), (Spelling(), [0, 0, 3, -1])):
        (graph,) = read_graphs("here", [(1, text)], {"word": TOKENS}, vocab, spelling)
        assert graph.inputs["word"].values.tolist() == expected
    assert '["<unk>", "<unk>", "thé", null]' in to_json(graph, {"word": TOKENS}, vocab)


@pytest.mark.parametrize("seed", range(30))
def test_word_vectors_against_a_loop(seed: int, tmp_path: Path) -> None:
    """The first line of a token itself, else of its plain form, else of that in lower case."""
    rng, path = np.random.default_rng(seed), tmp_path / "glove"
    forms = ["The", "the", "-LRB-", "(", "A\\/B", "A/B", "a/b", "x", "X", "<unk>", "no"]
    words = [str(w) for w in rng.choice(forms, 7)]
    vectors = rng.integers(-9, 9, (7, 3)).tolist()
    lines = zip(words, vectors, strict=True)
    path.write_text("\n".join(f"{w} {' '.join(map(str, v))}" for w, v in lines))
    tokens = [t for t in dict.fromkeys(map(str, rng.choice(forms, 8))) if t != "<unk>"]
    vocab = Vocab(("<unk>", *tokens))
    fill = rng.normal(size=(len(vocab), 3)).astype(np.float32)
    rows, n_found = load_glove(path, vocab, 3, fill)
    expected, n = fill.tolist(), 0
    for row, token in enumerate(vocab.tokens):
        plain = spelled_slowly(token, False, True)
        held = [form for form in (token, plain, plain.lower()) if form in words]
        if held and token != "<unk>":
            expected[row], n = vectors[words.index(held[0])], n + 1
    assert rows.tolist() == expected and n_found == n


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 3, 100])
@pytest.mark.parametrize("budget", [None, 9, 20, 1000])
def test_batches_against_a_loop(shuffle: bool, batch_size: int | None, budget: int | None) -> None:
    if batch_size is None and budget is None:
        return
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 10, 23).tolist()
    dataset = Dataset.from_graphs(
        Graph.from_sequence(n, {"i": [i] * n}) for i, n in enumerate(sizes)
    )
    loader = Loader(dataset, batch_size, budget, shuffle, seed=3)
    for epoch in range(3):
        for done in (0, 1, 7, 22, 23, 40):
            expected: list[list[int]] = []
            for i in loader.order(epoch).tolist()[done:]:
                last = expected[-1] if expected else []
                filled = sum(sizes[j] for j in last) + sizes[i]
                full = len(last) == batch_size or (budget is not None and filled > budget)
                if not expected or full:
                    expected.append([])
                expected[-1].append(i)
            assert [part.tolist() for part in loader.parts(epoch, done)] == expected
            made = list(loader.batches(epoch, done))
            assert [b.inputs["i"].values[b.graph_ptr[:-1]].tolist() for b in made] == expected
        assert loader.epoch == epoch and len(loader) == len(list(loader)), "and goes on"


def test_parts_of_a_dataset_know_where_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n\n".join(to_json(Graph.from_sequence(n)) for n in (1, 2, 3, 4)))
    whole = jsonl_dataset(path)
    for part in (whole, whole[1:3], whole[::-1], whole[-2:], whole[3:3]):
        assert len(part.lines) == len(part)
        for i, graph in enumerate(part):
            line = 2 * graph.n_vertices - 1
            assert part.place(i) == f"x.jsonl, line {line}"
            assert part.place(i, 0) == f"x.jsonl, line {line}, vertex 0"
    assert Dataset.from_graphs(whole).place(2, 0) == "dataset, graph 2, vertex 0"
    assert Dataset.from_graphs(whole, "dev").place(1, 3) == "dev, graph 1, vertex 3"
