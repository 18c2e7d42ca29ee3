"""What tvm_cavs is compared with: the same networks in PyTorch, written by other people's means.

Each system runs in a process of its own (`process`, `serve`) and counts what tvm_cavs counts:
planning (`plan`), forward, loss, backward, update.

level    a loop over levels with autograd (`level`)
compile  the same with torch.compile on the cell (`level`)
module   nn.LSTM on packed sequences, for varlstm and lm (`packed`)
manual   forward and backward written by hand into buffers (`manual_...`)

The speed of PyTorch's products is not left to chance. Its MKL runs AVX2 kernels on a CPU that is
not Intel's, at half the speed of this package's or NumPy's; `mkl` gives it the AVX-512 ones.
"""

PEERS: dict[str, tuple[str, ...]] = {
    "treelstm": ("level", "compile", "manual"),
    "treefc": ("level", "compile", "manual"),
    "varlstm": ("level", "compile", "module", "manual"),
    "lm": ("level", "module", "manual"),
}

"""Systems by workload."""

OF_BF16 = ("level", "compile")  # those whose products torch.autocast rounds; out= it leaves alone
