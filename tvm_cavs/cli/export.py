"""`tvm-cavs export`: a run's folder -> a folder that answers without the compiler."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence

from ..data import TOKENS, Vocab, to_json
from ..errors import CavsError, ConfigError
from ..executors import About
from ..graph import Graph
from ..runs import BEST, LAST, RunConfig, build_data, build_network, load_config
from ..training import load_checkpoint, restore
from .output import put
from .parser import FORM, make_parser, run_folder

WHAT = (
    "Write a run's best parameters and its compiled kernels to a folder that tvm_cavs.deploy "
    "answers from, in a process without the compiler.",
    "key=value changes the saved config, for instance executor.precision=bf16.",
)
EXAMPLES = (
    "runs/demo --out served/demo",
    "runs/demo --out served/demo --replace",
    "runs/demo --out served/tuned --backward",
    "runs/demo --out arm --target aarch64",
)
# machines by name; the levels of x86-64 are those of its psABI: v3 has AVX2, v4 AVX-512
X86 = ("x86-64", "x86-64-v3", "x86-64-v4")
TARGETS: dict[str, dict[str, str]] = {
    **{name: {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": name} for name in X86},
    "aarch64": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "generic"},
}
MOST_EXAMPLES = 3  # graphs of the data, to be shown to people
LONGEST_EXAMPLE = 40  # vertices


def parse(arguments: Sequence[str], form: str = FORM) -> argparse.Namespace:
    parser = make_parser("export", form, WHAT, EXAMPLES)
    parser.add_argument("run", type=run_folder, help="the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=run_folder, required=True, metavar="DIR", help="where to")
    parser.add_argument(
        "--target",
        help=f"host (the default), {', '.join(TARGETS)}, or TVM's attributes of a target as JSON",
    )
    parser.add_argument("--linker", help="the C compiler for another architecture")
    parser.add_argument(
        "--backward", action="store_true", help="with the backward pass: gradients, for fine-tuning"
    )
    parser.add_argument("--replace", action="store_true", help="take the place of an older export")
    parser.add_argument("--last", action="store_true", help="the newest parameters, not the best")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str], form: str = FORM) -> int:
    given = parse(arguments, form)
    best = given.run / BEST
    path = given.run / LAST if given.last or not os.path.exists(best) else best
    checkpoint = load_checkpoint(path)
    config = load_config(given.run / "config.yaml", given.overrides)
    vocab = Vocab(tuple(checkpoint.vocabulary or ["<unk>"]))
    net = build_network(config, vocab)
    restore(net.parameters(), checkpoint)
    options = {} if given.target is None else {"target": _target(given.target)}
    net.export(
        given.out,
        _training_graphs(config, vocab),
        _about(config, vocab),
        given.replace,
        given.linker,
        given.backward,
        **options,
    )
    size = sum(file.stat().st_size for file in given.out.iterdir())
    put(
        f"{given.out}: {path.name} of {given.run}, step {checkpoint.progress.step}, "
        f"{size / 1e6:.1f} MB"
    )
    put(
        f'answer from it: python -c "from tvm_cavs.deploy import load; '
        f"print(load('{given.out}'))\""
    )
    return 0


def _target(text: str) -> object:
    if text == "host":
        return text
    if text in TARGETS:
        return TARGETS[text]
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"--target: {text!r:.60} is neither host, {', '.join(TARGETS)} nor JSON ({error}); "
            'expected a name, or TVM\'s attributes such as {"kind": "llvm", "mcpu": "haswell"}'
        ) from None


def _training_graphs(config: RunConfig, vocab: Vocab) -> Iterator[Graph]:
    """Read only if they are asked for."""
    yield from build_data(config, ["train"], vocab).splits["train"]


def _about(config: RunConfig, vocab: Vocab) -> About:
    """What the run knows of its data; examples where the data are still there."""
    classes, examples = getattr(config.data, "classes", None), None
    try:
        data = build_data(config, ["dev"], vocab)
        small = [g for g in data.splits.get("dev", ()) if g.n_vertices <= LONGEST_EXAMPLE]
        texts = [to_json(graph, {"word": TOKENS}, vocab) for graph in small[:MOST_EXAMPLES]]
        examples = "\n".join(texts) or None
    except CavsError as error:
        print(f"no examples in the manifest: {error}", file=sys.stderr)
    spelling = {"lower": getattr(config.data, "lower", False)}
    spelling["unescape"] = getattr(config.data, "unescape", False)
    return About(vocab.to_list(), ("word",), classes, examples, {"spelling": spelling})
