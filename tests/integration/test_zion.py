"""Map Zion, Utah, by the main command from real Landsat, land cover and elevation, and otherwise the demo world."""

from __future__ import annotations

import json
import re
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from scipy.ndimage import uniform_filter

from mmnet_maps import cli
from mmnet_maps.grid.lattice import window_of
from mmnet_maps.product.quality import QUALITY_BITS
from mmnet_maps.stack.store import Stack

ROOT = Path(__file__).parents[2]
RASTERS = ROOT.parent / "shared" / "data" / "rasters" / "zion"

pytestmark = pytest.mark.skipif(not RASTERS.is_dir(), reason=f"no Zion rasters at {RASTERS}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of the day's product, and the cache."""
    folder = tmp_path_factory.mktemp("zion")
    words = ["--aoi", str(ROOT / "examples" / "zion.geojson"), "--date", "2015-08-18", "--out", str(folder / "maps")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZION_RASTERS", str(RASTERS))
        patch.setenv("MMNET_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["mmnet", "map", *words, "--source", str(ROOT / "examples" / "zion.yaml"), "-q"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    return folder / "maps" / "20150818", next((folder / "cache").glob("*.zarr"))


def test_real_and_synthetic_inputs_are_recorded_one_by_one(made: tuple[Path, Path]) -> None:
    provenance = Stack(made[1]).provenance
    real = {name for name, entry in provenance.items() if not entry.synthetic}
    assert {"blue", "green", "red", "nir", "landcover", "elevation", "slope", "aspect"} <= real
    assert {"smap", "pr", "lst", "swir1", "vv", "clay"}.isdisjoint(real)
    item = json.loads((made[0] / "zion_20150818_synthetic.json").read_text())
    assert "Landsat" in item["properties"]["mmnet:inputs"]["red"]
    assert "synthetic" in item["properties"]["mmnet:inputs"]["smap"]


def test_the_map_is_complete_and_marked_synthetic(made: tuple[Path, Path]) -> None:
    with rasterio.open(made[0] / "zion_20150818_synthetic_soil_moisture.tif") as data:
        moisture = data.read(1, masked=True) * data.scales[0]
        assert data.crs.to_epsg() == 5070
    with rasterio.open(made[0] / "zion_20150818_synthetic_quality.tif") as data:
        quality = data.read(1)
    inside = quality & 1 == 0
    assert (~moisture.mask[inside]).mean() > 0.9
    assert 0 <= moisture.min() < moisture.max() <= 0.7
    assert (quality[inside] >> QUALITY_BITS["synthetic"] & 1 == 1).all()


def test_real_landsat_shows_in_the_map(made: tuple[Path, Path]) -> None:
    with rasterio.open(made[0] / "zion_20150818_synthetic_soil_moisture.tif") as data:
        moisture = np.ma.filled(data.read(1, masked=True) * data.scales[0], np.nan)
        grid = GeoBox(data.shape, data.transform, str(data.crs))
    stack = Stack(made[1])
    red, nir = (stack.read(name, window_of(grid, stack.target), date(2015, 8, 18)) for name in ("red", "nir"))
    with np.errstate(invalid="ignore"):
        greenness = (nir - red) / (nir + red)
    shrubs = stack.read("landcover", window_of(grid, stack.target)) == 52  # one class, with similar soil and weather

    height = stack.read("elevation", window_of(grid, stack.target))

    def agreement(shift: tuple[int, int]) -> float:
        """Return the correlation, within 500 m, of the map at equal elevation and of an image, shifted by pixels."""
        image = np.roll(greenness, shift, axis=(0, 1))
        known = np.isfinite(moisture) & np.isfinite(image) & shrubs & np.isfinite(height)
        assert known.sum() > 9_000
        mapped, of_height = local(moisture, known), local(height, known)
        mapped -= of_height * (of_height @ mapped / (of_height @ of_height))  # the slopes of the canyon
        return abs(float(np.corrcoef(mapped, local(image, known))[0, 1]))

    # How much the model listens to greenness is its affair; but the image shows where it was taken and nowhere else.
    assert agreement((0, 0)) > 3 * max(agreement(shift) for shift in ((0, 10), (10, 0), (20, 20), (-15, 7)))


def local(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return known values minus the mean of those within five pixels."""
    total, share = (uniform_filter(part, 5) for part in (np.where(known, values, 0.0), known.astype(float)))
    return values[known] - (total / np.maximum(share, 1e-9))[known]


def test_real_terrain_reached_the_stack(made: tuple[Path, Path]) -> None:
    stack = Stack(made[1])
    group = stack.groups["terrain"]
    marks = stack.marks(group, (slice(0, group.lattice.shape[0]), slice(0, group.lattice.shape[1])), [])[0]
    row, col = np.argwhere(marks > 1)[0] * group.block
    height = stack.read("elevation", (slice(row, row + 512), slice(col, col + 512)))
    assert 1000 < np.nanmin(height) < np.nanmax(height) < 2900  # the canyon floor and the plateaus


def test_the_folder_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("ZION_RASTERS", raising=False)
    words = ["--aoi", str(ROOT / "examples" / "zion.geojson"), "--date", "2015-08-18"]
    monkeypatch.setattr(sys, "argv", ["mmnet", "map", *words, "--source", str(ROOT / "examples" / "zion.yaml")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert re.fullmatch(r"error: .*ZION_RASTERS.*\n", capsys.readouterr().err)
