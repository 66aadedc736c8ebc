"""Estimate what reading the inputs of points would cost, without reading any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from mmnet_maps.sources.base import Cost, Gathering, Source
from mmnet_maps.stack.fetch import Costing, Estimate, assign_needed, sum_costs
from mmnet_maps.stack.kept_reads import KeptReads
from mmnet_maps.stack.needs import Needs
from mmnet_maps.stack.pixels import template_of
from mmnet_maps.stack.plan import Request, pace
from mmnet_maps.stack.point_plan import Point, plan_points
from mmnet_maps.stack.products import products_of
from mmnet_maps.variables import FINE_GROUPS

SECONDS = 10.0
"""Assumed time of a request. No service has been timed: it may as well be a third of that, or three times as much."""

RANGE_SECONDS = 0.5
"""Assumed time of a request for a part of a file."""

LOOKED_UP = 8
"""Reads of a group whose requests are looked up; of each, a service lists the days with data."""

_GATHERED = 256
"""The same of a group whose reads gather points by files: they differ much, and share what services list."""


@dataclass(frozen=True, kw_only=True)
class PointsEstimate:
    """Cost of reading the inputs of points.

    Attributes
    ----------
    groups
        By group; extrapolated from some reads where there are more than `LOOKED_UP`.
    points
        Number of points.
    concurrent
        Reads at a time.
    """

    groups: Sequence[Estimate]
    points: int
    concurrent: int

    @property
    def cost(self) -> Cost | None:
        """Cost at services; None where all inputs are local."""
        costs = [one.cost for one in self.groups if one.known and one.cost is not None]
        return sum_costs(costs) if costs else None

    @property
    def time(self) -> timedelta | None:
        """Time of the requests by `SECONDS` and `RANGE_SECONDS`; None where all inputs are local."""
        if not self.cost:
            return None
        others = self.cost.requests - self.cost.ranges
        return timedelta(seconds=(others * SECONDS + self.cost.ranges * RANGE_SECONDS) / self.concurrent)


def estimate_points(
    sources: Sequence[Source],
    points: Sequence[Point],
    needs: Needs,
    *,
    folder: Path | None = None,
    today: date | None = None,
) -> PointsEstimate:
    """Estimate the reads of `pixels.point_stacks` with the same arguments; no values are read and nothing is written.

    Sources list their grids, and the days with data of a few reads of each group: not of all, since every
    answer is a request too.

    Raises
    ------
    RequestError, InputError
        As `pixels.point_stacks`.
    """
    chosen = assign_needed(sources, needs)
    with template_of(sources) as template:
        kept = KeptReads(folder or template.path.parent, sources, needs)
        plans = plan_points(template, points, needs, today or date.today(), chosen.values())
        due: dict[str, dict[int, Request]] = {}
        for read in (read for plan in plans for read in plan.all_reads):
            if folder is None or not kept.path(read).exists():
                due.setdefault(read.request.group.name, {})[id(read)] = read.request
        gathering = [source for source in chosen.values() if isinstance(source, Gathering)]
        concurrent = pace(chosen.values()).reads
        with ThreadPoolExecutor(concurrent) as pool:
            groups = []
            for reads in map(list, map(dict.values, due.values())):
                kind = reads[0].group.kind
                gathered = kind not in FINE_GROUPS and any(source.side(kind) for source in gathering)
                groups.append(_estimate(reads, chosen, pool, _GATHERED if gathered else LOOKED_UP))
    return PointsEstimate(groups=groups, points=len(points), concurrent=concurrent)


def _estimate(reads: Sequence[Request], chosen: Mapping[str, Source], pool: ThreadPoolExecutor, most: int) -> Estimate:
    """Extrapolate from at most so many of the reads of a group to all of them, by days and by values."""
    some = [reads[k] for k in np.unique(np.linspace(0, len(reads) - 1, most).astype(int))]
    costing = Costing(chosen)
    sizes, costs = zip(*pool.map(costing, some), strict=True)
    of_days = sum(len(read.days) for read in reads) / sum(len(read.days) for read in some)
    of_values = sum(read.cells for read in reads) / sum(read.cells for read in some)
    charged = [cost for cost in costs if cost is not None]
    found = sum_costs(charged)
    scaled = Cost(
        requests=round(of_days * found.requests),
        bytes=round(of_values * found.bytes),
        values=round(of_values * found.values),
        eecu_hours=of_values * found.eecu_hours,
        ranges=round(of_days * found.ranges),
    )
    return Estimate(
        group=reads[0].group.name,
        products=products_of(reads[0].group, chosen),
        reads=len(reads),
        days=len({day for read in reads for day in read.days}),
        first=min(read.days[0] for read in reads),
        last=max(read.days[-1] for read in reads),
        bytes=round(of_values * sum(sizes)),
        cost=scaled if charged else None,
        known=not costing.unknown,
    )
