"""A run in its first steps -> profile.txt and trace.json in its folder, training left as it was."""

from __future__ import annotations

from ..profiling import profile, to_json
from . import runlog
from .display import Display
from .run import Run

PROFILED_STEP = 5  # of this process: by then everything is compiled and every buffer has grown


def profile_step(run: Run, display: Display, n_graphs: int) -> None:
    """Profile a step on the batch of `n_graphs` trained last; report where its time goes.

    Raises:
        CavsError: the files cannot be written; TrainingError: a gradient is not finite.
    """
    progress, graphs = run.progress, run.loader.dataset.graphs
    done = progress.epoch_examples
    examples = run.loader.order(progress.epoch)[done - n_graphs : done].tolist()
    found = profile(run.net, [graphs[i] for i in examples], run.loss, run.trainer)
    runlog.write_whole(run.folder / runlog.PROFILE, f"{found}\n")
    runlog.write_whole(run.folder / runlog.TRACE, to_json(found))
    for line in found.summary().splitlines():
        display.line(line)
    display.line(f"kernels and levels: {run.folder / runlog.PROFILE}")
    display.line(f"timeline, for ui.perfetto.dev: {run.folder / runlog.TRACE}")
