"""Time training and inference:  python scripts/bench.py [--hidden 256 512] [--batch 64] ...

The same as `tvm-cavs bench`, for a clone.
"""

import sys

from tvm_cavs.cli.bench import main as main
from tvm_cavs.cli.bench_options import parse as parse
from tvm_cavs.cli.main import run

if __name__ == "__main__":
    sys.exit(run("bench", sys.argv[1:], "python scripts/{}.py"))
