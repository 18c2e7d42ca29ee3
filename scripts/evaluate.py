"""Measure a run's best parameters:  python scripts/evaluate.py RUN [key=value ...]

The same as `tvm-cavs evaluate`, for a clone.
"""

import sys

from tvm_cavs.cli.evaluate import main as main
from tvm_cavs.cli.main import run

if __name__ == "__main__":
    sys.exit(run("evaluate", sys.argv[1:], "python scripts/{}.py"))
