"""Lines of files, plain and packed, against a plain loop; borders of what readers take."""

import bz2
import codecs
import errno
import gzip
import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_cavs.data.columns import check_reading
from tvm_cavs.data.dataset import MOST_VERTICES, Dataset, build_graphs
from tvm_cavs.data.files import OPENERS, read_lines
from tvm_cavs.data.glove import WIDEST, load_glove
from tvm_cavs.data.jsonl import jsonl_dataset, read_objects
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.errors import DataError, GraphError
from tvm_cavs.graph.graph import Graph

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda content: gzip.compress(content, mtime=0),
    "xz": lzma.compress,
}
# what Python's splitlines and strip take for ends and spaces, and a file of lines does not
PIECES = [
    "a",
    "b c",
    " ",
    "\t",
    "\r",
    "\n",
    "\r\n",
    "\n\n",
    "\u00a0",
    "\u2028",
    "\x85",
    "\x0b",
    "é",
]


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("seed", range(12))
def test_lines_against_a_loop(seed: int, packed: str, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(seed), tmp_path / "lines"
    text = "x" + "".join(PIECES[i] for i in rng.integers(len(PIECES), size=60))
    expected = []
    for number, line in enumerate(text.split("\n"), start=1):
        while line.endswith("\r"):
            line = line[:-1]
        if any(letter not in " \t" for letter in line):
            expected.append((number, line))
    mark = "\ufeff" * int(rng.integers(2))
    path.write_bytes(PACKERS[packed]((mark + text).encode()))
    assert list(read_lines(path)) == expected


@pytest.mark.parametrize("packed", ["gzip", "xz"])
def test_damage_anywhere_in_what_is_packed_is_told(packed: str, tmp_path: Path) -> None:
    """Any byte after the mark changed, any end: an error that names the file, or the same lines."""
    path, lines = tmp_path / "x", [(n, f"{n * n} tea toaster") for n in range(1, 9)]
    whole = PACKERS[packed]("\n".join(line for _, line in lines).encode())
    first = next(len(mark) for mark in OPENERS if whole.startswith(mark))
    places = range(first, len(whole))
    damaged = [whole[:at] + bytes([whole[at] ^ 0xA5]) + whole[at + 1 :] for at in places]
    n_refused = 0
    for content in damaged + [whole[:end] for end in places]:
        path.write_bytes(content)
        try:
            found = list(read_lines(path))
        except DataError as error:
            n_refused += 1
            assert str(error).startswith(str(path))
        else:
            assert found == lines
    assert n_refused > 1.5 * len(places)


@pytest.mark.parametrize("n", [0, 10_000])
@pytest.mark.parametrize("packed", PACKERS)
def test_damage_is_told_after_the_last_line_that_was_read(
    packed: str, n: int, tmp_path: Path
) -> None:
    path, found = tmp_path / "x", list[int]()
    whole = PACKERS[packed](b"".join(b"%d\n" % (k * k) for k in range(n)) + b"tea \xff")
    path.write_bytes(whole if packed == "plain" else whole[:-20])
    with pytest.raises(DataError) as error:
        for number, _ in read_lines(path):
            found.append(number)
    told = "not UTF-8 text (invalid start byte)."  # the end of an xz file holds no text
    if packed == "gzip":
        told = (
            "damaged or truncated xz or gzip data (Compressed file ended before the end-of-stream "
            "marker was reached). Fetch it again."
        )
    assert str(error.value) == f"{path}, after line {len(found)}: {told}"
    assert bool(found) == bool(n)


def test_what_ends_the_reading_of_an_open_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a disk that fails at the third line."""

    class Fails(io.StringIO):
        def __next__(self) -> str:
            if self.tell() == 8:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return self.readline()

    path, found = tmp_path / "x", list[int]()
    path.write_text("tea\ntea\ntea\n")
    monkeypatch.setattr("tvm_cavs.data.files._text", lambda path, file: Fails(file.read().decode()))
    with pytest.raises(DataError) as error:
        for number, _ in read_lines(path):
            found.append(number)
    assert found == [1, 2]
    assert str(error.value) == f"{path}, after line 2: cannot be read: Input/output error."


def zipped(content: bytes) -> bytes:
    with io.BytesIO() as made:
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr("x", content)
        return made.getvalue()


NO_TEXT = {
    "a zip archive": zipped(b"tea"),
    "bzip2 data": bz2.compress(b"tea"),
    "zstd data": bytes.fromhex("28b52ffd0403190000746561"),
    "a 7z archive": bytes.fromhex("377abcaf271c0004"),
    "UTF-16 text": codecs.BOM_UTF16_LE + "tea".encode("utf-16-le"),
    "UTF-16 text, high bytes first": codecs.BOM_UTF16_BE + "tea".encode("utf-16-be"),
}


@pytest.mark.parametrize("what", NO_TEXT)
def test_what_is_no_text_is_told_by_its_first_bytes(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(NO_TEXT[what])
    with pytest.raises(DataError) as error:
        list(read_lines(path))
    told = f"{path} is {what.partition(',')[0]}; expected lines of UTF-8 text, plain, .xz or .gz."
    assert str(error.value).startswith(told)


@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_where_only_the_packed_file_is_there_it_is_offered(packed: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.txt"
    path.with_name(f"dev.txt{packed or '.zip'}").touch()
    with pytest.raises(DataError) as error:
        list(read_lines(path))
    offered = f" Did you mean {path}.xz?" if packed == ".xz" else ""
    assert str(error.value) == f"{path} cannot be read: No such file or directory.{offered}"


def test_indices_at_the_ends_of_32_bits_are_read(tmp_path: Path) -> None:
    path, ends = tmp_path / "x", [-(2**31), 2**31 - 1]
    line = {"children": [[]] * 2, "inputs": {"x": ends}}
    path.write_text(json.dumps(line))
    assert jsonl_dataset(path)[0].inputs["x"].values.tolist() == ends
    for wrong in (ends[0] - 1, ends[1] + 1):
        path.write_text(json.dumps(line | {"inputs": {"x": [0, wrong]}}))
        told = rf"vertex 1.* {wrong} does not fit int32 \({ends[0]} to {ends[1]}\)"
        with pytest.raises(DataError, match=told):
            jsonl_dataset(path)


def test_a_child_beyond_all_numbers_is_told() -> None:
    for wrong in (-MOST_VERTICES - 1, MOST_VERTICES + 1):
        with pytest.raises(GraphError, match=f"{wrong} is out of range; no graph has so many"):
            build_graphs([[[], [0, wrong]]], {})
    for wrong in (-MOST_VERTICES, MOST_VERTICES):
        with pytest.raises(GraphError, match=f"vertex 1: child {wrong} in slot 1 is out of range"):
            build_graphs([[[], [0, wrong]]], {})
    for truth in (True, np.True_):
        with pytest.raises(GraphError) as error:
            build_graphs([[[], [0, truth]]], {})  # type: ignore[list-item]
        told = f"children: expected indices (integers) or None, given {truth!r}."
        assert str(error.value) == told


def test_a_value_is_shown_whole_up_to_forty_characters(tmp_path: Path) -> None:
    """Beside tokens, of which one is shown."""
    path = tmp_path / "x"
    for n in range(30, 50):
        word = "w" * (n - 2)  # and its quotes
        path.write_text(json.dumps({"children": [[]] * 2, "inputs": {"x": [1, word]}}))
        with pytest.raises(DataError) as error:
            jsonl_dataset(path)
        shown = str(error.value).partition("input 'x': ")[2].partition(" is a token")[0]
        assert shown == (f"'{word}'" if n <= 40 else f"'{'w' * 23}... ({n} characters)")


def test_the_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    """Not one that stands before it, or after it."""
    path = tmp_path / "x"
    for twice in "abc":
        keys = ", ".join(f'"{key}": []' for key in ("a", "b", "c", twice))
        path.write_text(f'{{"children": [], "inputs": {{{keys}}}}}')
        with pytest.raises(DataError, match=f"line 1: .*key '{twice}' stands twice"):
            jsonl_dataset(path)


def test_graphs_that_were_parsed_are_numbered_by_the_source() -> None:
    with pytest.raises(DataError, match="^a request, graph 7, vertex 1: input 'x': "):
        read_objects(
            "a request", [(7, {"children": [[]] * 2, "inputs": {"x": [1, "a"]}})], {"x": ""}
        )


def test_classes_are_in_alphabetical_order_whatever_comes_first(tmp_path: Path) -> None:
    path, labels = tmp_path / "x", ["tea", "be", "tea", "or", "be"]
    path.write_text(json.dumps({"children": [[]] * 5, "inputs": {"label": labels}}))
    found = jsonl_dataset(path)
    assert found.classes == ("be", "or", "tea")
    assert found[0].inputs["label"].values.tolist() == [2, 0, 2, 1, 0]


ARGUMENTS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"classes": ["a", "b"]}, None),
    ({"classes": ["a", "b", "a"]}, r"classes must be distinct .*; got \['a', 'b', 'a'\]\.$"),
    ({"classes": []}, r"classes must be distinct .*; got \[\]\.$"),
    ({"classes": "ab"}, r"classes must be distinct .*; got 'ab'\.$"),
    ({"classes": ["a", 1]}, r"classes must be distinct .*; got \['a', 1\]\.$"),
    ({"n_classes": 1}, None),
    ({"n_classes": 0}, "n_classes must be an integer of 1 or more, got 0"),
    ({"n_classes": True}, "n_classes must be an integer of 1 or more, got True"),
    ({"min_count": 0}, "min_count must be an integer of 1 or more, got 0"),
    ({"vocab": ["<unk>"]}, r"vocab must be a Vocab, .*; got \['<unk>'\]\.$"),
    ({"kinds": {"x": "tokens", "y": "numbers", "z": "integers"}}, None),
    (
        {"kinds": {"x": "tokens", "y": "words", "z": "rows"}},
        r"^kinds are tokens, integers, numbers, as in train\.kinds; got 'words'\.$",
    ),
]


@pytest.mark.parametrize(("given", "said"), ARGUMENTS)
def test_arguments_of_readers(given: dict[str, Any], said: str | None) -> None:
    usual = {"vocab": None, "n_classes": None, "min_count": 1, "classes": None, "kinds": {}}
    if said is None:
        check_reading(**(usual | given))  # type: ignore[arg-type]
        return
    with pytest.raises(DataError, match=said):
        check_reading(**(usual | given))  # type: ignore[arg-type]


def test_vectors_have_a_width_that_can_be(tmp_path: Path) -> None:
    path = tmp_path / "glove"
    path.write_text("tea 0.5")
    for width in (0, WIDEST + 1, True):
        with pytest.raises(DataError, match=rf"integer in 1\.\.{WIDEST}, got {width}"):
            load_glove(path, Vocab(("<unk>",)), width)
    with pytest.raises(DataError, match=r"1\.\.1048576, got 2\.5\.$"):
        load_glove(path, Vocab(("<unk>",)), 2.5)  # type: ignore[arg-type]


def test_a_dataset_keeps_its_vocabulary_and_tells_it() -> None:
    vocab = Vocab(("<unk>",))
    graphs = [Graph.from_sequence(n, {"word": [0] * n, "x": [0.5] * n}) for n in (2, 3)]
    for made in (
        Dataset.from_graphs(graphs, "mine", vocab),
        Dataset.from_graphs([], "none", vocab),
    ):
        assert made.vocab is vocab and str(made).endswith(", 1 tokens)")
    assert str(Dataset.from_graphs(graphs)).endswith("2 graphs, 5 vertices, inputs word, x)")
    assert str(Dataset(())) == "Dataset(dataset: 0 graphs, 0 vertices, inputs none)"
