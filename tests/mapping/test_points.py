"""Points equal the maps: computed from a stack, together or alone, and read from finished maps."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import Transformer

import mmnet_maps as mm
from analytic import AnalyticSource
from batch_world import CORNER, DAYS, SPAN, fill
from map_files import grid_at, write_map
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.mapping import points as pointwise
from mmnet_maps.mapping import points_estimate
from mmnet_maps.mapping.lazy import downscale_product
from mmnet_maps.mapping.pipeline import make_maps
from mmnet_maps.mapping.points import at_points
from mmnet_maps.mapping.points_estimate import estimate_at_points
from mmnet_maps.sources.base import Cost, Rasters

VALUES = ("soil_moisture_estimate", "soil_moisture_std", "quality", "smap")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return fill(tmp_path_factory.mktemp("pointwise") / "s.zarr", model).path


@pytest.fixture(scope="module")
def product(stack: Path, model: Path) -> xr.Dataset:
    return downscale_product(CORNER, SPAN, stack=stack, model=model, quiet=True, uncertainty=3).compute()


@pytest.fixture(scope="module")
def pixels(product: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the map in all four tiles, at its edge, with and without a value, and two of them twice."""
    inside = (product["quality"][0].to_numpy() & 1) == 0
    rows, cols = np.nonzero(inside)
    some = np.random.default_rng(0).choice(len(rows), 30, replace=False)
    some = np.concatenate([some, some[:2], [0, len(rows) - 1]])
    return rows[some], cols[some]


@pytest.fixture(scope="module")
def places(product: xr.Dataset, pixels: tuple[np.ndarray, np.ndarray]) -> list[tuple[float, float]]:
    """Somewhere in these pixels."""
    off = np.random.default_rng(1).uniform(-40, 40, (2, len(pixels[0])))
    lon, lat = Transformer.from_crs("EPSG:5070", "EPSG:4326", always_xy=True).transform(
        product.x.to_numpy()[pixels[1]] + off[0], product.y.to_numpy()[pixels[0]] + off[1]
    )
    return [*zip(lon.tolist(), lat.tolist(), strict=True)]


@pytest.fixture(scope="module")
def found(stack: Path, model: Path, places: list[tuple[float, float]]) -> pd.DataFrame:
    named = pd.DataFrame(
        [(f"p{k}", lat, lon) for k, (lon, lat) in enumerate(places)], columns=["station", "lat", "lon"]
    )
    return at_points(named, SPAN, stack=stack, model=model, quiet=True, uncertainty=3)


def test_points_are_the_map_at_their_pixels(
    found: pd.DataFrame, product: xr.Dataset, pixels: tuple[np.ndarray, np.ndarray]
) -> None:
    layers = {"soil_moisture_estimate": "soil_moisture"}
    for name in VALUES:
        values = found[name].to_numpy().reshape(len(pixels[0]), len(DAYS))
        expected = product[layers.get(name, name)].to_numpy()[:, pixels[0], pixels[1]].T
        assert values.dtype == expected.dtype
        np.testing.assert_allclose(values, expected, atol=1e-6, err_msg=name)
    assert found["soil_moisture_estimate"].isna().any()
    assert (found["soil_moisture_std"] > 0).sum() == found["soil_moisture_estimate"].notna().sum() > 0
    assert found["station"].tolist() == [f"p{k}" for k in range(len(pixels[0])) for _ in DAYS]
    assert found["date"].dt.date.tolist() == list(DAYS) * len(pixels[0])
    assert found.attrs["synthetic"] is False
    assert found.attrs["model"] == "random"


def test_rain_is_that_of_the_day(
    found: pd.DataFrame, stack: Path, model: Path, places: list[tuple[float, float]]
) -> None:
    shorter = at_points(places[:3], DAYS[1], stack=stack, model=model, quiet=True)
    np.testing.assert_array_equal(shorter["pr"], found["pr"][1:9:3])
    assert (found["pr"] > 0).all()
    assert found["pr"].nunique() > 3


def test_together_as_each_alone_and_however_days_are_cut(
    monkeypatch: pytest.MonkeyPatch,
    found: pd.DataFrame,
    stack: Path,
    model: Path,
    places: list[tuple[float, float]],
) -> None:
    monkeypatch.setattr(pointwise, "_ROWS", 1)
    monkeypatch.setattr("mmnet_maps.model.engine.Engine.days_at_once", 1)
    for k in (0, len(places) - 1):
        alone = at_points([places[k]], SPAN, stack=stack, model=model, quiet=True, uncertainty=3)
        mine = found.iloc[3 * k : 3 * k + 3]
        for name in (*VALUES, "pr"):
            np.testing.assert_allclose(alone[name], mine[name], atol=1e-7, err_msg=name)


def test_points_without_inputs_are_empty_and_counted(
    caplog: pytest.LogCaptureFixture, found: pd.DataFrame, stack: Path, model: Path, places: list[tuple[float, float]]
) -> None:
    longer = [DAYS[0] + timedelta(days=k) for k in range(-1, 5)]
    some = [places[0], (10.0, 50.0), places[7], (-100.0, 40.0)]
    with caplog.at_level(logging.WARNING):
        rows = at_points(some, longer, stack=stack, model=model, quiet=True)
    for k, place in ((0, 0), (2, 7)):
        mine = rows.iloc[6 * k : 6 * k + 6]
        np.testing.assert_allclose(
            mine["soil_moisture_estimate"][1:4], found["soil_moisture_estimate"][3 * place : 3 * place + 3], atol=1e-7
        )
        for day in (0, 4, 5):
            assert mine["quality"].iloc[day] == 4
            assert mine[["soil_moisture_estimate", "smap", "pr"]].iloc[day].isna().all()
    for k in (1, 3):
        mine = rows.iloc[6 * k : 6 * k + 6]
        assert (mine["quality"] == 4).all()
        assert mine[["soil_moisture_estimate", "smap"]].isna().all(axis=None)
    assert "2 of 4 points have no inputs" in caplog.text
    assert "rows are empty: 10,50, -100,40" in caplog.text
    assert "6 rows of the other points empty" in caplog.text


def test_points_without_a_single_estimate_say_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = grid_at(0, 0, 12, 12)
    item = write_map(tmp_path, "lake", date(2021, 8, 7), grid)
    assert item.exists()
    hole = next((row, col) for row in range(12) for col in range(12) if (row * 5 + col * 3) % 11 == 0)
    x, y = grid.affine * (hole[1] + 0.5, hole[0] + 0.5)
    lon, lat = Transformer.from_crs("EPSG:5070", "OGC:CRS84", always_xy=True).transform(x, y)
    rows = at_points([(lon, lat)], maps=tmp_path, quiet=True)
    assert rows["soil_moisture_estimate"].isna().all()
    assert (
        "no row has an estimate: 1 of 1: water, ice or another land cover that the model does not know" in caplog.text
    )


def test_a_source_gives_what_a_stack_of_it_gives(
    monkeypatch: pytest.MonkeyPatch, found: pd.DataFrame, model: Path, places: list[tuple[float, float]]
) -> None:
    monkeypatch.setattr(pointwise, "open_source", lambda _: [AnalyticSource()])
    rows = at_points([places[3], (10.0, 50.0)], SPAN, source="closed formula", model=model, quiet=True)
    for name in ("soil_moisture_estimate", "quality", "smap", "pr"):
        np.testing.assert_allclose(rows[name][:3], found[name][9:12], atol=1e-6, err_msg=name)
    assert rows["soil_moisture_estimate"][3:].isna().all()
    assert rows.attrs["model"] == "random"


def test_an_interrupted_series_from_a_source_continues(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path, places: list[tuple[float, float]]
) -> None:
    class Dying(AnalyticSource):
        def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
            if group == "sar":
                raise InputError("no answer")
            return super().read(group, geobox, days)

    options = {"source": "closed formula", "model": model, "quiet": True, "parts": tmp_path / "parts"}
    dying, again = Dying(), AnalyticSource()
    monkeypatch.setattr(pointwise, "open_source", lambda _: [dying])
    with pytest.raises(InputError, match=r"^point -1\d\d\.\S+: no answer"):
        at_points(places[:1], SPAN, **options)
    monkeypatch.setattr(pointwise, "open_source", lambda _: [again])
    rows = at_points(places[:1], SPAN, **options)
    assert rows["soil_moisture_estimate"].notna().any()
    assert {group for group, _ in again.reads}.isdisjoint(group for group, _ in dying.reads)
    again.reads.clear()
    pd.testing.assert_frame_equal(at_points(places[:1], SPAN, **options), rows)
    assert again.reads == []


def test_the_cost_of_a_source_is_estimated_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stack: Path, model: Path, places: list[tuple[float, float]]
) -> None:
    class Charged(AnalyticSource):
        def cost(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Cost:
            return Cost(requests=30, bytes=1_000_000, values=1, eecu_hours=0.375)

    source = Charged()
    monkeypatch.setattr(points_estimate, "open_source", lambda _: [source])
    text = estimate_at_points([*places[:1], (10.0, 50.0)], SPAN, source="closed formula", model=model, parts=tmp_path)
    assert source.reads == []
    assert "1 point; extrapolated" in text
    assert re.search(r"in total 240 requests, 8 MB received: about \d+ minutes if a request takes 10 s", text)
    assert "perhaps 1 to 8 EECU-hours" in text
    assert re.search(r"Community +150 +0.8 to 5 %", text)
    for options in ({"stack": stack}, {}):
        with pytest.raises(RequestError, match="leave out --dry-run"):
            estimate_at_points(places[:1], SPAN, model=model, **options)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory, stack: Path, model: Path) -> Path:
    out = tmp_path_factory.mktemp("made") / "maps"
    make_maps(CORNER, SPAN, stack=stack, model=model, out=out, quiet=True)
    return out


def test_maps_give_what_rasterio_samples(
    caplog: pytest.LogCaptureFixture, maps: Path, places: list[tuple[float, float]]
) -> None:
    rows = at_points([*places, (-100.0, 40.0)], maps=maps, quiet=True)
    move = Transformer.from_crs("EPSG:4326", "EPSG:5070", always_xy=True)
    for k, day in enumerate(DAYS):
        for layer, name in (("soil_moisture", "soil_moisture_estimate"), ("smap", "smap"), ("quality", "quality")):
            (path,) = maps.glob(f"{day:%Y%m%d}/*_{layer}.tif")
            with rasterio.open(path) as data:
                packed = np.array([value[0] for value in data.sample([move.transform(*place) for place in places])])
                expected = packed if layer == "quality" else np.where(packed == 65535, np.nan, packed * 0.0001)
            np.testing.assert_allclose(rows[name][k::3][:-1], expected, rtol=1e-6, err_msg=name)
    assert (rows["quality"][-3:] == 1).all()
    assert "1 of 35 points lie outside the maps; their rows are empty: -100,40" in caplog.text
    assert "pr" not in rows
    assert rows["soil_moisture_std"].isna().all()


def test_days_of_maps(maps: Path, places: list[tuple[float, float]]) -> None:
    rows = mm.at_points(places[:1], f"{DAYS[1]}/{DAYS[2]}", maps=[maps], quiet=True)
    assert rows["date"].dt.date.tolist() == list(DAYS[1:])
    with pytest.raises(RequestError, match="none of the days|no finished map"):
        at_points(places[:1], "2020-01-01", maps=maps, quiet=True)


def test_one_layer_of_a_map(maps: Path, places: list[tuple[float, float]]) -> None:
    (moisture,) = maps.glob(f"{DAYS[0]:%Y%m%d}/*_soil_moisture.tif")
    rows = at_points([places[0], (10.0, 50.0)], maps=moisture, quiet=True)
    assert list(rows) == ["station", "date", "lat", "lon", "soil_moisture_estimate", "soil_moisture_std"]
    (smap,) = maps.glob(f"{DAYS[0]:%Y%m%d}/*_smap.tif")
    with pytest.raises(RequestError, match="expected maps of soil_moisture"):
        at_points(places, maps=smap, quiet=True)


def test_synthetic_inputs_are_reported(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    model: Path,
    places: list[tuple[float, float]],
) -> None:
    monkeypatch.setattr(pointwise, "open_source", lambda _: [AnalyticSource(synthetic=True)])
    rows = at_points(places[:1], DAYS[0], source="invented", model=model, quiet=True)
    assert rows.attrs["synthetic"] is True
    assert (rows["quality"] & 1024 > 0).all()
    assert "SYNTHETIC INPUTS" in caplog.text


def test_a_wrong_request_is_refused_in_one_line(tmp_path: Path, stack: Path, model: Path, maps: Path) -> None:
    here = [(-119.3, 47.8)]
    for options, kind, message in (
        ({"maps": maps, "model": model}, RequestError, "leave out model"),
        ({}, RequestError, "no input given"),
        ({"stack": stack, "source": "demo"}, RequestError, "both a stack"),
        ({"stack": tmp_path / "no.zarr"}, InputError, "no stack at"),
        ({"maps": tmp_path / "no"}, RequestError, "does not exist"),
    ):
        with pytest.raises(kind, match=message):
            at_points(here, SPAN, quiet=True, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no point has a value: they have no inputs"):
        at_points([(-100.0, 40.0)], SPAN, stack=stack, model=model, quiet=True)
    with pytest.raises(InputError, match="no point has a value: they lie outside the maps"):
        at_points([(-100.0, 40.0)], maps=maps, quiet=True)
    with pytest.raises(RequestError, match="stacks begin on 2015-01-01"):
        at_points(here, date(2015, 1, 2), stack=stack, model=model, quiet=True)
