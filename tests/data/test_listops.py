"""ListOps: the rules against an independent evaluator and the official test file."""

import lzma
import re
from pathlib import Path

import numpy as np
import pytest

from helpers.real_data import real_data
from tvm_cavs.data.listops import evaluate, generate, read_listops_tsv
from tvm_cavs.data.listops_trees import LISTOPS_VOCAB, listops_dataset
from tvm_cavs.errors import DataError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import Graph, check

EXPRESSION = "[MAX 3 [SM 8 9 ] 1 ]"
BRACKETS = "( ( ( ( [MAX 3 ) ( ( ( [SM 8 ) 9 ) ] ) ) 1 ) ] )"


def to_text(graph: Graph, vertex: int | None = None) -> str:
    """A binary graph in the official brackets."""
    vertex = graph.n_vertices - 1 if vertex is None else vertex
    slots = graph.child[graph.child_ptr[vertex] : graph.child_ptr[vertex + 1]].tolist()
    if not slots:
        return LISTOPS_VOCAB.tokens[int(graph.inputs["word"].values[vertex])]
    return f"( {to_text(graph, slots[0])} {to_text(graph, slots[1])} )"


def slow_value(text: str) -> int:
    """The value of binary brackets or of an unfinished one, by rewriting the innermost list."""
    text = " ".join(piece for piece in text.split() if piece not in "()")
    text += " ]" * (text.count("[") - text.count("]"))
    innermost = re.compile(r"\[(\w+) ([\d ]+) \]")
    while match := innermost.search(text):
        values = [int(digit) for digit in match.group(2).split()]
        value = {
            "MIN": min(values),
            "MAX": max(values),
            "SM": sum(values) % 10,
            "MED": int(np.median(values)),
        }[match.group(1)]
        text = text[: match.start()] + str(value) + text[match.end() :]
    return int(text)


def test_the_example_in_both_forms() -> None:
    graph = listops_dataset([EXPRESSION]).graphs[0]
    assert to_text(graph) == BRACKETS
    assert graph.n_vertices == 15 and graph.arity == 2
    assert graph.inputs["list_label"].values[graph.inputs["list_label"].present].tolist() == [7, 7]
    nary = listops_dataset([EXPRESSION], form="nary").graphs[0]
    assert nary.child_ptr.tolist() == [0, 0, 0, 0, 2, 2, 5]
    assert nary.child.tolist() == [1, 2, 0, 3, 4]
    words = nary.inputs["word"].values
    assert LISTOPS_VOCAB.words(words) == ["3", "8", "9", "[SM", "1", "[MAX"]
    assert nary.inputs["label"].values.tolist() == [3, 8, 9, 7, 1, 7]
    assert nary.inputs["list_label"].values.tolist() == [-1, -1, -1, 7, -1, 7]


@pytest.mark.parametrize("form", ["binary", "nary"])
def test_every_label_equals_an_independent_value(form: str) -> None:
    texts = generate(60, seed=3, max_tokens=60)
    dataset = listops_dataset(texts, form)
    check(batch(dataset.graphs))
    for text, graph in zip(texts, dataset, strict=True):
        label, whole = graph.inputs["label"], graph.inputs["list_label"]
        assert label.values[-1] == slow_value(text) == evaluate(text)
        np.testing.assert_array_equal(label.values[whole.present], whole.values[whole.present])
        assert whole.present.sum() == text.count("]")
        if form == "nary":
            assert label.present.all() and graph.n_vertices == len(re.findall(r"\[|\d", text))
            continue
        for vertex in range(graph.n_vertices):
            part = to_text(graph, vertex)
            has_value = part not in ("]", "[MIN", "[MAX", "[MED", "[SM")
            assert label.present[vertex] == has_value
            if has_value:
                assert label.values[vertex] == slow_value(part), part


def test_generation_follows_the_rules() -> None:
    texts = generate(3000, seed=1)
    assert texts == generate(3000, seed=1)
    assert texts != generate(3000, seed=2)
    assert len(set(texts)) == 3000
    assert generate(3, seed=0, max_tokens=12, pool=300) == GENERATED
    whole = listops_dataset(texts, form="nary")
    sizes = np.diff(batch(whole.graphs).child_ptr)
    share = np.bincount(sizes, minlength=6)[2:] / np.count_nonzero(sizes)
    assert np.all(np.abs(share - 0.25) < 0.04) and sizes.max() == 5
    names = np.array(
        [text.count(name) for name in ("[MIN", "[MAX", "[MED", "[SM") for text in texts]
    )
    assert np.all(np.abs(names.reshape(4, -1).sum(axis=1) / names.sum() - 0.25) < 0.03)


GENERATED = ["[SM 7 7 1 6 ]", "[MAX 4 9 ]", "[MAX 1 5 7 0 ]"]


def test_limits_and_exclusion() -> None:
    first = generate(500, seed=5, max_tokens=20)
    assert max(text.count(" ") + 1 for text in first) <= 20
    second = generate(500, seed=5, max_tokens=20, exclude=set(first))
    assert not set(first) & set(second)
    assert max(graph.level.max() for graph in listops_dataset(generate(50, 0, max_depth=2))) <= 6
    with pytest.raises(DataError, match="draws gave 10 distinct expressions of the 11 asked for"):
        generate(11, seed=0, max_tokens=1)
    told = "listops: 12019 draws gave 10 .* the 12 asked for with max_tokens=3, max_depth=7. Raise"
    with pytest.raises(DataError, match=told):
        generate(12, seed=0, max_tokens=3, max_depth=7)
    with pytest.raises(DataError, match="cannot take n=5 from pool=4 at max_depth=9; expected 0"):
        generate(5, seed=0, pool=4, max_depth=9)


BAD_EXPRESSIONS = {
    "word": ("[MAX 3 [SUM 1 2 ] ]", "token 3: unknown '[SUM'; did you mean '[SM'?"),
    "open": ("[MAX 3 [SM 1 2 ]", "unbalanced: 1 operators are never closed by ']'"),
    "three open": ("[MAX 3 [SM 1 [MIN 2", "unbalanced: 3 operators are never closed by ']'"),
    "close": ("3 ]", "token 2: unbalanced ']' without its operator"),
    "late close": ("[MAX 3 4 ] ]", "token 5: unbalanced ']' without its operator"),
    "late bare": ("[MAX 3 [SM ] ]", "token 4: an operator is closed that has no arguments"),
    "bare": ("[MAX ]", "token 2: an operator is closed that has no arguments"),
    "two": ("3 4", "2 expressions in a row; expected one"),
    "three": ("3 4 5", "3 expressions in a row; expected one"),
    "range": ("[MAX 3 12 ]", "token 3: unknown '12'"),
}


@pytest.mark.parametrize("name", BAD_EXPRESSIONS)
def test_bad_expressions(name: str, tmp_path: Path) -> None:
    text, message = BAD_EXPRESSIONS[name]
    with pytest.raises(DataError) as error:
        listops_dataset(["4", text])
    assert f"listops: expression 1, {text!r}: {message}" in str(error.value)
    path = tmp_path / "listops.tsv"
    path.write_text(f"7\t{BRACKETS}\n1\t{text}\n")
    with pytest.raises(DataError) as error:
        read_listops_tsv(path)
    assert f"{path}, line 2: {message}" in str(error.value)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "listops.tsv"
    path.write_text(f"7\t{BRACKETS}\n8\t{BRACKETS}\n")
    with pytest.raises(DataError, match=r"ops\.tsv, line 2: the label is '8', but .* is 7\.$"):
        read_listops_tsv(path)
    path.write_text(f" 7 \t{BRACKETS}\n7\t(  {BRACKETS} )\n")
    assert len(set(read_listops_tsv(path))) == 1
    path.write_text(f"7\t{BRACKETS}\n\n{BRACKETS}")
    with pytest.raises(DataError, match="tsv, line 3: no tab; expected value<TAB>expression"):
        read_listops_tsv(path)
    path.write_text("")
    with pytest.raises(DataError, match="listops.tsv is empty"):
        read_listops_tsv(path)
    with pytest.raises(DataError, match="unknown form 'bin'; did you mean 'binary'"):
        listops_dataset(["1"], form="bin")


def test_the_official_file_has_our_values_and_our_brackets() -> None:
    path = real_data("listops/test_d20s.tsv.xz")
    texts = read_listops_tsv(path)  # raises where a value differs
    assert len(texts) == len(set(texts)) == 10_000
    assert max(text.count(" ") + 1 for text in texts) == 939
    dataset = listops_dataset(texts)
    roots = [graph.inputs["label"].values[-1] for graph in dataset]
    assert np.bincount(roots).tolist() == [1127, 1038, 967, 978, 991, 969, 895, 930, 964, 1141]
    with lzma.open(path, "rt") as lines:
        for graph, line in zip(dataset[:500], lines, strict=False):
            assert to_text(graph) == line.rstrip("\n").split("\t")[1]


IMPOSSIBLE = {
    "digits only": ({"n": 11, "max_tokens": 3}, "gave 10 distinct expressions of the 11"),
    "many digits": ({"n": 10**9, "max_tokens": 1}, "gave 10 distinct expressions"),
    "seed": ({"n": 3, "seed": -1}, "seed: expected a whole number from 0 .* given -1"),
    "no seed": ({"n": 3, "seed": None}, "seed: expected a whole number .* given None"),
    "tokens": ({"n": 3, "max_tokens": 0}, "max_tokens: .* from 1 .* given 0"),
    "half": ({"n": 2.5}, "n: expected a whole number .* given 2.5"),
    "depth": ({"n": 2, "max_depth": 0}, "max_depth: .* from 1 .* given 0"),
    "too deep": ({"n": 2, "max_depth": 101}, r"at max_depth=101; .* max_depth in 1\.\.100"),
    "text": ({"n": 2, "exclude": "12"}, "exclude takes a set of expressions, got '12'"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_generated(name: str) -> None:
    arguments, message = IMPOSSIBLE[name]
    with pytest.raises(DataError, match=message):
        generate(**{"seed": 0, **arguments})


def test_all_that_there_are() -> None:
    assert sorted(generate(10, 0, max_tokens=1)) == [str(digit) for digit in range(10)]
    assert generate(0, 0) == []
    assert len(generate(1, 0, max_depth=100)) == 1
    with pytest.raises(DataError, match="no expressions; expected at least one"):
        listops_dataset([])
    with pytest.raises(DataError, match="expected a list of expressions, got '3'"):
        listops_dataset("3")
    with pytest.raises(DataError, match="expression 2, 7: expected the text of .*, got 7"):
        listops_dataset(["3", "4", 7])  # type: ignore[list-item]
    with pytest.raises(DataError, match="unknown form 9; expected one of binary, nary"):
        listops_dataset(["3"], form=9)  # type: ignore[arg-type]
