"""Maps compared with a climatology: the same by map, batch, points and lazily, and equal to their files by hand."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rioxarray
import xarray as xr

import mmnet_maps as mm
from analytic import make_model
from batch_world import CORNER, call, fill
from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.mapping.batch.estimate import dry_run
from mmnet_maps.mapping.batch.plan import plan_batch
from mmnet_maps.mapping.pipeline import make_maps
from mmnet_maps.mapping.points import at_points
from mmnet_maps.product.climatology_build import add_maps
from mmnet_maps.product.drought import class_names
from mmnet_maps.product.layers import DROUGHT
from mmnet_maps.product.qgis import percentile_style
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.product.reader import open_maps

YEARS = (2016, 2017, 2018, 2019, 2020, 2021)
DAY = date(2021, 8, 8)
DAYS = [date(2019, 8, 6), *(date(year, 8, 8) for year in YEARS)]
BOX = "-119.2985,47.7867,-119.2885,47.7967"
POINT = (-119.2935, 47.7917)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return fill(tmp_path_factory.mktemp("usual") / "stack.zarr", model, DAYS).path


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory, model: Path, stack: Path) -> Path:
    """Six years of maps, made by ``mmnet batch``, beside their climatology."""
    root = tmp_path_factory.mktemp("years")
    days = [word for day in DAYS for word in ("--date", str(day))]
    made = call("--aoi", CORNER, *days, "--stack", stack, "--model", model, "--out", root / "maps", "--no-zarr", "-q")
    assert made.returncode == 0, made.stderr
    add_maps(open_maps(root / "maps"), root / "clim.zarr", quiet=True)
    return root


def by_hand(years: Path, tile: str, day: date) -> np.ndarray:
    """Percentiles of a map by the ranks of its values in the files of the other years."""

    def read(one: date) -> np.ndarray:
        path = years / "maps" / f"{one:%Y%m%d}" / f"{tile}_{one:%Y%m%d}_soil_moisture.tif"
        return rioxarray.open_rasterio(path).to_numpy()[0]

    mine = read(day)
    stack = np.array([read(one) for one in DAYS if one.year != day.year])
    found = np.full(mine.shape, np.nan)
    for row, col in np.argwhere(mine != 65535):
        others = stack[:, row, col]
        assert (others != 65535).all()
        ranks = 1 + np.flatnonzero(np.sort([*others, mine[row, col]]) == mine[row, col])
        found[row, col] = 100 * ranks.mean() / (len(others) + 2)
    return found


def test_a_batch_writes_what_its_files_give_by_hand(
    years: Path, stack: Path, model: Path, workers: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    options = ["--aoi", CORNER, "--date", DAY, "--date", "2019-08-06", "--stack", stack, "--model", model, *workers]
    made = call(*options, "--out", out, "--climatology", years / "clim.zarr", "-q", "--name", "corner")
    assert made.returncode == 0, made.stderr
    report = json.loads((out / "reports/corner_20190806_20210808.json").read_text())
    for day in (DAY, date(2019, 8, 6)):
        counts = dict.fromkeys(["none", "D0", "D1", "D2", "D3", "D4"], 0)
        for tile in ("h06v02", "h07v02", "h06v03", "h07v03"):
            stem = out / f"{day:%Y%m%d}" / f"{tile}_{day:%Y%m%d}"
            found = rioxarray.open_rasterio(f"{stem}_soil_moisture_percentile.tif", mask_and_scale=True).to_numpy()[0]
            expected = by_hand(years, tile, day)
            assert np.isfinite(expected).any()
            np.testing.assert_allclose(found, expected, atol=0.001 + 1e-5)
            for name in class_names(expected[np.isfinite(expected)]):
                counts[name] += 1
            quality = rioxarray.open_rasterio(f"{stem}_quality.tif").to_numpy()
            assert not (quality & FLAG_MASKS["short_climatology"]).any()
        assert report["drought"][str(day)] == counts
        assert f"{day} drought: none" in made.stdout
    assert "at least 5 of them" in report["about"]["climatology"]
    with xr.open_zarr(out / "corner_20190806_20210808.zarr", chunks=None) as store:
        tile = rioxarray.open_rasterio(
            out / "20210808/h06v03_20210808_soil_moisture_standardised_anomaly.tif", mask_and_scale=True
        )
        same = store["soil_moisture_standardised_anomaly"].sel(time=str(DAY), x=tile.x, y=tile.y)
        np.testing.assert_allclose(same, tile[0], rtol=1e-6)
    again = call(*options, "--out", out, "--climatology", years / "clim.zarr", "-q", "--name", "corner")
    assert "2021-08-08  0     4" in again.stdout


def test_a_dry_run_counts_the_maps_that_are_compared(years: Path, stack: Path, model: Path, tmp_path: Path) -> None:
    """Six maps of other years, each one tile of the climatology: 2 bytes a pixel."""

    def megabytes(**climatology: Path) -> float:
        options = {"stack": stack, "model": model, "out": tmp_path, **climatology}
        text = dry_run(plan_batch(CORNER, str(DAY), **options), workers=1)
        return float(re.search(r"([\d.]+) MB read", text)[1])

    more = megabytes(climatology=years / "clim.zarr") - megabytes()
    assert more == pytest.approx(6 * 1024**2 * 2 / 1e6, abs=0.1)


def test_map_lazy_and_points_agree(years: Path, stack: Path, model: Path, tmp_path: Path) -> None:
    options = {"stack": stack, "model": model, "climatology": years / "clim.zarr"}
    (product,) = make_maps(BOX, str(DAY), quiet=True, out=tmp_path, **options).products
    lazy = mm.downscale_product(BOX, str(DAY), quiet=True, **options).compute()
    series = at_points([POINT], str(DAY), quiet=True, **options)
    from_maps = at_points([POINT], str(DAY), maps=tmp_path, quiet=True)
    compared = at_points([POINT], str(DAY), maps=years / "maps", climatology=years / "clim.zarr", quiet=True)
    for name in DROUGHT:
        file = rioxarray.open_rasterio(product.layers[name], mask_and_scale=True)[0]
        step = 0.51 * rioxarray.open_rasterio(product.layers[name]).attrs["scale_factor"]
        np.testing.assert_allclose(file, lazy[name][0], atol=step)
        assert np.isfinite(lazy[name]).any()
        values = [float(one[name].iloc[0]) for one in (series, from_maps, compared)]
        np.testing.assert_allclose(values, values[0], atol=step)
    assert lazy["soil_moisture_percentile"].attrs["units"] == "percent"
    classes = {one["drought_class"].iloc[0] for one in (series, from_maps, compared)}
    assert classes == set(class_names(np.array([values[0]])))


def test_what_cannot_be_compared_is_refused(years: Path, stack: Path, model: Path, tmp_path: Path) -> None:
    clim = years / "clim.zarr"
    options = {"stack": stack, "out": tmp_path, "quiet": True, "climatology": clim}
    other = make_model(tmp_path / "other", seed=5)
    with pytest.raises(RequestError, match=r"differ from those of the climatology .* weights_sha256"):
        make_maps(BOX, str(DAY), model=other, **options)
    with pytest.raises(InputError, match=r"within 15 days of 01 January in 0 other years \(none\)"):
        make_maps(BOX, "2021-01-01", model=model, **options)
    with pytest.raises(RequestError, match=r"other pixels than the climatology"):
        make_maps(BOX, str(DAY), model=model, resolution=50.0, **options)
    with pytest.raises(RequestError, match=r"has no maps of this area"):
        make_maps("-90.02,40.00,-90.00,40.02", str(DAY), model=model, **options)
    with pytest.raises(InputError, match=r"no climatology at"):
        make_maps(BOX, str(DAY), model=model, **options | {"climatology": tmp_path / "none.zarr"})


def test_few_years_are_flagged_where_allowed(years: Path, stack: Path, model: Path, tmp_path: Path) -> None:
    few = open_maps(years / "maps", start=date(2019, 1, 1))
    add_maps(few, tmp_path / "few.zarr", quiet=True)
    options = {"stack": stack, "model": model, "quiet": True, "climatology": tmp_path / "few.zarr"}
    with pytest.raises(InputError, match=r"in 2 other years \(2019, 2020\); expected at least 5"):
        mm.downscale_product(BOX, str(DAY), **options)
    add_maps(few, tmp_path / "few.zarr", minimum_years=2, quiet=True)
    found = mm.downscale_product(BOX, str(DAY), **options).compute()
    flagged = (found["quality"] & FLAG_MASKS["short_climatology"]) > 0
    np.testing.assert_array_equal(flagged, np.isfinite(found["soil_moisture_percentile"]))
    assert flagged.any()


def test_the_style_of_percentiles_has_the_classes() -> None:
    style = percentile_style()
    assert [f'label="{name}: {top} % and below"' in style for name, top in (("D0", 30), ("D4", 2))] == [True, True]
    assert 'colorRampType="DISCRETE"' in style
