"""Bracketed trees: structure, the counts of the Stanford Sentiment Treebank, every bad line."""

import gzip
import lzma
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from helpers.real_data import real_data
from tvm_cavs.data.ptb import parse_ptb_tree, ptb_dataset, read_ptb_trees
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import DataError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.graph import check

TOASTER = "(3 (2 (2 The) (2 toaster)) (3 (3 works) (2 .)))"


def write(folder: Path, text: str) -> Path:
    path = folder / "trees.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_tree_becomes_a_graph(tmp_path: Path) -> None:
    dataset = ptb_dataset(write(tmp_path, f"{TOASTER}\n\n(1 no)\n"), n_classes=5)
    graph, single = dataset.graphs
    assert dataset.vocab == Vocab(("<unk>", ".", "The", "no", "toaster", "works"))
    assert graph.child_ptr.tolist() == [0, 0, 0, 2, 2, 2, 4, 6]
    assert graph.child.tolist() == [0, 1, 3, 4, 2, 5]
    assert graph.inputs["word"].values.tolist() == [2, 4, -1, 5, 1, -1, -1]
    assert graph.inputs["label"].values.tolist() == [2, 2, 2, 3, 2, 3, 3]
    assert single.inputs["word"].values.tolist() == [3]
    assert np.concatenate([graph.vertex_id, single.vertex_id]).tolist() == list(range(8))
    check(batch(dataset.graphs))
    assert str(dataset) == (
        "Dataset(trees.txt: 2 graphs, 8 vertices, inputs word, label, 6 tokens)"
    )


def test_unknown_words_rare_words_and_case(tmp_path: Path) -> None:
    path = write(tmp_path, "(0 (1 a) (1 (1 A) (1 b)))\n")
    dev = ptb_dataset(path, vocab=Vocab(("<unk>", "b")))
    assert dev.graphs[0].inputs["word"].values.tolist() == [0, 0, 1, -1, -1]
    folded = ptb_dataset(path, min_count=2, lower=True)
    assert folded.vocab == Vocab(("<unk>", "a"))


def test_a_no_break_space_is_part_of_a_token() -> None:
    tree = parse_ptb_tree("(2 (2 8\u00a01\\/2)\t(1 ( 0 x ) ) )")
    assert tree.tokens == ["8\u00a01\\/2", "x", None, None]
    assert tree.children == [[], [], [1], [0, 2]]


def test_a_deep_tree_needs_no_recursion(tmp_path: Path) -> None:
    depth = 20_000
    text = "(1 " * depth + "(0 x)" + ")" * depth
    graph = ptb_dataset(write(tmp_path, text)).graphs[0]
    assert graph.level[-1] == depth


BAD_LINES = {
    "open": ("(1 (2 a)", "line 2, column 1: unbalanced '(' is never closed (1 open at the end)"),
    "close": ("(1 a))", "line 2, column 6: unbalanced ')' without its '('"),
    "label": (
        "(x a)",
        "line 2, column 1: expected an integer label after '(', got 'x'. Leave n_classes out",
    ),
    "digits": (
        "(" + "9" * 5000 + " a)",
        "line 2, column 1: expected an integer label after '(', got",
    ),
    "no label": (
        "(2 (1 b) ((1 a)))",
        "line 2, column 10: expected an integer label after '(', got '('.",
    ),
    "cut": (
        "(",
        "line 2, column 1: expected an integer label after '(', got 'the end of the line'",
    ),
    "range": ("(4 (5 a) (1 b))", "line 2, column 4: label 5 is out of range; expected 0..4"),
    "negative": ("(-1 a)", "line 2, column 1: expected an integer label after '(', got '-1'"),
    "bare leaf": ("(1 (2 ) (1 b))", "line 2, column 4: a leaf holds 0 tokens"),
    "two tokens": ("(1 a b)", "line 2, column 1: a leaf holds 2 tokens; expected exactly one"),
    "mixed": ("(1 a (1 b))", "line 2, column 1: a vertex holds both children and the token 'a'"),
    "outside": ("word", "line 2, column 1: 'word' stands outside any bracket"),
    "two trees": ("(1 a) (1 b)", "line 2, column 7: a second tree begins"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines(name: str, tmp_path: Path) -> None:
    line, message = BAD_LINES[name]
    path = write(tmp_path, f"(1 a)\n{line}\n")
    with pytest.raises(DataError) as error:
        list(read_ptb_trees(path, n_classes=5))
    assert f"{path}, {message}" in str(error.value)


FORMS = {  # how treebanks are written: tokens, labels in post-order
    "pretty": (
        "(3\n  (2 The)\n\n  (4 tea))\n(1 (1 no) (2 way))",
        "The tea no way",
        [2, 4, 3, 1, 2, 1],
    ),
    "outer": ("( (3 (2 The) (4 tea)) )", "The tea", [2, 4, 3]),
    "windows": ("\ufeff(3 (2 The) (4 tea))\r\n(1 no)\r\n", "The tea no", [2, 4, 3, 1]),
    "comment": ("# id (1\n(1 no)", "no", [1]),
    "no comment": ("(1 (2\n#) (3 no))\n# (2 x)\n(4 x)", "# no x", [2, 3, 1, 4]),
    "indented": (" (1 no)\n\t(2 x)\n  (3\n (4 tea))", "no x tea", [1, 2, 4, 3]),
    "words": ("(S (NP (DT the) (NN tea)) (VP x))", "the tea x", [0, 1, 2, 4, 3]),
    "fraction": ("(0.5 (1 The) (-2e-1 tea))", "The tea", [1.0, -0.2, 0.5]),
    "escapes": ("(1 (1 -LRB-) (1 1\\/2))", "( 1/2", [1, 1, 1]),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_treebanks(name: str, tmp_path: Path) -> None:
    text, tokens, labels = FORMS[name]
    dataset = ptb_dataset(write(tmp_path, text), unescape=name == "escapes")
    whole = batch(dataset.graphs)
    words, given = whole.inputs["word"], whole.inputs["label"].values
    assert dataset.vocab is not None
    assert dataset.vocab.words(words.values[words.present]) == tokens.split()
    np.testing.assert_allclose(given, labels, rtol=1e-6)
    assert dataset.classes == (("DT", "NN", "NP", "S", "VP") if name == "words" else None)


def test_one_kind_of_label(tmp_path: Path) -> None:
    """Numbers and words are not mixed, and an unseen word is no class."""
    with pytest.raises(DataError, match="s.txt, line 2, vertex 1: .*'NP' is a token in a list of"):
        ptb_dataset(write(tmp_path, "(1 a)\n(NP (1 b))"))
    with pytest.raises(DataError, match="line 1, vertex 1: .*label 'S' is none of the 2 classes"):
        ptb_dataset(write(tmp_path, "(S (NP b))"), classes=("NP", "VP"))
    with pytest.raises(DataError, match="line 1, vertex 0: .*1 stands where tokens .* expected"):
        ptb_dataset(write(tmp_path, "(1 a)"), classes=("1",))
    with pytest.raises(DataError, match=f"line 2, vertex 0: .*{'9' * 23} does not fit int32"):
        ptb_dataset(write(tmp_path, f"(1 a)\n({'9' * 23} b)"))
    with pytest.raises(DataError, match="line 1, column 1: expected a label"):
        ptb_dataset(write(tmp_path, f"({'9' * 5000} b)"))
    with pytest.raises(DataError, match="line 2, column 1: unbalanced .* never closed"):
        ptb_dataset(write(tmp_path, "(1 a)\n(1 (2 b)\n(1 c))"))
    with pytest.raises(DataError, match=r"line 5, column 2: label 7 .*; expected 0\.\.3\. Is"):
        ptb_dataset(write(tmp_path, "(1 a)\n(3\n\n  (2 b)\n (7 c) x)"), n_classes=4)
    with pytest.raises(DataError, match="^column 1: no tree; expected brackets such as"):
        parse_ptb_tree("  ")
    for wrong in (7, ["(1 a)"]):
        with pytest.raises(DataError, match=f"the text of a tree, got {re.escape(repr(wrong))}"):
            parse_ptb_tree(wrong)  # type: ignore[arg-type]


def test_what_may_stand_for_a_label() -> None:
    """A word of up to 60 letters; no bracket, and not the end."""
    assert parse_ptb_tree(f"({'N' * 60} tea)").labels == ["N" * 60]
    tree = parse_ptb_tree("(-1 (+2 a) (03 (1. b) (-.5e1 (1e d)) (- c)))")
    assert tree.labels == [2.0, 1.0, "1e", -5.0, "-", 3, -1]
    assert [type(label) for label in tree.labels] == [float, float, str, float, str, int, int]
    for text in (f"({'N' * 61} tea)", "(", "(1 a) (", "((", "()"):
        with pytest.raises(DataError, match="column [17]: (expected a label after|a second tree)"):
            parse_ptb_tree(text)


def test_the_bracket_that_is_never_closed_is_the_last_one_open() -> None:
    """Of every beginning of a tree that ends in the midst of it."""
    text = "(1 (2 a) (3 (4 b) (5 c)))"
    for end in range(2, len(text)):
        if text[end - 1] in " (":
            continue
        open_ = []
        for at, letter in enumerate(text[:end]):
            if letter == "(":
                open_.append(at + 1)
            elif letter == ")":
                open_.pop()
        with pytest.raises(
            DataError, match=rf"column {open_[-1]}: .*\({len(open_)} open at the end"
        ):
            parse_ptb_tree(text[:end])


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trees.txt is empty; expected at least one line"):
        ptb_dataset(write(tmp_path, "\n  \n"))
    with pytest.raises(DataError, match="gone.txt cannot be read: No such file"):
        ptb_dataset(tmp_path / "gone.txt")
    packed = tmp_path / "gone.txt.xz"
    packed.write_bytes(lzma.compress(f"{TOASTER}\n".encode() * 2000))
    assert len(ptb_dataset(packed)) == 2000
    with pytest.raises(DataError, match=r"Did you mean .*gone.txt.xz\?"):
        ptb_dataset(tmp_path / "gone.txt")
    packed.write_bytes(packed.read_bytes()[:-40])
    with pytest.raises(DataError, match="gone.txt.xz, after line .*: damaged or truncated xz"):
        ptb_dataset(packed)
    packed.write_bytes(gzip.compress(b"(1 a)\n(2 b)"))  # no line feed at the end
    assert len(ptb_dataset(packed)) == 2
    for content, what in ((b"PK\x03\x04", "a zip archive"), (b"\xff\xfe(", "UTF-16 text")):
        packed.write_bytes(content)
        with pytest.raises(DataError, match=f"{packed} is {what}; expected lines of.*Unpack"):
            ptb_dataset(packed)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        ptb_dataset(tmp_path)
    with pytest.raises(DataError, match="cannot be read: .*null"):
        ptb_dataset("a\0b")
    packed.write_bytes(b"(1 \xff)")
    with pytest.raises(DataError, match="not UTF-8 text"):
        ptb_dataset(packed)
    with pytest.raises(DataError, match=r"trees\.txt holds comments only; expected at least one"):
        ptb_dataset(write(tmp_path, "# (1 a)\n\n# (2 b)\n"))


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """As from `<(zcat trees.gz)`: it can be opened once and cannot be read again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("(1 a)\n(2 b)\n",))
    writer.start()
    assert len(ptb_dataset(pipe)) == 2
    writer.join()


SST = {  # trees, vertices, leaves, deepest, most leaves, root labels
    "train": (8544, 318582, 163563, 29, 52, [1092, 2218, 1624, 2322, 1288]),
    "dev": (1101, 41447, 21274, 27, 49, [139, 289, 229, 279, 165]),
    "test": (2210, 82600, 42405, 28, 56, [279, 633, 389, 510, 399]),
}


@pytest.mark.parametrize("split", SST)
def test_counts_of_the_sentiment_treebank(split: str) -> None:
    dataset = ptb_dataset(real_data(f"sst/{split}.txt.xz"), n_classes=5)
    whole = batch(dataset.graphs)
    words, labels = whole.inputs["word"], whole.inputs["label"]
    leaves = np.add.reduceat(words.present, whole.graph_ptr[:-1])
    assert SST[split] == (
        len(dataset),
        whole.n_vertices,
        int(words.present.sum()),
        int(whole.level.max()),
        int(leaves.max()),
        np.bincount(labels.values[whole.roots]).tolist(),
    )
    assert labels.present.all()
    assert set(np.diff(whole.child_ptr)) == {0, 2}
    np.testing.assert_array_equal(words.present, whole.level == 0)
    if split == "train":
        assert np.bincount(labels.values).tolist() == [8245, 34362, 219788, 44194, 11993]
        assert dataset.vocab is not None
        assert sum("\u00a0" in token for token in dataset.vocab.tokens) > 0
