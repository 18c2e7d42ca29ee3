"""Compare every function of one number with float64:  python scripts/accuracy.py [CPU ...]

CPU is "host", or a model that LLVM knows and this machine can run, such as x86-64-v3.
All 2^32 float32 arguments take half an hour on one core; --every 1021 takes two seconds.
"""

import argparse

import numpy as np

from tvm_cavs.compiler.accuracy import FUNCTIONS, Error, compiled, errors, truth

CHUNK = 1 << 16  # fits the caches


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cpus", nargs="*", default=["host"], metavar="CPU")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="one of N bit patterns")
    return parser.parse_args()


def main() -> None:
    given = parse()
    kernels = {
        cpu: compiled(cpu if cpu == "host" else {"kind": "llvm", "mcpu": cpu}) for cpu in given.cpus
    }
    worst = {cpu: dict.fromkeys(FUNCTIONS, Error()) for cpu in kernels}
    for first in range(0, 1 << 32, CHUNK * given.every):
        last = min(first + CHUNK * given.every, 1 << 32)
        bits = np.arange(first, last, given.every, dtype="uint64").astype("uint32")
        x = np.resize(bits, CHUNK).view("float32")
        want = truth(x)
        for cpu, kernel in kernels.items():
            for name, e in errors(x, kernel(x), want).items():
                worst[cpu][name] = worst[cpu][name].worse(e)
    print("| CPU | function | ulp | at | relative | NaN or sign wrong |\n" + "| --- " * 6 + "|")
    for cpu, found in worst.items():
        for name, e in found.items():
            print(f"| {cpu} | {name} | {e.ulp:.2f} | {e.at:.9g} | {e.relative:.1e} | {e.wrong} |")


if __name__ == "__main__":
    main()
