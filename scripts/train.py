"""Train from a config:  python scripts/train.py CONFIG [key=value ...]
Continue a run:       python scripts/train.py --resume RUN [key=value ...]

The same as `tvm-cavs train`, for a clone.
"""

import sys

from tvm_cavs.cli.main import run
from tvm_cavs.cli.train import main as main

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:], "python scripts/{}.py"))
