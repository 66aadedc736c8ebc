"""What services have of products, asked once for a box and some days, and remembered."""

from __future__ import annotations

import math
from calendar import monthrange
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from threading import Lock

from mmnet_maps.sources.files.alignment import Box
from mmnet_maps.sources.open.config import Product
from mmnet_maps.sources.open.service import Found, Service


@dataclass
class _Known:
    """Boxes and days that the service of a product was asked about, and what it has there."""

    lock: Lock = field(default_factory=Lock)
    asked: list[tuple[Box, date, date]] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)


class Finds:
    """The memory of one source; threads share it."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def of(self, key: str, product: Product, service: Service, box: Box, first: date, last: date) -> list[Found]:
        """Return what a service has of a product in a box and some days, by their names.

        New requests are for the whole degrees and months around it, so that neighbouring windows need no further ones.

        Raises
        ------
        SourceDownError
            When the service does not answer.
        """
        known = self._known.setdefault(key, _Known())
        with known.lock:
            if not any(_within(box, there) and since <= first and last <= until for there, since, until in known.asked):
                wide, since, until = _around(box), first.replace(day=1), _month_end(last)
                known.found.update({one.key: one for one in service.find(product, wide, since, until)})
                known.asked.append((wide, since, until))
            return sorted(_meeting(known.found.values(), box, first, last), key=lambda one: one.key)


def _meeting(found: Iterable[Found], box: Box, first: date, last: date) -> Iterator[Found]:
    """Yield what may hold values in a box and some days."""
    west, south, east, north = box
    for one in found:
        left, bottom, right, top = one.box
        dated = one.first is None or one.last is None or (one.first <= last and first <= one.last)
        if dated and left <= east and west <= right and bottom <= north and south <= top:
            yield one


def _within(box: Box, there: Box) -> bool:
    return there[0] <= box[0] and there[1] <= box[1] and box[2] <= there[2] and box[3] <= there[3]


def _around(box: Box) -> Box:
    """Return the whole degrees around a box.

    Examples
    --------
    >>> _around((-119.6, 47.1, -119.0, 47.2))
    (-120.0, 47.0, -119.0, 48.0)
    """
    west, south, east, north = box
    return float(math.floor(west)), float(math.floor(south)), float(math.ceil(east)), float(math.ceil(north))


def _month_end(day: date) -> date:
    return day.replace(day=monthrange(day.year, day.month)[1])
