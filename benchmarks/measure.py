"""Run commands as children of a small process, and measure their time, processor time and memory.

Only the standard library is imported here and in what starts children: a child reports the memory of the process that
started it as its own peak if that one is larger.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

_CALL = "import sys; from mmnet_maps.cli import main, map_main; sys.argv[0] = '{}'; {}()"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a command or a stage takes.

    Attributes
    ----------
    wall
        Seconds by the clock.
    user, system
        Processor seconds of the program and of the kernel for it, children included.
    peak_mb
        Peak memory of the largest process, MB; 0 for a stage.
    """

    wall: float
    user: float
    system: float
    peak_mb: float = 0

    @property
    def core_s(self) -> float:
        """Processor seconds."""
        return self.user + self.system

    def less(self, other: Cost, count: float = 1) -> Cost:
        """Return what this takes beyond another, divided by a count; the peak is that of this one."""
        return Cost(
            wall=(self.wall - other.wall) / count,
            user=(self.user - other.user) / count,
            system=(self.system - other.system) / count,
            peak_mb=self.peak_mb,
        )

    def as_dict(self) -> dict[str, float]:
        """Return the figures as plain values."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


NOTHING = Cost(wall=0, user=0, system=0)


@dataclass(frozen=True, kw_only=True)
class Code:
    """The code of one revision: its name, the folder of its package and the stack that it fills."""

    name: str
    folder: Path
    stack: Path

    def environment(self) -> dict[str, str]:
        """Return the variables under which Python runs this code, without settings of the user.

        Python may keep compiled modules, as it does of installed packages.
        """
        left_out = ("MMNET_", "OMP_", "PYTHONDONTWRITEBYTECODE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        return {**kept, "PYTHONPATH": str(self.folder)}

    def mmnet(self, *arguments: str) -> list[str]:
        """Return the command line of `mmnet`."""
        return [sys.executable, "-c", _CALL.format("mmnet", "main"), *arguments]

    def mmnet_map(self, *arguments: str) -> list[str]:
        """Return the command line of `mmnet-map`."""
        return [sys.executable, "-c", _CALL.format("mmnet-map", "map_main"), *arguments]


def measured(command: Sequence[str], code: Code, folder: Path) -> tuple[Cost, str]:
    """Run a command of a revision in a folder; return what it took and what it printed.

    Raises
    ------
    SystemExit
        It failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w+") as out, (folder / "messages.txt").open("w+") as messages:
        started = time.perf_counter()
        child = subprocess.Popen(command, env=code.environment(), cwd=folder, stdout=out, stderr=messages)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            messages.seek(0)
            raise SystemExit(f"{code.name}: {' '.join(command[2:])} ended with {child.returncode}\n{messages.read()}")
        out.seek(0)
        per_mb = 1e6 if sys.platform == "darwin" else 1e3
        cost = Cost(wall=wall, user=used.ru_utime, system=used.ru_stime, peak_mb=used.ru_maxrss / per_mb)
        return cost, out.read()


class Stages:
    """Sums the costs of named stages of this process."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add what the block takes to a stage."""
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        yield
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
        sum_ = self.costs.get(name, NOTHING)
        self.costs[name] = Cost(
            wall=sum_.wall + wall,
            user=sum_.user + after.ru_utime - before.ru_utime,
            system=sum_.system + after.ru_stime - before.ru_stime,
        )
