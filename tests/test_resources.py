"""The garbage collector of a process that ends soon."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import atexit, gc
from mmnet_maps.resources import collect_rarely

atexit.register(lambda: print(gc.get_freeze_count() > 0, gc.get_threshold()[0]))
collect_rarely()  # the last function that is registered runs first
"""


def test_nothing_is_searched_at_the_end() -> None:
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("True 50000\n", "")
