"""The report of a batch: the outcome of every tile and day, and the status of an output folder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mmnet_maps.errors import InputError, OutputError, bytes_text, counted, number_text
from mmnet_maps.files import read_json, write_whole
from mmnet_maps.mapping.smap_consistency import Sums
from mmnet_maps.product.stac_item import fingerprint_of, version_of

REPORTS = "reports"
_REPORT = re.compile(r"_\d{8}_\d{8}\.json$")
_LISTED = 20  # failures listed on the terminal
_EMPTY = 5  # maps without a value listed there
_FIGURES = {"bias": "+.3f", "ubrmse": ".3f", "r": ".3f"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one tile on one day.

    Attributes
    ----------
    tile, day
        Tile id and day.
    state
        ``made``, ``kept`` (a finished map from the same inputs and model exists) or ``failed``.
    version
        Revision of the existing map, counted from 1; after a failure an earlier one, or 0 for none.
    pixels, bytes, seconds
        Pixels with a value, size of the COGs, and time on a worker, of maps that were made.
    error
        The reason of a failure, one line.
    why_empty
        Why no pixel of a map that was made has a value; None where one has.
    drought
        Pixels of a map that was made by drought class (`drought.count_classes`); None without a climatology.
    sums
        Fingerprint of a map that was made, and its sums by cell of SMAP (`smap_consistency.sum_cells`); no part of the
        report.
    """

    tile: str
    day: date
    state: Literal["made", "kept", "failed"]
    version: int = 0
    pixels: int = 0
    bytes: int = 0
    seconds: float = 0.0
    error: str | None = None
    why_empty: str | None = None
    drought: dict[str, int] | None = None
    sums: tuple[str, Sums] | None = None


@dataclass(kw_only=True)
class Report:
    """A run, in progress or ended; as a context it is written at the beginning and at the end of the run.

    Attributes
    ----------
    name, root, days, tiles, about
        The plan of the run, and the description of model, inputs and stack.
    state
        ``running``, ``done``, ``interrupted``, or ``stopped`` with the reason.
    outcomes, failures
        The outcomes in the order of their arrival, and the number of failures.
    tried
        Number of tries of a tile and day, where more than one.
    smap_consistency
        By day, the 100 m map against SMAP's own cells (see `smap_consistency.compare_with_smap`).
    """

    name: str
    root: Path
    days: tuple[date, ...]
    tiles: tuple[str, ...]
    about: Mapping[str, Any]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    state: str = "running"
    outcomes: list[Outcome] = field(default_factory=list)
    failures: int = 0
    tried: dict[tuple[str, date], int] = field(default_factory=dict)
    smap_consistency: dict[date, dict[str, Any]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        """Write the report, so that the plan is known while the run goes on, and if it is killed."""
        write_report(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write the report with the final state; a failure to write it does not hide an error of the run."""
        self.ended = datetime.now(UTC)
        if error is None:
            self.state = "done"
            write_report(self)
            return
        self.state = "interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped: {error}"
        with suppress(OutputError):
            write_report(self)

    def add(self, outcomes: Sequence[Outcome], tried: int) -> None:
        """Add the outcomes of a task and its number of tries."""
        self.outcomes += outcomes
        self.failures += sum(one.state == "failed" for one in outcomes)
        if tried > 1:
            self.tried |= {(outcome.tile, outcome.day): tried for outcome in outcomes}

    @property
    def failed(self) -> list[Outcome]:
        """The failures, by day and tile."""
        return sorted((one for one in self.outcomes if one.state == "failed"), key=lambda one: (one.day, one.tile))

    @property
    def seconds(self) -> float:
        """Duration of the run so far."""
        return ((self.ended or datetime.now(UTC)) - self.started).total_seconds()

    def counts(self) -> dict[date, Counter[str]]:
        """Count by day the tiles ``made``, ``kept``, ``failed`` and ``missing``."""
        found: dict[date, Counter[str]] = {day: Counter() for day in self.days}
        for one in self.outcomes:
            found[one.day][one.state] += 1
        for counter in found.values():
            counter["missing"] = len(self.tiles) - counter.total()
        return found

    def drought(self) -> dict[date, dict[str, int]]:
        """Count the pixels of the maps that were made by day and drought class; empty without a climatology."""
        found: dict[date, Counter[str]] = {}
        for one in sorted((one for one in self.outcomes if one.drought), key=lambda one: one.day):
            found.setdefault(one.day, Counter()).update(one.drought)
        return {day: dict(counter) for day, counter in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        made = [one for one in self.outcomes if one.state == "made"]
        pixels = sum(one.pixels for one in made)
        return {
            "mmnet_report_version": 1,
            "name": self.name,
            "state": self.state,
            "started": self.started.isoformat("T", "milliseconds"),
            "ended": self.ended and self.ended.isoformat("T", "seconds"),
            "seconds": round(self.seconds, 1),
            "about": dict(self.about),
            "days": [str(day) for day in self.days],
            "tiles": list(self.tiles),
            "counts": {str(day): dict(counter) for day, counter in self.counts().items()},
            "pixels_with_value": pixels,
            "bytes_of_cogs": sum(one.bytes for one in made),
            "pixels_per_second": round(pixels / self.seconds) if self.seconds else None,
            "drought": {str(day): counts for day, counts in self.drought().items()},
            "closure": {str(day): figures for day, figures in self.smap_consistency.items()},
            "outcomes": [
                {**asdict(replace(one, sums=None)), "day": str(one.day), "seconds": round(one.seconds, 2)}
                | {"tried": self.tried.get((one.tile, one.day), 1)}
                for one in sorted(self.outcomes, key=lambda one: (one.day, one.tile))
            ],
        }


def report_path(report: Report) -> Path:
    """Return the path of a run's report; a later run of the same name and days overwrites it."""
    return report.root / REPORTS / f"{report.name}_{report.days[0]:%Y%m%d}_{report.days[-1]:%Y%m%d}.json"


def write_report(report: Report) -> Path:
    """Write a report as JSON, whole or not at all.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    path = report_path(report)
    write_whole(path, json.dumps(report.as_dict(), indent=1) + "\n")
    return path


def format_report(report: Report) -> str:
    """Return the table for the terminal: counts by day, then the failures."""
    rows: list[tuple[str, ...]] = [("day", "made", "kept", "failed", "missing", "bias to SMAP", "ubRMSE", "R")]
    for day, counter in report.counts().items():
        figures = report.smap_consistency.get(day, {})
        counts = (str(counter[state]) for state in ("made", "kept", "failed", "missing"))
        against_smap = ("" if figures.get(key) is None else f"{figures[key]:{form}}" for key, form in _FIGURES.items())
        rows.append((str(day), *counts, *against_smap))
    lines = _table(rows)
    lines += [
        f"{day} SMAP consistency: {figures['error']}"
        for day, figures in report.smap_consistency.items()
        if "error" in figures
    ]
    lines += [f"{day} drought: {_shares(counts)}" for day, counts in report.drought().items() if any(counts.values())]
    for one in report.failed[:_LISTED]:
        lines.append(f"{one.day} {one.tile} failed: {one.error}")
    if len(report.failed) > _LISTED:
        lines.append(f"… and {len(report.failed) - _LISTED} more, in {report_path(report)}")
    empty = sorted((one.day, one.tile, one.why_empty) for one in report.outcomes if one.why_empty)
    lines += [f"{day} {tile} has no pixel with a value: {why}" for day, tile, why in empty[:_EMPTY]]
    if len(empty) > _EMPTY:
        lines.append(f"… and {counted(len(empty) - _EMPTY, 'more map')} without a value, in {report_path(report)}")
    made = [one for one in report.outcomes if one.state == "made"]
    pixels, size = sum(one.pixels for one in made), sum(one.bytes for one in made)
    lines.append(
        f"{counted(len(made), 'map')} made in {report.seconds:.0f} s: {counted(pixels, 'pixel')} with a value, "
        f"{number_text(pixels / max(report.seconds, 1e-9))} a second, {bytes_text(size)}"
    )
    return "\n".join(lines)


def _shares(counts: Mapping[str, int]) -> str:
    """Return the shares of drought classes in words.

    >>> _shares({"none": 3, "D0": 1, "D1": 0})
    'none 75 %, D0 25 %, D1 0 %'
    """
    return ", ".join(f"{name} {100 * count / sum(counts.values()):.0f} %" for name, count in counts.items())


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of all maps that the runs in an output folder planned.

    Attributes
    ----------
    done, failed, missing
        Tile ids by day: with a finished item; failed by the last report and not made since; the others.
    errors
        Reasons of the failures by day and tile.
    """

    done: Mapping[date, tuple[str, ...]]
    failed: Mapping[date, tuple[str, ...]]
    missing: Mapping[date, tuple[str, ...]]
    errors: Mapping[tuple[date, str], str]

    @property
    def complete(self) -> bool:
        """Whether all planned maps are done."""
        return not any(self.failed.values()) and not any(self.missing.values())

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            str(day): {
                "done": list(self.done[day]),
                "failed": {tile: self.errors[day, tile] for tile in self.failed[day]},
                "missing": list(self.missing[day]),
            }
            for day in self.done
        }


def read_status(root: str | Path) -> Status:
    """Compare the reports in an output folder with its items.

    Raises
    ------
    InputError
        No batch has run there, or a report is damaged.
    """
    root = Path(root)
    reports = _read_reports(root / REPORTS)
    if not reports:
        raise InputError(f"no batch has run in {root}: {root / REPORTS} holds no report; give the --out of a batch")
    planned: dict[date, dict[str, bool]] = {}
    errors: dict[date, dict[str, tuple[str, int]]] = {}
    for report in reports:
        for day in report.days:
            planned.setdefault(day, {}).update(dict.fromkeys(report.tiles, report.synthetic))
        for one in report.outcomes:
            of_day = errors.setdefault(one.day, {})
            of_day.pop(one.tile, None)
            if one.state == "failed":
                of_day[one.tile] = one.error or "", one.version
    done: dict[date, set[str]] = {}
    for day, tiles in sorted(planned.items()):
        versions = {tile: map_version(root, tile, day, synthetic) for tile, synthetic in tiles.items()}
        known = errors.get(day, {})
        done[day] = {tile for tile, version in versions.items() if version > known.get(tile, ("", 0))[1]}
    failed = {day: set(errors.get(day, {})) & set(planned[day]) - done[day] for day in done}
    return Status(
        done={day: tuple(sorted(tiles)) for day, tiles in done.items()},
        failed={day: tuple(sorted(tiles)) for day, tiles in failed.items()},
        missing={day: tuple(sorted(set(planned[day]) - done[day] - failed[day])) for day in done},
        errors={(day, tile): errors[day][tile][0] for day, tiles in failed.items() for tile in tiles},
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run as its report describes it: when it was started, its plan, and its outcomes."""

    started: str
    days: tuple[date, ...]
    tiles: tuple[str, ...]
    synthetic: bool
    outcomes: tuple[Outcome, ...]


def _read_reports(folder: Path) -> list[_Run]:
    """Return the runs of the reports in a folder, the oldest first.

    Raises
    ------
    InputError
        A report is damaged.
    """
    found = []
    for path in folder.glob("*.json"):
        try:
            content = read_json(path)
            if not content and _REPORT.search(path.name):
                raise ValueError("no JSON object")
            if content.get("mmnet_report_version") == 1:
                found.append(_run_of(content))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"[:80]
            raise InputError(f"{path} is a damaged report ({reason}); delete it, or run its batch again") from error
    return sorted(found, key=lambda run: run.started)


def _run_of(content: Mapping[str, Any]) -> _Run:
    outcomes = tuple(
        Outcome(
            tile=str(one["tile"]),
            day=date.fromisoformat(one["day"]),
            state=one["state"],
            version=int(one["version"]),
            error=one["error"],
        )
        for one in content["outcomes"]
    )
    return _Run(
        started=str(content["started"]),
        days=tuple(map(date.fromisoformat, content["days"])),
        tiles=tuple(map(str, content["tiles"])),
        synthetic=bool(content["about"].get("synthetic")),
        outcomes=outcomes,
    )


def item_path(root: Path, tile: str, day: date, synthetic: bool) -> Path:
    """Return the path of the STAC item of a tile and day."""
    return root / f"{day:%Y%m%d}" / f"{tile}_{day:%Y%m%d}{'_synthetic' if synthetic else ''}.json"


def map_version(root: Path, tile: str, day: date, synthetic: bool) -> int:
    """Return the revision of the existing map of a tile and day; 0 where there is none of this software."""
    with suppress(OSError):
        item = read_json(item_path(root, tile, day, synthetic))
        if fingerprint_of(item) is not None:
            return version_of(item)
    return 0


def format_status(status: Status) -> str:
    """Return a table of the tiles done, failed and missing by day, then the failures."""
    rows: list[tuple[str, ...]] = [("day", "done", "failed", "missing")]
    rows += [
        (str(day), *(str(len(part[day])) for part in (status.done, status.failed, status.missing)))
        for day in status.done
    ]
    lines = _table(rows)
    for day, tiles in status.failed.items():
        lines += [f"{day} {tile} failed: {status.errors[day, tile]}" for tile in tiles]
    for day, tiles in status.missing.items():
        if tiles:
            lines.append(f"{day} missing: {', '.join(tiles[:_LISTED])}{' …' if len(tiles) > _LISTED else ''}")
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Align rows in columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
