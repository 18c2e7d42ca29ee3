"""The runtime stands without the compiler: a deployed model has no more than it and TVM's FFI."""

import subprocess
import sys

from helpers.paths import ROOT

WITHOUT_TVM = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tvm", "schedules", "autotune"):
            raise ImportError(f"{name} is hidden")

sys.meta_path.insert(0, Hidden())
"""


def test_the_runtime_needs_no_compiler() -> None:
    code = f"{WITHOUT_TVM}\nimport numpy as np\nfrom tvm_cavs.runtime import HostMemory, Role\n"
    code += "from tvm_cavs.runtime import BufferId\nmemory = HostMemory()\n"
    code += "memory.fixed(BufferId(Role.SITE_KEYS), (3,), 'uint32')\n"
    code += "memory.write(BufferId(Role.SITE_KEYS), np.arange(3, dtype='uint32'))\n"
    code += "print(memory.read(BufferId(Role.SITE_KEYS)).tolist())\n"
    code += "print(sorted(m for m in sys.modules if m.startswith('tvm_cavs.compiler')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[0, 1, 2]\n[]\n", done.stderr


def test_the_package_imports_neither_tvm_nor_its_ffi() -> None:
    code = "import sys, tvm_cavs; print({'tvm', 'tvm_ffi', 'schedules'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr
