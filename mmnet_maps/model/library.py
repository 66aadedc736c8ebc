"""The library of torch, loaded before torch is imported."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from threading import Thread


def load_ahead() -> None:
    """Load torch's library in another thread, a sixth of the time that importing torch takes.

    `import torch` does it while it holds Python's global lock; here the other core does it meanwhile. On other systems
    than Linux nothing is done.
    """
    found = importlib.util.find_spec("torch") if sys.platform == "linux" else None
    if found is None or found.origin is None:
        return
    library = Path(found.origin).parent / "lib" / "libtorch_cpu.so"
    load = ctypes.CDLL(None).dlopen  # unlike ctypes.CDLL(library), without the lock
    load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    Thread(target=load, args=(os.fsencode(library), os.RTLD_NOW), daemon=True).start()  # it fails silently
