"""Tables built from observations: rows, windows and values, compared with the inputs of maps and closed formulas."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from odc.geo.geobox import GeoBox

from analytic import LATTICES, AnalyticSource
from insitu_files import uscrn
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import pixel_of, target_grid, touched_tiles
from mmnet_maps.model.features import Feature, encode_snapshot
from mmnet_maps.model.indices import INDICES
from mmnet_maps.sources.base import Rasters
from mmnet_maps.stack.availability import fetched_at, fetched_days, require
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs, fine_window
from mmnet_maps.stack.pixels import sample
from mmnet_maps.stack.store import Stack
from mmnet_maps.training.build_table import METADATA, build_samples, make_samples, region
from mmnet_maps.training.table import read_samples
from mmnet_maps.variables import LANDCOVER_CLASSES
from station_tables import small_config

NEEDS = Needs(
    snapshot=("smap", "red", "nir", "vv", "vh", "landcover", "clay"),
    series=("pr", "lst", "smap"),
    steps=4,
    includes_day=True,
)
FEW = Needs(snapshot=("smap", "landcover"), series=("pr",), steps=2, includes_day=True)
"""Needs that are quick to sample."""

PLACES = {"Ephrata": (47.11, -119.29), "Moses": (47.12, -119.28)}
DAYS = [date(2021, 8, 1), date(2021, 8, 2), date(2021, 8, 5)]


def observed(places: dict[str, tuple[float, float]] = PLACES, days: list[date] = DAYS) -> pa.Table:
    rows = [(name, day) for name in sorted(places) for day in days]
    return pa.table(
        {
            "station": [name for name, _ in rows],
            "network": ["USCRN"] * len(rows),
            "date": pa.array([day for _, day in rows], pa.date32()),
            "lat": [places[name][0] for name, _ in rows],
            "lon": [places[name][1] for name, _ in rows],
            "elevation": pa.nulls(len(rows), pa.float32()),
            "soil_moisture": pa.array(np.linspace(0.1, 0.3, len(rows)), pa.float32()),
        }
    )


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return build_samples(observed(), [AnalyticSource()], NEEDS)


def test_a_row_is_an_observation_and_the_inputs_at_its_station(table: pa.Table) -> None:
    known = observed()
    for name in ("station", "network", "date", "lat", "lon", "soil_moisture"):
        assert table[name].to_pylist() == known[name].to_pylist()
    assert set(table["region"].to_pylist()) == {"west"}
    inputs = sample([AnalyticSource()], [(lon, lat) for lat, lon in PLACES.values()], DAYS, NEEDS)
    for name in ("smap", "red", "nir", "vv", "vh", "clay"):
        np.testing.assert_array_equal(table[name].to_numpy(), inputs[name].astype(np.float32), err_msg=name)
    for name, column in {"pr": "pr", "lst": "lst", "smap_series": "smap_series"}.items():
        np.testing.assert_array_equal(np.stack(table[name].to_numpy()), inputs[column], err_msg=name)
        assert table.schema.field(name).type == pa.list_(pa.float32(), 4)
    codes = {name: set(members) for name, members in LANDCOVER_CLASSES.items()}
    for found, code in zip(table["landcover"].to_pylist(), inputs["landcover"], strict=True):
        assert (found is None) if code == 11 else code in codes[found]


def test_windows_are_days_of_the_calendar_not_rows(table: pa.Table) -> None:
    lat, lon = PLACES["Ephrata"]
    x, y = (~LATTICES["weather"].affine) * (lon, lat)
    cell = LATTICES["weather"][int(y) : int(y) + 1, int(x) : int(x) + 1]
    for row, day in enumerate(DAYS):
        around = [day - timedelta(days=k) for k in (3, 2, 1, 0)]
        expected = [AnalyticSource().value("pr", cell, other)[0, 0] for other in around]
        np.testing.assert_allclose(table["pr"][row].as_py(), expected, atol=0.011)  # the stack's step is 0.02 mm


def test_the_table_has_every_index_of_its_bands(table: pa.Table) -> None:
    names = [name for name, index in INDICES.items() if set(index.bands) <= set(NEEDS.snapshot)]
    assert set(names) == {"ndvi", "cr", "dpsvim", "pol", "rvim", "vvvh"}
    bands = {name: table[name].to_numpy() for name in ("red", "nir", "vv", "vh")}
    for name in names:
        expected = encode_snapshot(bands, [Feature(name=name, encoding="identity")])[:, 0]
        np.testing.assert_array_equal(table[name].to_numpy(), expected)
    np.testing.assert_allclose(
        table["ndvi"].to_numpy(), (bands["nir"] - bands["red"]) / (bands["nir"] + bands["red"]), rtol=1e-5
    )
    assert "evi" not in table.column_names
    assert table["optical_age"].to_pylist() == [min(1, day.toordinal() % 3) for day in DAYS] * 2


def test_the_table_records_its_inputs(table: pa.Table, caplog: pytest.LogCaptureFixture) -> None:
    about = json.loads(table.schema.metadata[METADATA])
    assert about["inputs"] == dict.fromkeys(NEEDS.variables, "closed formula")
    assert about["synthetic"] is False
    assert caplog.text == ""
    made = build_samples(observed(days=DAYS[:1]), [AnalyticSource(synthetic=True)], FEW)
    assert json.loads(made.schema.metadata[METADATA])["synthetic"] is True
    assert "SYNTHETIC INPUTS" in caplog.text


def test_a_series_ends_on_the_day_itself_whatever_the_model(table: pa.Table) -> None:
    needs = replace(NEEDS, snapshot=("smap",), steps=3, includes_day=False)
    before = build_samples(observed(), [AnalyticSource()], needs)
    columns = ["station", "date", "smap", "pr", "lst", "smap_series"]
    assert before.select(columns).equals(table.select(columns))


def test_a_stack_gives_what_its_sources_give(tmp_path: Path, table: pa.Table) -> None:
    area = read_aoi("-119.30,47.10,-119.27,47.13")
    grid = target_grid(area)
    days = [date(2021, 8, 1) + timedelta(days=k) for k in range(5)]
    pieces = touched_tiles(area, grid)
    stack = fetch(
        tmp_path / "s.zarr", [AnalyticSource()], Demand(grid=grid, tiles=pieces, needs=NEEDS, days=days), quiet=True
    )
    assert build_samples(observed(), stack, NEEDS).equals(table)


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack of two days around the first station."""
    area = read_aoi("-119.30,47.10,-119.27,47.13")
    grid = target_grid(area)
    path = tmp_path_factory.mktemp("part") / "s.zarr"
    pieces = touched_tiles(area, grid)
    return fetch(path, [AnalyticSource()], Demand(grid=grid, tiles=pieces, needs=NEEDS, days=DAYS[:2]), quiet=True)


def test_stations_and_days_without_inputs_are_left_out_with_a_notice(
    part: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    places = PLACES | {"Stillwater": (36.12, -97.09), "Utrecht": (52.1, 5.2)}
    made = build_samples(observed(places), part, NEEDS)
    rows = list(zip(made["station"].to_pylist(), made["date"].to_pylist(), strict=True))
    assert rows == [(name, day) for name in PLACES for day in DAYS[:2]]
    assert "2 of 4 stations have no inputs and are left out: Stillwater, Utrecht" in caplog.text
    assert "2 days of the other stations are left out" in caplog.text
    with pytest.raises(InputError, match="none of the 1 stations"):
        build_samples(observed({"Stillwater": (36.12, -97.09)}), part, NEEDS)


def test_the_days_of_a_stack_are_those_of_possible_maps(part: Stack) -> None:
    pixel = pixel_of(part.target, -119.29, 47.11)
    days = [date(2021, 7, 25) + timedelta(days=k) for k in range(14)]
    able = []
    for day in days:
        try:
            require(part, pixel, NEEDS, [day])
        except InputError:
            continue
        able.append(day)
    assert fetched_days(part, pixel, NEEDS, days) == able == DAYS[:2]
    assert fetched_days(part, pixel, NEEDS, []) == []


def test_fetched_days_by_pixel_equal_those_of_each_pixel_alone(part: Stack) -> None:
    days = [date(2021, 7, 30) + timedelta(days=k) for k in range(5)]
    row, col = (part_.start for part_ in fine_window(pixel_of(part.target, -119.29, 47.11), part))
    window = slice(row - 300, row + 300), slice(col - 300, col + 300)
    random = np.random.default_rng(0)
    picked = np.append(random.integers(0, 600, 12), [300, 0]), np.append(random.integers(0, 600, 12), [300, 599])
    found = fetched_at(part, part.target[window], picked, NEEDS, days)
    for k, (i, j) in enumerate(zip(*picked, strict=True)):
        pixel = part.target[window][int(i) : int(i) + 1, int(j) : int(j) + 1]
        assert [day for day, there in zip(days, found[:, k], strict=True) if there] == fetched_days(
            part, pixel, NEEDS, days
        )
    assert found.any()
    assert not found.all(1).any()


def test_needs_that_cannot_be_met(part: Stack) -> None:
    with pytest.raises(InputError, match=r"has no vs|no source gives vpd"):
        build_samples(observed(), [AnalyticSource(without=("vpd",))], replace(NEEDS, series=("vpd",)))
    with pytest.raises(
        RequestError, match="no observation lies between 2021-08-06 and today.* 2021-08-01 to 2021-08-05"
    ):
        build_samples(observed(), part, NEEDS, start=date(2021, 8, 6))


def test_first_and_last_day() -> None:
    made = build_samples(observed(), [AnalyticSource()], FEW, start=DAYS[1], end=DAYS[1])
    assert made["date"].to_pylist() == [DAYS[1]] * 2


def test_regions_meet_at_the_borders_of_the_paper() -> None:
    assert [region(lon) for lon in (-104.01, -104.0, -91.01, -91.0)] == ["west", "middle", "middle", "east"]


def test_a_table_is_written_and_trained_on(tmp_path: Path) -> None:
    """From NOAA's files to a network: the table built for a configuration fits the training with it."""
    from mmnet_maps.mapping.request import needs_of
    from mmnet_maps.training.train import train

    snapshot = (Feature(name="smap", encoding="identity"), Feature(name="ndvi", encoding="identity"))
    config = small_config(snapshot=snapshot, batch=8, max_epochs=1, validation="none", steps=3)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    days = [date(2021, 8, 1) + timedelta(days=k) for k in range(10)]
    for number, (name, (lat, lon)) in enumerate(PLACES.items()):
        moisture = {day: 0.1 + 0.1 * number + 0.002 * k for k, day in enumerate(days)}
        uscrn(tmp_path / "uscrn", f"WA_{name}", moisture, lat=lat, lon=lon)
    area = read_aoi("-119.30,47.10,-119.27,47.13")
    grid = target_grid(area)
    demand = Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs_of(config), days=days)
    stack = fetch(tmp_path / "s.zarr", [AnalyticSource()], demand, quiet=True)
    out = tmp_path / "new" / "t.parquet"
    made = make_samples([tmp_path / "uscrn"], out, stack=stack.path, config=tmp_path / "c.yaml", quiet=True)
    assert pq.read_table(out).equals(made)
    samples = read_samples(out)
    assert set(samples.stations) == set(PLACES)
    assert samples.series(["pr", "lst"], 3)["pr"].shape == (20, 3)
    assert train(samples, config, progress=False).spec.training["samples"] == 20
    assert [path.name for path in out.parent.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("number", range(4))
def test_an_interrupted_table_continues_without_repeating_a_read(tmp_path: Path, number: int) -> None:
    class Dying(AnalyticSource):
        def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
            with lock:
                if len(self.reads) == number:
                    raise KeyboardInterrupt
                self.reads.append((group, tuple(days)))
            return AnalyticSource().read(group, geobox, days)

    lock = Lock()
    known = observed(days=DAYS[:1])
    source, dying, parts = AnalyticSource(), Dying(), tmp_path / "parts"
    table = build_samples(known, [source], FEW)
    whole = sorted(source.reads)
    assert [group for group, _ in whole] == ["landcover", "landcover", "smap", "weather"]  # in one coarse cell
    with pytest.raises(KeyboardInterrupt):
        build_samples(known, [dying], FEW, parts=parts)
    source.reads.clear()
    assert build_samples(known, [source], FEW, parts=parts).equals(table)
    assert sorted([*dying.reads, *source.reads]) == whole


def test_a_kept_part_that_is_broken_or_of_other_inputs_is_made_again(tmp_path: Path) -> None:
    known, parts = observed(days=DAYS[:1]), tmp_path / "parts"
    source = AnalyticSource()
    table = build_samples(known, [source], FEW, parts=parts)
    whole = len(source.reads)
    for broken, reads in (([], 0), ([*parts.glob("*.parquet")][:1], 0), ([*parts.glob("*.*")], whole)):
        for path in broken:
            path.write_bytes(b"half")
        source.reads.clear()
        assert build_samples(known, [source], FEW, parts=parts).equals(table)
        assert len(source.reads) == reads
    source.reads.clear()
    build_samples(known, [source], replace(FEW, steps=1), parts=parts)
    assert sorted(group for group, _ in source.reads) == ["weather"]  # of the others this reads the same


def test_options_that_exclude_each_other(tmp_path: Path, model: Path) -> None:
    path = uscrn(tmp_path, "OK_Norman", {date(2021, 6, 1): 0.2})
    good = {"source": "demo", "model": model}
    cases = [
        ({**good, "source": None}, "t.parquet", "either a source"),
        ({**good, "stack": "s.zarr"}, "t.parquet", "either a source"),
        ({**good, "model": None}, "t.parquet", "either a model"),
        ({**good, "config": "c.yaml"}, "t.parquet", "either a model"),
        (good, "t.csv", r"ends in \.parquet"),
        ({**good, "start": "yesterday"}, "t.parquet", "yesterday"),
    ]
    for options, out, message in cases:
        with pytest.raises(RequestError, match=message):
            make_samples([path], tmp_path / out, **options)
    assert not list(tmp_path.glob("t.*"))
