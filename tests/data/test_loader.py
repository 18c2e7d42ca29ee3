"""Vocabulary, word vectors, datasets and the order of batches."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_cavs.data.dataset import Dataset, build_graphs
from tvm_cavs.data.glove import load_glove
from tvm_cavs.data.loader import Loader
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import DataError, GraphError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph


def chains(n: int = 23) -> Dataset:
    """Graph i is a chain of i % 5 + 1 vertices whose input "id" is i."""
    return Dataset.from_graphs(
        Graph.from_sequence(i % 5 + 1, {"id": [i] * (i % 5 + 1)}) for i in range(n)
    )


def ids(graph: Graph) -> list[int]:
    return [int(i) for i in graph.inputs["id"].values[graph.graph_ptr[:-1]]]


def test_an_epoch_holds_every_graph_once_and_is_a_function_of_seed_and_epoch() -> None:
    loader = Loader(chains(), batch_size=4, seed=7)
    first, second = [[ids(b) for b in loader] for _ in range(2)]
    assert sorted(sum(first, [])) == list(range(23)) == sorted(sum(second, []))
    assert [len(b) for b in first] == [4, 4, 4, 4, 4, 3] and len(loader) == 6
    assert first != second and loader.epoch == 2
    assert str(loader).endswith("inputs id), batches of 4 graphs at most, epoch 2)")
    again = Loader(chains(), batch_size=4, seed=7)
    assert [ids(b) for b in again.batches(1)] == second
    assert [ids(b) for b in again.batches(1, done=16)] == second[4:]
    again.epoch = 1
    assert [ids(b) for b in again] == second
    assert [ids(b) for b in Loader(chains(), batch_size=4, seed=8)] != first


def test_the_order_is_pinned() -> None:
    """A change here breaks the resume of every stored run."""
    assert Loader(chains(8), batch_size=8, seed=1).order(3).tolist() == PINNED


PINNED = [0, 5, 1, 2, 6, 7, 4, 3]


@pytest.mark.parametrize("batch_size", [None, 3])
def test_a_vertex_budget_is_kept_and_filled(batch_size: int | None) -> None:
    loader = Loader(chains(), batch_size=batch_size, vertex_budget=11, seed=2)
    batches = list(loader.batches(0))
    assert len(batches) == len(loader)
    assert sorted(i for b in batches for i in ids(b)) == list(range(23))
    assert all(b.n_vertices <= 11 and b.n_graphs <= (batch_size or 99) for b in batches)
    for b, after in zip(batches, batches[1:], strict=False):
        next_size = int(after.graph_ptr[1])
        assert b.n_vertices + next_size > 11 or b.n_graphs == batch_size


def test_a_budget_may_be_the_largest_graph_and_epochs_differ_in_batches() -> None:
    loader, lengths = Loader(chains(), vertex_budget=5, seed=2), set()
    for epoch in range(8):
        n = len(loader)
        assert loader.epoch == epoch and n == len(list(loader))
        lengths.add(n)
    assert len(lengths) > 1


def test_without_shuffling_the_order_of_the_file_stays() -> None:
    loader = Loader(chains(5), batch_size=2, shuffle=False)
    assert [ids(b) for b in loader] == [[0, 1], [2, 3], [4]] == [ids(b) for b in loader]


def test_bad_loaders() -> None:
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "a Loader needs batch_size, vertex_budget or both"),
        ({"batch_size": 1.5}, "batch_size must be an integer of 1 or more, got 1.5"),
        ({"batch_size": True}, "batch_size must be an integer of 1 or more, got True"),
        ({"batch_size": 2, "seed": -1}, "seed must be an integer of 0 or more, got -1"),
        ({"batch_size": 2, "seed": None}, "seed must be an integer of 0 or more, got None"),
        ({"vertex_budget": -2}, "vertex_budget must be an integer of 1 or more, got -2"),
        ({"batch_size": 0}, "batch_size must be an integer of 1 or more, got 0"),
        ({"vertex_budget": 4}, "^dataset: graph 4 has 5 vertices, more than vertex_budget=4"),
    )
    for arguments, message in bad:
        with pytest.raises(DataError, match=message):
            Loader(chains(), **arguments)
    with pytest.raises(DataError, match="a Loader takes a Dataset, got list"):
        Loader([Graph.from_children([[]])], batch_size=1)  # type: ignore[arg-type]
    for epoch in (-1, 2.5, "3"):
        with pytest.raises(DataError, match=f"epoch is an integer of 0 or more, got {epoch!r}"):
            Loader(chains(), batch_size=1).parts(epoch)  # type: ignore[arg-type]
    assert [len(p) for p in Loader(chains(3), batch_size=99).parts(0)] == [3]
    budgeted = Loader(chains(), vertex_budget=6)
    assert str(budgeted).endswith("inputs id), batches of 6 vertices at most, epoch 0)")
    with pytest.raises(DataError, match="^dev: graph 2 has 3 vertices, more than vertex_budget=2"):
        Loader(Dataset(chains(3).graphs, "dev"), vertex_budget=2)
    with pytest.raises(DataError, match="^dev has no graphs"):
        Loader(Dataset((), "dev"), batch_size=1)


def test_integers_of_numpy_are_as_good_as_those_of_python() -> None:
    size, budget, seed, epoch = np.array([4, 9, 7, 1], "int16")
    loader = Loader(chains(), batch_size=size, vertex_budget=budget, seed=seed)
    plain = Loader(chains(), batch_size=4, vertex_budget=9, seed=7)
    assert [p.tolist() for p in loader.parts(epoch)] == [p.tolist() for p in plain.parts(1)]


def test_a_dataset_numbers_its_vertices_and_can_be_cut() -> None:
    dataset = chains(6)
    assert batch(dataset.graphs).vertex_id.tolist() == list(range(dataset.n_vertices))
    assert [ids(g) for g in dataset[4:]] == [[4], [5]]
    assert dataset[-1] is dataset.graphs[5] and len(dataset[:2]) == 2
    assert str(dataset) == "Dataset(dataset: 6 graphs, 16 vertices, inputs id)"


def test_build_graphs_equals_one_by_one() -> None:
    children: list[list[list[int | None]]] = [[[], [0, None, 0]], [[]], [[1], [], [-1, 0]]]
    inputs = {"x": [1, None, 3, None, 5, 6]}
    graphs = build_graphs(children, inputs)
    for start, one, own in zip((0, 2, 3), children, graphs, strict=True):
        alone = Graph.from_children(one)
        np.testing.assert_array_equal(alone.child, own.child)
        np.testing.assert_array_equal(alone.level, own.level)
        assert own.inputs["x"].present.tolist() == [
            x is not None for x in inputs["x"][start : start + len(one)]
        ]
    with pytest.raises(GraphError, match="graph 1 of the batch, vertex 0: child -3 in slot 0"):
        build_graphs([[[]] * 5, [[-3]]], {})
    with pytest.raises(GraphError, match="graph 1 of the batch is empty"):
        build_graphs([[[]], []], {})


@pytest.mark.parametrize("children", [3, [3], [[3]], [[[], None]]])
def test_children_that_are_no_lists_are_told(children: Any) -> None:
    what = "NoneType" if children == [[[], None]] else "int"
    with pytest.raises(
        GraphError, match="children: expected for every graph and every vertex a"
    ) as e:
        build_graphs(children, {})
    assert str(e.value).endswith(f" a list of its children ('{what}' object is not iterable)")


def test_vocab() -> None:
    vocab = Vocab.build("b a b c <unk> <unk> a b".split(), min_count=2)
    assert vocab.tokens == ("<unk>", "b", "a") and len(vocab) == 3
    indices = vocab.index(["a", "zzz", "b"])
    assert indices.dtype == np.int32 and indices.tolist() == [2, 0, 1]
    assert vocab.words(indices) == ["a", "<unk>", "b"]
    assert vocab.words([]) == [] and vocab.words(np.zeros(0)) == []
    assert Vocab(tuple(vocab.to_list())) == vocab
    for given, first in (((), "()"), (("a",), "('a',)"), (("b", "<unk>"), "('b',)")):
        with pytest.raises(DataError, match=re.escape(f"begins with '<unk>', got {first}.")):
            Vocab(given)
    with pytest.raises(DataError, match="the token 'a' stands twice"):
        Vocab(("<unk>", "x", "a", "b", "a", "c"))


@pytest.mark.parametrize("token", [None, 1, b"tea", ["tea"]])
@pytest.mark.parametrize("at", [0, 1])
def test_what_is_no_text_is_no_token(token: Any, at: int) -> None:
    """Nothing at all is none either, wherever it stands."""
    given = ["<unk>", "the"]
    given.insert(at, token)
    said = f"{token!r} ({type(token).__name__})"
    with pytest.raises(DataError, match=re.escape(f"a token is text, got {said}.")):
        Vocab.build(given, 1)


def test_guesses_about_vocabularies() -> None:
    """What Python would take in silence: one text as letters, -1 as the last token."""
    vocab = Vocab(("<unk>", "a", "b"))
    with pytest.raises(DataError, match="expected a list of tokens, got 'ab'"):
        vocab.index("ab")
    with pytest.raises(DataError, match="a token is text, got 1"):
        Vocab.build(["a", 1])  # type: ignore[list-item]
    with pytest.raises(DataError, match="min_count must be an integer of 1 or more, got 0"):
        Vocab.build(["a"], 0)
    with pytest.raises(DataError, match="index -1 is not in the vocabulary; expected 0..2"):
        vocab.words([1, -1])
    with pytest.raises(DataError, match=r"index 4 is not in the vocabulary; expected 0\.\.0\."):
        Vocab(("<unk>",)).words([0, 4])
    with pytest.raises(DataError, match=r"index 3 is not in the vocabulary; expected 0\.\.2\."):
        vocab.words(np.array([1, 3, -1]))
    for indices in (2, [[1]], [0.5], [[1], [2, 0]]):
        with pytest.raises(DataError, match=re.escape(f", got {indices!r}.")):
            vocab.words(indices)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="entry 2 is 5. Make graphs"):
        Dataset.from_graphs([*chains(2), 5, 6])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"a Dataset takes a list of graphs, got 5\.$"):
        Dataset.from_graphs(5)  # type: ignore[arg-type]


def test_word_vectors(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2\nthe 9 9\n( 3 4\nfilm -0.5 1e-1\nThe 7 8\nother 0 0\n")
    vocab = Vocab(("<unk>", "The", "the", "FILM", "-LRB-", "none"))
    rows, n_found = load_glove(path, vocab, 2)
    assert rows.dtype == np.float32 and n_found == 4
    expected: list[list[float]] = [[0, 0], [7, 8], [1, 2], [-0.5, 0.1], [3, 4], [0, 0]]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    fill = np.full((6, 2), 5, np.float32)
    filled, _ = load_glove(path, vocab, 2, fill)
    assert filled[5].tolist() == [5, 5] and filled[2].tolist() == [1, 2] and (fill == 5).all()
    with pytest.raises(DataError, match="line 1: 2 values after the word; expected 3"):
        load_glove(path, vocab, 3)
    path.write_text("\ufeffthe 1 2\n. . . 3 4\n. 5 6 \nfilm 7 8", encoding="utf-8")
    rows, n_found = load_glove(path, Vocab(("<unk>", "the", ".", "film")), 2)
    assert rows.tolist() == [[0, 0], [1, 2], [5, 6], [7, 8]] and n_found == 3
    for bad in ("nan", "inf", "1e39"):
        path.write_text(f"a 1 2\nthe {bad} inf\n")
        with pytest.raises(DataError, match=f"line 2: the value '{bad}' is not a finite number"):
            load_glove(path, vocab, 2)
    with pytest.raises(DataError, match=r"fill has shape \(2,\); expected \(6, 2\)"):
        load_glove(path, vocab, 2, np.zeros(2, np.float32))
    with pytest.raises(DataError, match="width must be an integer in 1..1048576, got 0"):
        load_glove(path, vocab, 0)
    path.write_text("a 1 2\nthe 1 2 3\n")
    with pytest.raises(DataError, match="line 2: 3 values after the word; expected 2"):
        load_glove(path, vocab, 2)
    path.write_text("this is no file of vectors\nthe 1 2\n")
    with pytest.raises(DataError, match="line 1: 5 values after the word; expected 2"):
        load_glove(path, vocab, 2)
    path.write_text("a 1 2\nthe 1 x\n")
    with pytest.raises(DataError) as error:
        load_glove(path, vocab, 2)
    told = "a value is not a number (could not convert string to float: 'x')."
    assert str(error.value) == f"{path}, line 2: {told}"
