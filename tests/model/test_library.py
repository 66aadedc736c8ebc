"""Torch's library is loaded before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading
from mmnet_maps.model.library import load_ahead
load_ahead()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
assert "torch" not in sys.modules
print(any("libtorch_cpu" in line for line in open("/proc/self/maps")))
import torch
print(float(torch.ones(2) @ torch.ones(2)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="does nothing elsewhere")
def test_the_library_is_there_without_torch_and_torch_works_on_it() -> None:
    printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["True", "2.0"]
