"""Draws docs/overview.svg: two trees -> levels -> rows -> kernel calls. Every number is of a plan.

    python scripts/draw_overview.py [FILE]

The text of the file depends on the plan alone, so that a test can compare it with the one that is
kept.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm_cavs as cavs

OUT = Path(__file__).parent.parent / "docs" / "overview.svg"
WORDS = ("very good little film".split(), "you must see it".split())
CHILDREN = (
    [[], [], [0, 1], [], [], [3, 4], [2, 5]],
    [[], [], [], [], [2, 3], [1, 4], [0, 5]],
)
WIDTH, EDGE, RADIUS, CELL = 720, 24, 20, 48
LEAF_X = ((136, 206, 276, 346), (454, 522, 590, 658))
LEVEL_HEIGHT = 74
STYLE = """
.card { fill: #ffffff; stroke: #c9ced6 }
.ink { fill: #16191f } .soft { fill: #4d5561 } .line { stroke: #4d5561 } .tip { fill: #4d5561 }
.call { fill: #eef1f6; stroke: #16191f } .band { fill: #f3f5f8 } .edge { stroke: #16191f }
@media (prefers-color-scheme: dark) {
.card { fill: #1c2027; stroke: #414956 }
.ink { fill: #f1f3f7 } .soft { fill: #b3bbc8 } .line { stroke: #b3bbc8 } .tip { fill: #b3bbc8 }
.call { fill: #2b313c; stroke: #f1f3f7 } .band { fill: #262b34 } .edge { stroke: #f1f3f7 }
}
.level0 { fill: #8ecdf2 } .level1 { fill: #f2b544 }
.level2 { fill: #4fc3a1 } .level3 { fill: #e3a0c8 }
.vertex { stroke: #16191f; stroke-width: 1.5 } .number { fill: #16191f; font-weight: 600 }
.line, .edge { stroke-width: 2; fill: none } .call, .card { stroke-width: 1.5 }
text { font: 19px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
.title { font-size: 23px; font-weight: 700 } .small { font-size: 17px } .fine { font-size: 16px }
.middle { text-anchor: middle }
""".strip()


class Phrase(cavs.VertexFunction):
    """The vertex function of the tutorial: a phrase mixes the vectors of its two parts."""

    def __init__(self, n_words: int, width: int) -> None:
        self.state = {"h": width}
        self.E = cavs.Parameter((n_words, width))
        self.U = cavs.Parameter((2 * width, width))
        self.b = cavs.Parameter((width,))
        self.V = cavs.Parameter((width, 2))

    def forward(self, v: cavs.Vertex) -> None:
        left, right = v.gather(0).h, v.gather(1).h
        word = cavs.embedding(v.pull("word"), self.E)
        h = cavs.tanh(word + cavs.concat(left, right) @ self.U + self.b)
        v.scatter(h=h)
        v.push("logits", h @ self.V)


@dataclass(frozen=True)
class Vertex:
    """One vertex of the batch. children: vertices of the batch; word: "" at a phrase."""

    tree: int
    level: int
    row: int
    children: tuple[int, ...]
    word: str


@dataclass(frozen=True)
class Run:
    """Some rows on which a stage runs, by how many kernel calls."""

    stage: str
    level: int
    rows: range
    n_calls: int


def batch() -> cavs.Graph:
    """The two trees as one Graph."""
    graphs, n_words = [], 0
    for children, words in zip(CHILDREN, WORDS, strict=True):
        numbers = iter(range(n_words, n_words + len(words)))
        n_words += len(words)
        inputs = {"word": [None if slots else next(numbers) for slots in children]}
        graphs.append(cavs.Graph.from_children(children, inputs))
    return cavs.batch(graphs)


def facts() -> tuple[list[Vertex], list[Run]]:
    """Plan the batch for inference: its vertices with their rows, and what runs in which order."""
    graph = batch()
    net = cavs.Network(Phrase(8, 4))
    net.initialize(seed=0)
    planned = net.executor().plan(graph)
    plan = planned.plan
    words = iter([word for of_tree in WORDS for word in of_tree])
    vertices, first = [], 0
    for tree, of_tree in enumerate(CHILDREN):
        for v, slots in enumerate(of_tree, first):
            found = tuple(first + c for c in slots)
            word = "" if slots else next(words)
            vertices.append(Vertex(tree, int(graph.level[v]), int(plan.row[v]), found, word))
        first += len(of_tree)
    return vertices, list(_runs(planned, vertices))


def _runs(planned, vertices: list[Vertex]) -> Iterator[Run]:  # type: ignore[no-untyped-def]
    """The slices of the forward pass. A lazy one runs on all rows of phrases."""
    for s in planned.slices("forward"):
        lazy = s.group.stage == "lazy"
        rows = sorted(v.row for v in vertices if (v.children if lazy else v.level == s.level))
        assert rows == list(range(rows[0], rows[0] + s.n_rows)), "a level is a slice"
        yield Run(s.group.stage, s.level, range(rows[0], rows[-1] + 1), len(s.group.steps))


def text(x: float, y: float, words: str, classes: str = "ink") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{classes}">{words}</text>'


def glyph(x: float, y: float, v: Vertex, radius: float = RADIUS) -> str:
    """A vertex with the number of its row; the first tree has circles, the second squares."""
    shape = f'class="vertex level{v.level}"'
    if v.tree == 0:
        drawn = f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" {shape}/>'
    else:
        a = 2 * radius - 3
        drawn = (
            f'<rect x="{x - a / 2:g}" y="{y - a / 2:g}" width="{a:g}" height="{a:g}" rx="5" '
            f"{shape}/>"
        )
    size = "number middle" if radius > 16 else "number middle fine"
    return drawn + text(x, y + (6.5 if radius > 16 else 5.5), str(v.row), size)


def arrow(x1: float, x2: float, y: float) -> str:
    line = f'<path d="M{x1:g} {y:g}H{x2 - 7:g}" class="line"/>'
    return line + f'<path d="M{x2 - 9:g} {y - 6:g}L{x2:g} {y:g}l-9 6z" class="tip"/>'


def trees(vertices: list[Vertex], top: float) -> Iterator[str]:
    """Both trees over bands, one a level."""
    n_levels = 1 + max(v.level for v in vertices)
    at: dict[int, tuple[float, float]] = {}
    leaf_x = [iter(xs) for xs in LEAF_X]
    for i, v in enumerate(vertices):
        xs = [at[c][0] for c in v.children]
        x = sum(xs) / len(xs) if xs else next(leaf_x[v.tree])
        at[i] = (x, top + (n_levels - 1 - v.level) * LEVEL_HEIGHT + 33)
    for level in range(n_levels):
        y = top + (n_levels - 1 - level) * LEVEL_HEIGHT
        height = 92 if level == 0 else LEVEL_HEIGHT - 8
        yield (
            f'<rect x="{EDGE}" y="{y:g}" width="{WIDTH - 2 * EDGE}" height="{height}" rx="8" '
            'class="band"/>'
        )
        yield text(EDGE + 12, y + 39, f"level {level}", "soft")
    for i, v in enumerate(vertices):
        for c in v.children:
            (x1, y1), (x2, y2) = at[i], at[c]
            yield f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" class="edge"/>'
    for i, v in enumerate(vertices):
        yield glyph(*at[i], v)
        if v.word:
            yield text(at[i][0], at[i][1] + 44, v.word, "ink middle small")


def strip(rows: Sequence[Vertex], top: float) -> Iterator[str]:
    """The buffer: a cell for every row, a bracket for every level."""
    left = (WIDTH - CELL * len(rows)) / 2
    for v in rows:
        x = left + CELL * v.row
        yield f'<rect x="{x:g}" y="{top:g}" width="{CELL}" height="52" class="call"/>'
        yield glyph(x + CELL / 2, top + 26, v, 18)
    for level in range(1 + rows[-1].level):
        own = [v.row for v in rows if v.level == level]
        a, b = left + CELL * own[0] + 3, left + CELL * (own[-1] + 1) - 3
        y = top + 60
        yield f'<path d="M{a:g} {y:g}v8H{b:g}v-8" class="line"/>'
        name = f"level {level}" if len(own) > 1 else f"{level}"
        yield text((a + b) / 2, y + 29, name, "soft middle")


def call(x: float, y: float, width: float, words: str) -> str:
    """A box that stands for one kernel call."""
    box = (
        f'<rect x="{x:g}" y="{y - 21:g}" width="{width:g}" height="42" rx="8" class="call"/>'
        + text(x + width / 2, y + 6.5, words, "ink middle")
    )
    return box


def pairs(x: float, y: float, run: Run, rows: Sequence[Vertex], vertices: list[Vertex]) -> str:
    """The children that each row of the run gathers."""
    drawn = ""
    for row in run.rows:
        for k, c in enumerate(rows[row].children):
            drawn += glyph(x + 15 + k * 33, y, vertices[c], 15.5)
        x += 75
    return drawn


def of_rows(x: float, y: float, run: Run, rows: Sequence[Vertex]) -> str:
    return "".join(glyph(x + 15 + 33 * i, y, rows[r], 15.5) for i, r in enumerate(run.rows))


def calls(
    runs: list[Run], rows: Sequence[Vertex], vertices: list[Vertex], top: float
) -> Iterator[str]:
    """Every level's kernel calls, in the order in which they run."""
    eager, *levels, lazy = runs
    assert [r.stage for r in (eager, lazy)] == ["eager", "lazy"]
    assert all(r.stage == "recurrent" and r.n_calls == 2 for r in levels)
    for x, name in ((110, "reads"), (598, "writes")):
        yield text(x, top, name, "soft small")
    for x, name in ((397, "product"), (515, "the rest")):
        yield text(x, top, name, "soft small middle")
    y = top + 36
    for run in (eager, *levels):
        yield text(EDGE + 12, y + 6.5, f"level {run.level}", "soft")
        if run is eager:
            yield text(110, y + 6.5, f"{len(run.rows)} word vectors", "ink")
            yield arrow(270, 459, y)
        else:
            yield pairs(110, y, run, rows, vertices)
            yield arrow(110 + 75 * len(run.rows) - 2, 356, y) + call(358, y, 78, "@ U")
            yield arrow(437, 459, y)
        yield call(461, y, 108, "+ b, tanh") + arrow(570, 592, y)
        if len(run.rows) > 3:
            yield text(598, y + 6.5, f"{run.rows[0]} to {run.rows[-1]}", "ink")
        else:
            yield of_rows(596, y, run, rows)
        y += 56


def svg(vertices: list[Vertex], runs: list[Run]) -> str:
    """The drawing."""
    rows = sorted(vertices, key=lambda v: v.row)
    eager, lazy = runs[0], runs[-1]
    parts = [
        text(EDGE, 46, "1. Two trees, joined to one batch", "ink title"),
        text(EDGE, 75, "The number in a vertex is its row. Children have lower levels.", "soft"),
        *trees(vertices, 94),
        text(EDGE, 456, "2. One buffer for the state of all vertices", "ink title"),
        text(EDGE, 485, "Rows are sorted by level, so a level is a slice.", "soft"),
        *strip(rows, 503),
        text(EDGE, 650, "3. Two kernel calls a level", "ink title"),
        text(EDGE, 679, "A box is one call, for all rows of the level.", "soft"),
        *calls(runs, rows, vertices, 718),
        text(
            EDGE,
            986,
            f"Outputs, h @ V: one product for rows {eager.rows[0]} to {eager.rows[-1]}, "
            f"one for {lazy.rows[0]} to {lazy.rows[-1]}.",
            "ink",
        ),
        text(EDGE, 1014, "Backward: the same rows, from the highest level down.", "ink"),
    ]
    height = 1040
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img" aria-labelledby="title about">',
            '<title id="title">How tvm_cavs runs a batch of two trees</title>',
            '<desc id="about">Two trees of different shape are divided into levels. All vertices '
            f"lie in one buffer of {len(rows)} rows, sorted by level. Each level above the words "
            "takes two kernel calls: a product that gathers the children's rows, and one for "
            "everything else.</desc>",
            f"<style>\n{STYLE}\n</style>",
            f'<rect x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="14" class="card"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text(svg(*facts()), encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
