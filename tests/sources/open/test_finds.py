"""What services have, asked once for a place and remembered for a while."""

from __future__ import annotations

from datetime import date
from typing import Any

from mmnet_maps.sources.files.alignment import Box
from mmnet_maps.sources.open import finds
from mmnet_maps.sources.open.finds import Finds
from mmnet_maps.sources.open.service import Found


class Catalogue:
    """A service with one thing a square degree and month; it records what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Box, date, date]] = []

    def find(self, product: Any, box: Box, first: date, last: date) -> list[Found]:
        self.asked.append((box, first, last))
        west, south, east, north = (int(edge) for edge in box)
        return [
            Found(key=f"{x} {y} {first}", first=first, last=last, box=(x, y, x + 1, y + 1))
            for x in range(west, east)
            for y in range(south, north)
        ]


def keys(known: Finds, service: Any, box: Box, first: date, last: date) -> list[str]:
    return [one.key for one in known.of("a product", None, service, box, first, last)]  # type: ignore[arg-type]


def test_neighbours_share_an_answer_and_old_ones_are_forgotten(monkeypatch: Any) -> None:
    monkeypatch.setattr(finds, "_KEPT", 3)
    known, service = Finds(), Catalogue()
    day, later = date(2021, 8, 8), date(2021, 8, 20)
    assert keys(known, service, (-119.6, 47.1, -119.2, 48.2), day, later) == [
        "-120 47 2021-08-01",
        "-120 48 2021-08-01",
    ]
    assert keys(known, service, (-119.5, 47.3, -119.4, 47.4), later, later) == ["-120 47 2021-08-01"]
    assert service.asked == [((-120.0, 47.0, -119.0, 49.0), date(2021, 8, 1), date(2021, 8, 31))]
    for west in (-100, -101, -102):
        keys(known, service, (west + 0.1, 40.1, west + 0.2, 40.2), day, later)
    keys(known, service, (-101.9, 40.1, -101.8, 40.2), day, later)
    assert len(service.asked) == 4
    keys(known, service, (-119.5, 47.3, -119.4, 47.4), day, day)  # forgotten
    assert len(service.asked) == 5
