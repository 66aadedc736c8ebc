"""Estimate what series at points or a table of samples would read from a source: ``--dry-run``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from mmnet_maps.errors import RequestError, bytes_text, counted
from mmnet_maps.mapping.fill import price_lines, without
from mmnet_maps.mapping.points import as_table, draft, points_of
from mmnet_maps.settings import MapOptions, settle
from mmnet_maps.sources import open_source
from mmnet_maps.stack.pixels import choose_for_points
from mmnet_maps.stack.point_estimate import RANGE_SECONDS, SECONDS, PointsEstimate, estimate_points

if TYPE_CHECKING:
    import pandas as pd


def estimate_at_points(
    places: pd.DataFrame | Sequence[tuple[float, float]],
    dates: Any = None,
    *,
    parts: Path | None = None,
    **options: Unpack[MapOptions],
) -> str:
    """Describe what `points.at_points` with the same arguments would still read from a source; nothing is read.

    Raises
    ------
    RequestError, InputError
        As `points.at_points`, and where no source is given.
    """
    settings = settle(options)
    if settings.source is None or settings.stack is not None:
        raise RequestError("maps and stacks send no requests; leave out --dry-run, or give --source")
    request = draft(settings, dates)
    sources = open_source(str(settings.source))
    _, points = points_of(request, as_table(places))
    choose_for_points(sources, points, request.needs)
    return format_points_estimate(estimate_points(sources, points, request.needs, folder=parts))


def format_points_estimate(found: PointsEstimate) -> str:
    """Format the estimated cost of reading points as a table and a time."""
    if not found.groups:
        return "nothing is missing: all reads are finished"
    rows = [("group", "from", "days", "reads", "requests", "received")]
    for item in found.groups:
        asked = (f"{item.cost.requests:,}", bytes_text(item.cost.bytes)) if item.cost else ("local", "")
        asked = asked if item.known else ("unknown", "unknown")
        days = f"{item.days}, {item.first} to {item.last}"
        rows.append((item.group, ", ".join(item.products), days, f"{item.reads:,}", *asked))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.append(
        f"{counted(found.points, 'point')}; extrapolated from some reads of each group, whose days with data were "
        "looked up; no values were read"
    )
    if found.cost and found.time:
        parts = f", one for a part of a file {RANGE_SECONDS:g} s," if found.cost.ranges else ""
        lines.append(
            f"in total{without(found.groups)} {counted(found.cost.requests, 'request')}, "
            f"{bytes_text(found.cost.bytes)} received: about "
            f"{_duration(found.time)} if a request takes {SECONDS:g} s{parts} and {found.concurrent} are under way at "
            "a time; that is assumed, not measured, and may be a third or three times as much"
        )
        lines.extend(price_lines(found.cost))
    return "\n".join(lines)


def _duration(time: timedelta) -> str:
    """Return a time in hours, or minutes where it is short.

    Examples
    --------
    >>> _duration(timedelta(minutes=3)), _duration(timedelta(hours=8.4)), _duration(timedelta(hours=60))
    ('3 minutes', '8.4 hours', '60 hours')
    """
    hours = time / timedelta(hours=1)
    if hours < 1:
        return counted(max(1, round(hours * 60)), "minute")
    return f"{hours:.3g} hours"
