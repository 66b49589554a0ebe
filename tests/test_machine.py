import subprocess
import sys

import pytest

from purifyctl.machine import keep_freed_memory

PAGES = """
import resource, sys
from purifyctl.machine import keep_freed_memory
assert sys.argv[1] == "given back" or keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():  # holds some tensors' worth at a time, as a forward pass does
    [bytearray(8 << 20) for _ in range(8)]
step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


def test_memory_that_is_kept_is_not_fetched_from_the_kernel_again() -> None:
    def pages(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, check=True).stdout)

    of_a_step = 8 * (8 << 20) // 4096
    assert pages("given back") >= 4 * of_a_step
    assert pages("kept") <= of_a_step


def test_a_c_library_without_mallopt_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    assert not keep_freed_memory()
