from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmnet_maps.grid.lattice import cover
from mmnet_maps.sources.files.source import FilesSource

MODIS = Path(__file__).parents[4] / "shared" / "data" / "rasters" / "modis"
TILE = MODIS / "MOD11A1.A2021227.h11v05.061.2021228105320.hdf"


@pytest.mark.skipif(not TILE.exists(), reason="the real MOD11A1 tile of ../shared/data is not here")
def test_the_real_tile_of_mod11a1(tmp_path: Path) -> None:
    """QC_Day has the text NA as its fill value; 63 129 cells have a temperature with bits 1 and 3 of QC_Day zero."""
    sd = pytest.importorskip("pyhdf.SD")
    entry = {
        "product": "MOD11A1",
        "pattern": "MOD11A1.A{date:%Y%j}.{tile}.061.*.hdf",
        "variable": "LST_Day_1km",
        "mask": {"variable": "QC_Day", "bits": [1, 3]},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "folder": str(MODIS), "variables": {"lst": entry}}))
    source = FilesSource(path)
    lattice = source.lattice("lst")
    found = source.read("lst", lattice, [date(2021, 8, 15)])["lst"][0]
    archive = sd.SD(str(TILE))
    raw, quality = archive.select("LST_Day_1km").get(), archive.select("QC_Day").get()
    assert np.isfinite(found).sum() == 63_129
    from odc.geo.geobox import GeoBox

    area = GeoBox.from_bbox((-90.80, 39.85, -90.60, 39.98), "EPSG:4326", shape=(50, 50))
    window = cover(area, lattice)
    clear = ((quality[window] & 0b1010) == 0) & (raw[window] > 0)
    assert clear.any()
    np.testing.assert_array_equal(np.isfinite(found[window]), clear)
    np.testing.assert_allclose(found[window][clear], raw[window][clear] * 0.02, rtol=1e-7)
