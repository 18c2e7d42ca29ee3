"""`python -m tvm_cavs` is the command `tvm-cavs`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main(form="python -m tvm_cavs {}"))
