"""Child processes of tests: SIGINT reaches them, and none outlives its test."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil


@contextmanager
def start_interruptible(words: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a child that SIGINT interrupts; at the end, however it comes, the child and its own children are killed.

    Background jobs of a script start with SIGINT ignored, and children inherit that; a handler is reset when a child
    starts.

    Parameters
    ----------
    words
        The command.
    **options
        Passed to `subprocess.Popen`.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen([str(word) for word in words], **options)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            for child in descendants(process):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()


def descendants(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Return the living children of a process and theirs."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []
