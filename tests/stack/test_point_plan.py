"""Points read together: each coarse cell and pixel once, values as for each point alone, resumed after any read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from analytic import AnalyticSource, source_of
from mmnet_maps.errors import InputError
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.tiles import conus_grid, pixel_of
from mmnet_maps.sources.base import Cost, Rasters
from mmnet_maps.stack.needs import PAD, Needs
from mmnet_maps.stack.pixels import point_stacks, read_pixel, sample
from mmnet_maps.stack.point_estimate import RANGE_SECONDS, SECONDS, estimate_points
from mmnet_maps.stack.point_plan import Point
from mmnet_maps.variables import FINE_GROUPS

NEEDS = Needs(snapshot=("smap", "red", "landcover"), series=("pr", "lst"), steps=4, includes_day=True)
PLACES = [(-119.30, 47.10), (-119.29, 47.11), (-97.10, 36.10), (-119.30, 47.10)]
YEARS = [date(2019, 12, 30) + timedelta(days=k) for k in range(4)]


class Counting(AnalyticSource):
    """A source that records the window of each read, and fails instead of the one after `most`."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__(without=source_of(NEEDS).without)
        self.windows: list[tuple[str, GeoBox, tuple[date, ...]]] = []
        self.most, self.lock = most, Lock()

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        with self.lock:
            if len(self.windows) == self.most:
                raise InputError("no answer")
            self.windows.append((group, geobox, tuple(days)))
        return super().read(group, geobox, days)


def points(places: Sequence[tuple[float, float]] = PLACES, days: Sequence[date] = YEARS) -> list[Point]:
    grid = conus_grid()
    return [Point(name=f"point {k}", pixel=pixel_of(grid, *place), days=tuple(days)) for k, place in enumerate(places)]


def rows(source: AnalyticSource, at: Sequence[Point], **options: Any) -> list[dict[str, Any]]:
    return [
        {"number": number, "days": days, **read_pixel(stack, at[number].pixel, days, NEEDS)}
        for number, days, stack in point_stacks([source], at, NEEDS, **options)
    ]


def same(found: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in other.items():
            np.testing.assert_array_equal(one[name], values, err_msg=name)


def test_points_together_are_the_points_alone_and_share_what_they_have_in_common() -> None:
    source, together = Counting(), points()
    found = rows(source, together)
    assert [(row["number"], len(row["days"])) for row in found] == [(k, 2) for k in range(4) for _ in range(2)]
    for k, point in enumerate(together):
        alone = [{**row, "number": k} for row in rows(Counting(), [point])]
        same([row for row in found if row["number"] == k], alone)
    reads = [group for group, _, _ in source.windows]
    # Two places of cells: of the three pixels near one another, two are the same.
    assert {group: reads.count(group) for group in set(reads)} == {
        "smap": 2, "weather": 2, "lst": 2, "optical": 3, "landcover": 3,
    }  # fmt: skip


def test_a_read_holds_the_cells_around_its_points_and_no_day_twice() -> None:
    source = Counting()
    rows(source, points())
    for group in ("smap", "weather", "lst"):
        lattice, mine = source.lattice(group), [one for one in source.windows if one[0] == group]
        for _, geobox, days in mine:
            assert max(geobox.shape) <= 2 * PAD + 4
            assert sorted(set(days)) == list(days)
        for point in points():
            assert any(set(_cells(lattice[cover(point.pixel, lattice, PAD)])) <= set(_cells(box)) for _, box, _ in mine)


def _cells(box: GeoBox) -> list[tuple[int, int]]:
    x, y = box.affine * (0.5, 0.5)
    return [
        (round((x + col * box.affine.a) / box.affine.a * 2), round((y + row * box.affine.e) / box.affine.e * 2))
        for row in range(box.shape.y)
        for col in range(box.shape.x)
    ]


def test_many_days_are_read_in_spans_of_a_year_and_what_is_around_it() -> None:
    few = Needs(snapshot=("smap", "landcover"), series=("pr",), steps=2, includes_day=True)
    source = source_of(few)
    days = [date(2018, 1, 1) + timedelta(days=k) for k in range(0, 1200, 30)]
    found = sample([source], PLACES[:1], days, few)
    assert found["date"].astype(object).tolist() == days
    assert sorted(group for group, _ in source.reads) == ["landcover"] + ["smap"] * 3 + ["weather"]
    for group, most in (("smap", 460), ("weather", 1830)):
        spans = [read for name, read in source.reads if name == group]
        assert all((span[-1] - span[0]).days < most for span in spans)
        assert len({day for span in spans for day in span}) == sum(map(len, spans))
    assert np.isfinite(found["pr"]).all()


def test_a_source_whose_requests_cost_the_same_for_more_cells_is_read_once_for_all_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Whole(Counting):
        def side(self, group: str) -> int | None:
            return 100_000 if group in ("smap", "landcover", "optical") else None

    monkeypatch.setattr("mmnet_maps.stack.point_plan._VALUES", 60_000)  # of SMAP a day or two at a time
    whole, apart = Whole(), Counting()
    same(rows(whole, points()), rows(apart, points()))
    reads = [group for group, _, _ in whole.windows]
    assert {group: reads.count(group) for group in ("weather", "lst", "optical", "landcover")} == {
        "weather": 2, "lst": 2, "optical": 3, "landcover": 3,
    }  # fmt: skip
    smap = [(box, days) for group, box, days in whole.windows if group == "smap"]
    assert len(smap) > 1
    assert len({box for box, _ in smap}) == 1
    assert all(box.shape.x * box.shape.y * len(days) <= 60_000 or len(days) == 1 for box, days in smap)
    assert sorted(day for _, days in smap for day in days) == sorted({day for _, days in smap for day in days})


@pytest.mark.parametrize("most", [0, 1, 5, 9, 11])
def test_whatever_read_fails_it_names_the_point_and_the_others_are_not_repeated(tmp_path: Path, most: int) -> None:
    wanted, whole = points(), Counting()
    expected = rows(whole, wanted)
    dying, again = Counting(most), Counting()
    with pytest.raises(InputError, match=r"^point \d: no answer$"):
        rows(dying, wanted, folder=tmp_path)
    same(rows(again, wanted, folder=tmp_path), expected)
    assert len(dying.windows) == most
    reads = [str(read) for one in (dying, again) for read in one.windows]
    assert sorted(reads) == sorted(map(str, whole.windows))
    nothing = Counting(0)
    same(rows(nothing, wanted, folder=tmp_path), expected)


def test_points_that_are_not_wanted_leave_the_reads_of_the_others_as_they_are(tmp_path: Path) -> None:
    wanted = points()
    expected = rows(Counting(), wanted, folder=tmp_path)
    nothing = Counting(0)
    same(rows(nothing, wanted, folder=tmp_path, wanted=[1, 2]), expected[2:6])
    assert not nothing.windows


def test_days_after_today_are_not_read() -> None:
    source = Counting()
    found = rows(source, points(PLACES[:1]), today=YEARS[1])
    assert max(day for _, _, days in source.windows for day in days) == YEARS[1]
    assert np.isfinite(found[0]["pr"]).all()
    assert np.isnan(found[1]["smap"]).all()
    assert (found[1]["landcover"] == 0).all()


def test_a_point_off_an_input_is_named() -> None:
    class Small(Counting):
        def lattice(self, group: str) -> GeoBox:
            return super().lattice(group)[:, :400] if group == "weather" else super().lattice(group)

    with pytest.raises(InputError, match=r"point 2: .* lies outside the inputs' grid"):
        rows(Small(), points())


class Charged(Counting):
    """A source that sends a request for each ten days of a read, and one for each list of days."""

    lists = 0

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        self.lists += 1
        return super().days(group, geobox, start, end)

    def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
        values = int(np.prod(geobox.shape)) * len(days)
        requests = -(-len(days) // 10)
        return Cost(requests=requests, bytes=3 * values, values=values, ranges=requests * (group == "optical"))


def test_an_estimate_is_near_what_is_read_and_asks_for_little(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    places = list(zip(random.uniform(-120, -100, 40), random.uniform(36, 46, 40), strict=True))
    source, wanted = Charged(), points(places)
    found = estimate_points([source], wanted, NEEDS, folder=tmp_path)
    assert source.windows == []
    assert source.lists <= 8 * 4
    assert list(tmp_path.iterdir()) == []
    assert found.cost is not None
    assert found.time is not None
    seconds = (found.cost.requests - found.cost.ranges) * SECONDS + found.cost.ranges * RANGE_SECONDS
    assert 0 < found.cost.ranges < found.cost.requests
    assert found.time.total_seconds() == seconds / found.concurrent

    real = Charged()
    stacks = point_stacks([real], wanted, NEEDS, folder=tmp_path)
    assert len({number for number, _, _ in stacks}) == 40
    assert sum(one.reads for one in found.groups) == len(real.windows)
    sent = [real.cost(*read) for read in real.windows]
    assert found.cost.requests == pytest.approx(sum(one.requests for one in sent), rel=0.05)
    assert found.cost.bytes == pytest.approx(sum(one.bytes for one in sent), rel=0.05)
    assert estimate_points([Charged()], wanted, NEEDS, folder=tmp_path).groups == []


def test_reads_that_gather_points_by_files_are_looked_up_one_by_one() -> None:
    class Tiled(Charged):
        """A source whose reads cost as much as they are high."""

        def side(self, group: str) -> int | None:
            assert group not in FINE_GROUPS
            return 64 if group == "lst" else None

        def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
            return Cost(requests=geobox.shape[0], bytes=geobox.shape[0] * len(days), values=0)

    random = np.random.default_rng(0)
    wanted = points(list(zip(random.uniform(-120, -100, 40), random.uniform(36, 46, 40), strict=True)))
    (found,) = (one for one in estimate_points([Tiled()], wanted, NEEDS).groups if one.group == "lst")
    real = Tiled()
    list(point_stacks([real], wanted, NEEDS))
    sent = [real.cost(*read) for read in real.windows if read[0] == "lst"]
    assert len(sent) == found.reads > 8
    assert len({cost.requests for cost in sent}) > 1
    assert found.cost is not None
    assert found.cost.requests == sum(cost.requests for cost in sent)


def test_a_service_without_a_day_is_sent_no_request() -> None:
    class Empty(Charged):
        def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
            return [] if group == "optical" else super().days(group, geobox, start, end)

    (found,) = (one for one in estimate_points([Empty()], points(), NEEDS).groups if one.group == "optical")
    assert found.cost == Cost(requests=0, bytes=0, values=0)
    assert found.reads == 3


def test_an_estimate_of_local_inputs_has_no_cost() -> None:
    found = estimate_points([Counting()], points(), NEEDS)
    assert found.cost is None
    assert found.time is None
    assert {one.group: one.reads for one in found.groups} == {
        "smap": 2, "optical": 3, "landcover": 3, "weather": 2, "lst": 2,
    }  # fmt: skip
