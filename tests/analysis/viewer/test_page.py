"""The viewer's page without a browser: what it reads and draws, and its errors."""

from __future__ import annotations

from datetime import date
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("panel", reason="panel is not installed")

from matplotlib.image import imread

from analytic import AnalyticSource
from map_files import DAY, NEXT, grid_at, values_on, write_map
from mmnet_maps.analysis.viewer.data import ViewedMaps, ViewedStack, ViewLayer, open_view
from mmnet_maps.analysis.viewer.page import Page
from mmnet_maps.analysis.viewer.scale import CLEAR, layer_scale
from mmnet_maps.analysis.viewer.selection import ALONE, DIFFERENCE, SIDE, SWIPE
from mmnet_maps.errors import RequestError
from mmnet_maps.grid.tiles import tiles
from mmnet_maps.product.quality import FLAG_MASKS
from mmnet_maps.stack.fetch import fetch
from mmnet_maps.stack.needs import Demand, Needs
from mmnet_maps.stack.store import Stack

GRID = grid_at(0, 0, 90, 70)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("view") / "maps"
    for day, seed in ((DAY, 0), (NEXT, 1)):
        write_map(out, "field", day, GRID, seed=seed, std=True, synthetic=True)
    return out


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    needs = Needs(snapshot=("smap", "landcover", "elevation", "red"), series=("pr",), steps=3, includes_day=True)
    path = tmp_path_factory.mktemp("view") / "s.zarr"
    return fetch(
        path, [AnalyticSource()], Demand(grid=GRID, tiles=tiles(GRID), needs=needs, days=[DAY, NEXT]), quiet=True
    )


@pytest.fixture
def page(root: Path) -> Page:
    return Page(open_view([root]))


def drawn(page: Page) -> np.ndarray:
    """Return the image on the map, rows from the north."""
    (image,) = page.maps.source.data["image"]
    return image[::-1]


def shown(layer: str, seed: int) -> np.ndarray:
    values = values_on(GRID, seed)
    return values["soil_moisture"] / 8 if layer == "soil_moisture_std" else values[layer]


def centre(row: int, col: int) -> tuple[float, float]:
    x, y = GRID.affine * (col + 0.5, row + 0.5)
    return x, y


def test_the_last_day_is_shown_whole_beside_smap(page: Page) -> None:
    np.testing.assert_allclose(drawn(page), shown("soil_moisture", 1), atol=5.1e-5)
    np.testing.assert_allclose(page.maps.smap_source.data["whole"][0][::-1], shown("smap", 1), atol=5.1e-5)
    left, bottom, right, top = GRID.boundingbox.bbox
    assert [page.maps.source.data[key] for key in ("x", "y", "dw", "dh")] == [
        [left],
        [bottom],
        [right - left],
        [top - bottom],
    ]
    assert (page.controls.arrangement.value, page.maps.smap_column.visible, page.maps.smap_over_map.visible) == (
        SIDE,
        True,
        False,
    )
    assert page.maps.heading.object == f"<b>Soil moisture, 0–5 cm</b>, {NEXT}"


def test_days_layers_and_flags(page: Page) -> None:
    page.controls.day.value = DAY
    np.testing.assert_allclose(drawn(page), shown("soil_moisture", 0), atol=5.1e-5)
    page.controls.hidden.value = ["optical_old"]
    old = shown("quality", 0) & FLAG_MASKS["optical_old"]
    np.testing.assert_array_equal(np.isnan(drawn(page)), np.isnan(shown("soil_moisture", 0)) | (old > 0))
    page.controls.hidden.value = []
    page.controls.layer.value = "soil_moisture_std"
    np.testing.assert_allclose(drawn(page), shown("soil_moisture_std", 0), atol=5.1e-5)
    page.controls.layer.value = DIFFERENCE
    page.controls.day.value, page.controls.reference.value = NEXT, DAY
    np.testing.assert_allclose(drawn(page), shown("soil_moisture", 1) - shown("soil_moisture", 0), atol=1.1e-4)
    assert page.controls.reference.visible
    assert page.maps.heading.object == f"<b>Difference of soil moisture</b>, {NEXT} less {DAY}"
    assert page.maps.colours.low == -page.maps.colours.high


def test_quality_is_spelled_out(page: Page) -> None:
    page.controls.layer.value = "quality"
    codes = drawn(page)
    values = shown("quality", 1)
    assert [page.scale.classes[int(code)] for code in codes.ravel()] == values.ravel().tolist()
    assert "optical old" in page.controls.legend.object
    assert "no value, unknown land cover" in page.controls.legend.object
    assert not page.controls.limits.visible


def test_the_scale_holds_for_all_days_and_for_smap(page: Page) -> None:
    before = (page.maps.colours.low, page.maps.colours.high)
    page.controls.day.value = DAY
    assert (
        (page.maps.colours.low, page.maps.colours.high)
        == before
        == (page.maps.smap_colours.low, page.maps.smap_colours.high)
    )
    page.controls.limits.value = (0.1, 0.2)
    assert (page.maps.colours.low, page.maps.colours.high, page.maps.smap_colours.low) == (0.1, 0.2, 0.1)


def test_smap_lies_left_of_the_swipe(page: Page) -> None:
    page.controls.arrangement.value = SWIPE
    assert page.maps.smap_over_map.visible
    assert not page.maps.smap_column.visible
    (cut,), (whole,) = page.maps.smap_source.data["cut"], page.maps.smap_source.data["whole"]
    share = (page.maps.divider.location - GRID.boundingbox.left) / (70 * 100)
    kept = round(70 * share)
    assert kept == 35
    np.testing.assert_array_equal(cut[:, :kept], whole[:, :kept])
    assert np.isnan(cut[:, kept:]).all()
    page.controls.arrangement.value = ALONE
    assert not page.maps.smap_over_map.visible


def test_a_part_is_read_when_a_part_is_seen(page: Page) -> None:
    page.zoom(0.25)
    (x,), (y,), (across,), (along,) = (page.maps.source.data[key] for key in ("x", "y", "dw", "dh"))
    col, row = (x - GRID.boundingbox.left) / 100, (GRID.boundingbox.top - y - along) / 100
    part = drawn(page)
    assert part.shape == (round(along / 100), round(across / 100))
    assert part.shape[0] < 45
    expected = shown("soil_moisture", 1)[round(row) :, round(col) :][: part.shape[0], : part.shape[1]]
    np.testing.assert_allclose(part, expected, atol=5.1e-5)
    page.zoom(float("inf"))
    assert drawn(page).shape == GRID.shape


def test_overviews_are_read_of_what_is_large(tmp_path: Path) -> None:
    grid = grid_at(0, 0, 1500, 1600)
    write_map(tmp_path, "large", DAY, grid)
    page = Page(open_view([tmp_path]))
    assert drawn(page).size < 0.7e6
    np.testing.assert_allclose(np.nanmean(drawn(page)), np.nanmean(values_on(grid, 0)["soil_moisture"]), atol=2e-3)


def test_a_click_gives_the_series_and_its_csv(root: Path, stack: Stack) -> None:
    page = Page(open_view([root]), stack=stack)
    assert page.controls.save_csv.disabled
    page.select(*centre(40, 31))
    table = pd.read_csv(page.table())
    assert table["date"].tolist() == [str(DAY), str(NEXT)]
    for layer in ("soil_moisture", "soil_moisture_std", "smap"):
        np.testing.assert_allclose(table[layer], [shown(layer, seed)[40, 31] for seed in (0, 1)], atol=1e-4)
    assert table["quality"].tolist() == [shown("quality", seed)[40, 31] for seed in (0, 1)]
    assert table["precipitation"].notna().all()
    assert (table["lat"].nunique(), round(table["lon"][0]), round(table["lat"][0])) == (1, -120, 48)
    assert not page.controls.save_csv.disabled
    assert f"{shown('soil_moisture', 1)[40, 31]:.3f} m³/m³" in page.controls.summary.object
    assert len(page.controls.series.objects) == 1
    assert not page.controls.message.visible


def test_a_place_is_typed_or_refused(page: Page) -> None:
    page.controls.place.value = page.controls.place.placeholder
    assert page.series is not None
    assert not page.controls.message.visible
    for wrong, message in (("here", "is not a place; expected longitude,latitude"), ("-100,40", "is not on the map")):
        page.controls.place.value = wrong
        assert page.controls.message.visible
        assert message in page.controls.message.object
    page.controls.place.value = page.controls.place.placeholder
    assert not page.controls.message.visible


def test_the_picture_is_of_what_is_seen(page: Page) -> None:
    image = imread(BytesIO(page.picture().getvalue()))
    assert image.shape[0] > 900
    assert page.controls.save_png.filename == f"field_{NEXT:%Y%m%d}_synthetic_soil_moisture.png"
    page.controls.layer.value = "quality"
    assert page.picture().getvalue().startswith(b"\x89PNG")


def test_an_unreadable_file_is_reported_on_the_page(tmp_path: Path) -> None:
    write_map(tmp_path, "field", DAY, GRID, seed=0)
    write_map(tmp_path, "field", NEXT, GRID, seed=1)
    page = Page(open_view([tmp_path]))
    (tmp_path / "20210807" / "field_20210807_smap.tif").write_text("broken")
    page.controls.day.value = DAY
    assert page.controls.message.visible
    assert "cannot be read" in page.controls.message.object
    page.controls.day.value = NEXT
    assert not page.controls.message.visible


def test_a_stack_is_shown_too(stack: Stack) -> None:
    view = open_view([stack.path])
    assert isinstance(view, ViewedStack)
    assert not isinstance(view, ViewedMaps)
    page = Page(view, stack=view.stack)
    assert DIFFERENCE not in page.controls.layer.options.values()
    assert not page.controls.arrangement.visible
    for layer in ("elevation", "red", "smap", "pr", "landcover"):
        page.controls.layer.value = layer
        assert np.isfinite(drawn(page)).any(), layer
        assert not page.controls.message.visible, page.controls.message.object
    assert "NLCD" in page.controls.legend.object
    rows, cols = (slice(300, 308), slice(200, 208))
    fine = view.read("elevation", DAY, (rows, cols))
    group = view.stack.group_of("elevation")
    top = round((group.lattice.affine.f - view.grid.affine.f) / 100)
    left = round((view.grid.affine.c - group.lattice.affine.c) / 100)
    where = (slice(rows.start + top, rows.stop + top), slice(cols.start + left, cols.stop + left))
    np.testing.assert_array_equal(fine, view.stack.read("elevation", where))
    page.controls.layer.value = "pr"
    page.select(*(view.grid.affine * (200.5, 200.5)))
    assert page.series is not None
    assert page.series.main.name == "pr"


def test_a_page_of_one_day_has_no_difference(tmp_path: Path) -> None:
    write_map(tmp_path, "field", DAY, GRID)
    page = Page(open_view([tmp_path]))
    assert DIFFERENCE not in page.controls.layer.options.values()
    assert page.controls.day.value == date(2021, 8, 7)


def test_classes_that_the_overview_does_not_show_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_map(tmp_path, "field", DAY, GRID)
    monkeypatch.setattr("mmnet_maps.analysis.viewer.selection._OVERVIEW", 4)  # so that one pixel in hundreds is read
    page = Page(open_view([tmp_path]))
    page.controls.layer.value = "quality"
    codes = drawn(page)
    assert [page.scale.classes[int(code)] for code in codes.ravel()] == shown("quality", 0).ravel().tolist()
    assert "sar old" in page.controls.legend.object


def test_flags_of_either_day_hide_a_difference(page: Page) -> None:
    page.controls.layer.value = DIFFERENCE
    page.controls.hidden.value = ["sar_old"]
    flagged = (shown("quality", 0) | shown("quality", 1)) & FLAG_MASKS["sar_old"]
    missing = np.isnan(shown("soil_moisture", 0)) | np.isnan(shown("soil_moisture", 1))
    np.testing.assert_array_equal(np.isnan(drawn(page)), missing | (flagged > 0))


def test_odd_input_is_refused_or_does_nothing(page: Page) -> None:
    for place in ("-119.5,95", "nan,nan", "inf,5"):
        page.controls.place.value = place
        assert "is not on the map" in page.controls.message.object
    page.controls.limits.value = (0.2, 0.2)
    assert page.maps.colours.low < page.maps.colours.high
    for _ in range(40):
        page.zoom(0.5)
    assert page.maps.x.end - page.maps.x.start >= page.maps.x.min_interval * 0.999
    for _ in range(40):
        page.zoom(2.0)
    assert drawn(page).size


def test_a_picture_of_an_unreadable_file_is_reported(tmp_path: Path) -> None:
    write_map(tmp_path, "field", DAY, GRID)
    page = Page(open_view([tmp_path]))
    page.reader.read.cache_clear()
    (tmp_path / "20210807" / "field_20210807_soil_moisture.tif").write_text("broken")
    assert page.picture().getvalue() == b""
    assert page.controls.message.visible


@pytest.mark.parametrize("layer", ["smap", "quality", "soil_moisture"])
def test_a_single_cog_has_a_series_too(root: Path, layer: str) -> None:
    page = Page(open_view([root / "20210808" / f"field_20210808_synthetic_{layer}.tif"]))
    page.select(*centre(40, 31))
    assert page.series is not None
    assert page.series.main.name == layer
    assert pd.read_csv(page.table())["synthetic"].tolist() == [True]


def test_a_stack_without_rain_there_gives_the_series_all_the_same(root: Path, stack: Stack) -> None:
    del (found := Stack(stack.path)).groups["weather"]
    page = Page(open_view([root]), stack=found)
    page.select(*centre(40, 31))
    assert page.series is not None
    assert page.series.rain is None


def test_errors_are_text_not_markup(page: Page) -> None:
    page.controls.place.value = "<img src=x>![x](http://example.org/x.png)"
    assert "<img" not in page.controls.message.object
    assert type(page.controls.message).__name__ == "HTML"


def test_places_off_the_map_are_refused(page: Page) -> None:
    with pytest.raises(RequestError, match="is not on the map"):
        page.select(*centre(95, 3))


def test_a_layer_without_a_class_to_show_is_clear() -> None:
    scale = layer_scale(ViewLayer(name="landcover", title="Land cover", units="", categorical=True), {0})
    assert (scale.palette, scale.mapper_limits(0.1, 0.2), scale.legend(0.1, 0.2)) == ([CLEAR], (-0.5, 0.5), "")
    assert np.isnan(scale.encode(np.zeros((2, 2), np.uint16))).all()
