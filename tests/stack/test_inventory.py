"""Inventories of stacks, against counts by brute force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from analytic import AnalyticSource, source_of
from mmnet_maps.errors import OutputError
from mmnet_maps.grid.area import Area
from mmnet_maps.grid.lattice import cover
from mmnet_maps.grid.mask import area_mask
from mmnet_maps.grid.tiles import conus_grid, target_grid, tile_geobox, tiles
from mmnet_maps.mapping.check import check
from mmnet_maps.stack import availability, inventory
from mmnet_maps.stack.inventory import DailyShares, Inventory, Scope, daily_shares, survey, take_inventory
from mmnet_maps.stack.inventory_layers import read_layer, shown_day, shown_grid
from mmnet_maps.stack.inventory_plot import draw_inventory
from mmnet_maps.stack.inventory_text import as_json, format_inventory, marks_of, write_inventory
from mmnet_maps.stack.reader import read_block
from mmnet_maps.stack.store import Stack
from mmnet_maps.variables import FINE_GROUPS, FIRST_DAY, SEARCH_DAYS, VARIABLES
from patchy import DAY, HERE, NEEDS, THERE, Patchy, fill, later, patchy_stack

ONE_OF_A_GROUP = ("landcover", "red", "vv", "smap", "lst", "pr")


@pytest.fixture(scope="module")
def patchy(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack of two areas on different days, with every kind of gap."""
    return patchy_stack(tmp_path_factory.mktemp("inventory") / "s.zarr", Patchy())


def brute_force(stack: Stack, name: str, days: Sequence[date], area: Area | None) -> list[tuple[float, ...]]:
    """Shares observed, interpolated, missing, never fetched, and the mean age, from `Stack.read` and `Stack.marks`."""
    group = stack.group_of(name)
    reach = SEARCH_DAYS.get(group.kind, 0)
    whole = tuple(slice(0, size) for size in group.lattice.shape)
    every = [date(2021, 5, 1) + timedelta(days=k) for k in range(200)] if group.temporal else [DAY]
    marks = dict(zip(every, stack.marks(group, whole, every), strict=True))
    if area:
        grid = target_grid(area)
        windows = [cover(grid, group.lattice)]
    else:
        ever = np.any([mark > 0 for mark in marks.values()], axis=0)
        size = group.block
        windows = [
            group.whole_blocks((slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size)))
            for i, j in np.argwhere(ever)
        ]
    totals = np.zeros((len(days), 5))
    count = 0
    for window in windows:
        inside = np.ones([part.stop - part.start for part in window], bool)
        if area:
            inside = area_mask(area, group.lattice[window], touched=group.kind not in FINE_GROUPS)
        count += int(inside.sum())
        rows, cols = np.ix_(*(np.arange(part.start, part.stop) // group.block for part in window))
        seen = {}
        for day in every:
            values = stack.read(name, window, day if group.temporal else None)
            seen[day] = (values != 0) if VARIABLES[name].dtype == "uint8" else ~np.isnan(values)
        for k, day in enumerate(days):
            now = day if group.temporal else DAY
            age = np.full(inside.shape, np.inf)
            for other in every:
                if abs((other - now).days) <= reach:
                    age[seen[other]] = np.minimum(age[seen[other]], abs((other - now).days))
            fetched = marks[now][rows, cols] > 0
            usable = np.isfinite(age)
            classes = (age == 0, usable & (age > 0), ~usable & fetched, ~usable & ~fetched)
            totals[k, :4] += [(part & inside).sum() for part in classes]
            totals[k, 4] += age[usable & inside].sum()
    with np.errstate(invalid="ignore"):
        return [(*(row[:4] / count), row[4] / (row[0] + row[1])) for row in totals]


@pytest.mark.parametrize("area", [None, HERE, THERE], ids=["all", "here", "there"])
@pytest.mark.parametrize("name", ONE_OF_A_GROUP)
def test_availability_is_what_brute_force_counts(patchy: Stack, name: str, area: Area | None) -> None:
    days = [later(k) for k in range(-4, 9)]
    found = take_inventory(patchy, days, area).table[name]
    expected = np.array(brute_force(patchy, name, days, area)).T
    shares = [found.observed, found.interpolated, found.missing, found.unfetched]
    np.testing.assert_allclose(shares, expected[:4], atol=1e-12)
    np.testing.assert_allclose(found.age, expected[4], rtol=1e-12)
    np.testing.assert_allclose(np.sum(shares, axis=0), 1)


def test_the_cases_are_there(patchy: Stack) -> None:
    """The stack that the counts are compared on has all four classes, also in parts."""
    days = [later(k) for k in range(-4, 9)]
    table = take_inventory(patchy, days).table
    for share in ("observed", "interpolated", "missing", "unfetched"):
        values = np.concatenate([getattr(entry, share) for entry in table.values()])
        assert ((values > 0) & (values < 1)).any(), share


def test_days_in_any_number_and_order_of_parts_give_the_same(patchy: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    days = [later(k) for k in (-40, -4, 0, 1, 2, 3, 8)]
    group = patchy.group_of("red")
    scope = Scope(group=group, blocks=survey(patchy, group).fetched)
    whole = daily_shares(patchy, scope, ["red"], days)["red"]
    monkeypatch.setattr(inventory, "_DAYS", 2)
    monkeypatch.setattr(availability, "_SPAN", 5)
    monkeypatch.setattr(inventory, "_ROWS", 256)
    monkeypatch.setattr(inventory, "_COLS", 256)
    scope = Scope(group=group, blocks=survey(patchy, group).fetched)
    parts = daily_shares(patchy, scope, ["red"], days)["red"]
    for share in ("observed", "interpolated", "missing", "unfetched", "age"):
        np.testing.assert_array_equal(getattr(parts, share), getattr(whole, share))


def test_what_was_never_fetched_is_not_what_was_empty(patchy: Stack) -> None:
    found = take_inventory(patchy, [later(k) for k in range(10)], HERE).table["smap"]
    assert found.observed[0] == 1  # fetched, with data
    assert found.unfetched[1] == 1  # no map of that day was fetched for
    assert found.missing[2] == 1  # fetched, and the product has nothing
    assert marks_of(found)[:3] == ["#", "-", " "]


def test_values_without_a_mark_do_not_count(tmp_path: Path) -> None:
    fill(tmp_path / "s.zarr", source_of(NEEDS), HERE, [DAY])
    stack = Stack(tmp_path / "s.zarr", writable=True)
    before = take_inventory(stack, [DAY]).table["smap"]
    assert before.observed[0] == 1
    stack._array("smap/fetched")[(DAY - FIRST_DAY).days] = 0
    after = take_inventory(Stack(tmp_path / "s.zarr"), [DAY], HERE).table["smap"]
    assert (after.observed[0], after.unfetched[0]) == (0, 1)


def test_contents_are_those_of_the_marks(patchy: Stack) -> None:
    found = take_inventory(patchy)
    for held in found.contents.values():
        group = held.group
        whole = tuple(slice(0, size) for size in group.lattice.shape)
        every = [date(2021, 5, 1) + timedelta(days=k) for k in range(200)]
        marks = patchy.marks(group, whole, every)
        np.testing.assert_array_equal(held.fetched, (marks > 0).any(0))
        np.testing.assert_array_equal(held.filled, (marks > 1).any(0))
        if group.temporal:
            assert held.days == tuple(d for d, mark in zip(every, marks, strict=True) if (mark > 1).any())
            assert held.days_fetched == tuple(d for d, mark in zip(every, marks, strict=True) if mark.any())
        folder = patchy.path / group.name
        assert held.size == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert found.tile_ids == ["h06v03", "h07v04"]
    west, south, east, north = found.bounds or (0, 0, 0, 0)
    for area in (HERE, THERE):
        left, bottom, right, top = area.geometry.bounds
        assert west < left < right < east
        assert south < bottom < top < north
    assert [found.days[0], found.days[-1]] == [DAY, later(6)]  # the days with SMAP and weather


def test_many_parts_are_sampled_evenly(patchy: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "_MOST_PARTS", 3)
    group = patchy.group_of("red")
    blocks = np.zeros([-(-size // 256) for size in group.lattice.shape], bool)
    blocks[8:20, 20:24] = True
    scope = Scope(group=group, blocks=blocks)
    assert len(scope.parts) == 6
    chosen = scope.chosen()
    assert [scope.parts.index(part) for part in chosen] == [0, 2, 5]


def test_an_empty_stack_can_be_looked_at(tmp_path: Path) -> None:
    from mmnet_maps.stack.fetch import open_or_create

    open_or_create(tmp_path / "s.zarr", [AnalyticSource()], conus_grid())
    stack = Stack(tmp_path / "s.zarr")
    found = take_inventory(stack)
    assert found.days == ()
    assert found.bounds is None
    assert "no day holds data" in format_inventory(found)
    draw_inventory(found, tmp_path / "s.png")
    verdict = check(stack, NEEDS, [DAY])
    assert "no place has both" in verdict.gaps[0].text
    assert verdict.able == []
    asked = take_inventory(stack, [DAY], HERE)
    assert asked.table["smap"].unfetched[0] == 1


def test_the_text_says_what_there_is(patchy: Stack) -> None:
    text = format_inventory(take_inventory(patchy, [later(k) for k in range(-4, 9)]))
    assert "EPSG:5070, 100 m, 48128 x 30720" in text
    assert "h06v03, h07v04" in text
    assert "closed formula, version 1, CC0-1.0, from files: " in text
    assert "SYNTHETIC" not in text
    assert "smap m³/m³" in text
    rows = text.splitlines()[text.splitlines().index("") :]
    smap = [row for row in rows if row.startswith("smap  ")][-1]
    assert smap == "smap          ----#- ---#--"  # the tenth was fetched, and the product has nothing
    assert "day of month  4     10\n" in text
    assert max(map(len, text.splitlines())) < 220


def test_synthetic_inputs_are_declared(tmp_path: Path) -> None:
    stack = fill(tmp_path / "s.zarr", source_of(NEEDS, synthetic=True), HERE, [DAY])
    text = format_inventory(take_inventory(stack))
    assert text.splitlines()[1].startswith("SYNTHETIC INPUTS")
    assert ", SYNTHETIC: " in text


@pytest.mark.parametrize(
    ("observed", "interpolated", "missing", "mark"),
    [(0.5, 0, 0.5, "#"), (0.49, 0.5, 0, "+"), (0, 0.1, 0.9, "."), (0, 0, 1, " "), (0, 0, 0.2, "-")],
)
def test_a_character_a_day(observed: float, interpolated: float, missing: float, mark: str) -> None:
    shares = {"observed": observed, "interpolated": interpolated, "missing": missing}
    shares["unfetched"] = 1 - sum(shares.values())
    entry = DailyShares(age=np.zeros(1), **{name: np.array([share]) for name, share in shares.items()})
    assert marks_of(entry) == [mark]


def test_json_holds_all_of_it(patchy: Stack, tmp_path: Path) -> None:
    found = take_inventory(patchy, [later(k) for k in range(3)])
    write_inventory(found, tmp_path / "s.json")
    content = json.loads((tmp_path / "s.json").read_text())
    assert content == json.loads(json.dumps(as_json(found)))
    assert set(content["variables"]) == set(VARIABLES) == set(content["availability"]["shares"])
    assert content["variables"]["smap"]["provenance"]["product"] == "closed formula"
    assert content["bytes"] == sum(group["bytes"] for group in content["groups"].values())
    np.testing.assert_allclose(
        content["availability"]["shares"]["red"]["observed"], found.table["red"].observed, atol=1e-6
    )


def colours(path: Path) -> set[tuple[int, int, int]]:
    found = np.unique((imread(path)[..., :3] * 255).round().astype(int) @ [1 << 16, 1 << 8, 1])
    return {(one >> 16, one >> 8 & 255, one & 255) for one in found.tolist()}


def test_the_picture(patchy: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmnet_maps.stack.inventory_plot._DPI", 60)
    found = take_inventory(patchy, [later(k) for k in range(-4, 9)])
    draw_inventory(found, tmp_path / "s.png")
    assert {(11, 79, 138), (242, 177, 52), (220, 220, 220)} <= colours(tmp_path / "s.png")
    assert shown_day(found) == DAY  # later there is no radar
    draw_inventory(found, tmp_path / "s.png")  # its own picture may be replaced
    (tmp_path / "mine.png").write_bytes(b"somebody's")
    with pytest.raises(OutputError, match="never overwritten"):
        draw_inventory(found, tmp_path / "mine.png")


def test_the_picture_shows_what_a_map_takes(patchy: Stack) -> None:
    found = take_inventory(patchy, [later(-1), DAY], HERE)
    grid, step = shown_grid(found)
    assert step == 1
    tile = tiles(grid)[0].geobox
    snapshot = next(read_block(patchy, tile, NEEDS, [DAY], smap_resampling="nearest").snapshots)
    for name in ("red", "vv", "smap"):
        layer = read_layer(found, name, DAY, grid, step)[: tile.shape.y, : tile.shape.x]
        clear = ~snapshot.gap_filled if name == "smap" else np.ones(tile.shape, bool)
        np.testing.assert_allclose(layer[clear], snapshot.physical(name)[clear], rtol=1e-5)
    codes = read_layer(found, "landcover", DAY, grid, step)[: tile.shape.y, : tile.shape.x]
    np.testing.assert_array_equal(np.nan_to_num(codes), snapshot.fine["landcover"])


def test_thinning_picks_single_pixels(patchy: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    found = take_inventory(patchy, [DAY], HERE)
    whole, _ = shown_grid(found)
    full = read_layer(found, "vv", DAY, whole, 1)
    monkeypatch.setattr("mmnet_maps.stack.inventory_layers._PIXELS", 37)
    grid, step = shown_grid(found)
    assert step > 1
    thin = read_layer(found, "vv", DAY, grid, step)
    picked = full[step // 2 :: step, step // 2 :: step]
    np.testing.assert_array_equal(thin[: picked.shape[0], : picked.shape[1]], picked)


def test_an_inventory_reads_no_more_than_is_marked(patchy: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = 0
    read = Stack.read_packed

    def counted(self: Stack, name: str, window: tuple[slice, slice], day: date | None = None) -> np.ndarray:
        nonlocal cells
        values = read(self, name, window, day)
        cells = max(cells, values.size)
        return values

    monkeypatch.setattr(Stack, "read_packed", counted)
    found: Inventory = take_inventory(patchy)
    assert found.table
    assert 0 < cells <= 512 * 1024 < tile_geobox("h06v03").shape.x ** 2
