"""What services have of products, asked once for a box and some days, and remembered."""

from __future__ import annotations

import math
from calendar import monthrange
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from threading import Lock

from mmnet_maps.sources.files.alignment import Box
from mmnet_maps.sources.open.config import Product
from mmnet_maps.sources.open.service import Found, Service

_KEPT = 64
"""Answers for a product that are remembered: those of places far apart would fill the memory."""

_Place = tuple[Box, date, date]


@dataclass
class _Search:
    """A box and days that a service was asked about, and its answer."""

    lock: Lock = field(default_factory=Lock)
    found: list[Found] | None = None


class Finds:
    """The memory of one source; threads share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._searches: dict[str, OrderedDict[_Place, _Search]] = {}

    def of(self, key: str, product: Product, service: Service, box: Box, first: date, last: date) -> list[Found]:
        """Return what a service has of a product in a box and some days, by their names.

        New requests are for the whole degrees and months around it, so that neighbouring windows need no further ones.

        Raises
        ------
        SourceDownError
            When the service does not answer.
        """
        place, search = self._search(key, box, first, last)
        with search.lock:  # of two threads with the same question, one asks
            if search.found is None:
                search.found = service.find(product, *place)
            return sorted(_meeting(search.found, box, first, last), key=lambda one: one.key)

    def _search(self, key: str, box: Box, first: date, last: date) -> tuple[_Place, _Search]:
        """Return the search that answers a question: one before it, else a new one."""
        with self._lock:
            known = self._searches.setdefault(key, OrderedDict())
            for place in reversed(known):
                there, since, until = place
                if _within(box, there) and since <= first and last <= until:
                    known.move_to_end(place)
                    return place, known[place]
            place = _around(box), first.replace(day=1), _month_end(last)
            known[place] = _Search()
            if len(known) > _KEPT:
                known.popitem(last=False)
            return place, known[place]


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
