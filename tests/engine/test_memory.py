"""Memory that is freed is kept for the next step."""

import platform
import subprocess
import sys

import pytest

from classroomkd.engine.memory import keep_freed_memory

FAULTS = """
import resource, torch
from classroomkd.engine.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16, 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

mapped = faults()
assert keep_freed_memory()
faults()
print(mapped, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator alone is tuned")
def test_freed_memory_is_kept():
    """In a process of its own, for it lasts as long as that: pages are mapped once."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    mapped, kept = map(int, done.stdout.split())
    assert kept < mapped / 10


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
