"""The command `tvm-cavs`: each of its subcommands is a module, imported when it is asked for."""

from .main import main as main
