"""The STAC service: what it imports, its configuration, and the Planetary Computer itself where that is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmnet_maps.errors import RequestError
from mmnet_maps.grid.area import read_aoi
from mmnet_maps.grid.tiles import target_grid
from mmnet_maps.resources import packaged
from mmnet_maps.sources.open.config import load_config
from mmnet_maps.sources.open.source import OpenSource

USES = {
    "the package": "import mmnet_maps",
    "mmnet --help": "from mmnet_maps.cli import main; sys.argv = ['mmnet', '--help']; main()",
    "a source": "from mmnet_maps.sources import open_source; open_source('open')[0].variables()",
}


@pytest.mark.parametrize("use", USES)
def test_no_client_is_imported_before_it_is_used(use: str) -> None:
    code = (
        "import atexit, sys\n"
        "clients = ('requests', 'pystac', 'pystac_client', 'earthaccess', 'h5py')\n"
        "atexit.register(lambda: print([name for name in clients if name in sys.modules]))\n" + USES[use]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def merged(values: dict, other: dict, depth: int = 2) -> dict:
    """Values with some others in their place, key by key to some depth."""
    deeper = {key: merged(values[key], one, depth - 1) for key, one in other.items() if depth and isinstance(one, dict)}
    return {**values, **other, **deeper}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"products": {"hls": {"query": {"colection": "hls2-l30"}}}}, "products.hls.query.collection: Field required"),
        ({"products": {"hls": {"service": "nowhere"}}}, "names the service nowhere"),
        ({"products": {"hls": {"scale": 0}}}, "scale is 0"),
        ({"products": {"hls": {"variables": {"blu": "B02"}}}}, "unknown variable blu"),
        ({"products": {"lst": {"lattice": None}}}, "no lattice"),
        ({"use": ["hls", "landsat"]}, "blue comes from hls and from landsat"),
        ({"use": [["hls", "lst"]]}, "lst has other variables than hls"),
        ({"use": ["hsl"]}, "use names hsl"),
        ({"services": {"planetary-computer": {"url": "ftp://a"}}}, "url"),
    ],
)
def test_a_wrong_yaml_is_refused_in_one_line(tmp_path: Path, change: dict, words: str) -> None:
    values = yaml.safe_load((packaged("configs") / "open.yaml").read_text())
    path = tmp_path / "o.yaml"
    path.write_text(yaml.safe_dump(merged(values, change)))
    with pytest.raises(RequestError) as caught:
        OpenSource(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_politeness_does_not_change_what_is_read(tmp_path: Path) -> None:
    values = yaml.safe_load((packaged("configs") / "open.yaml").read_text())
    for service in values["services"].values():
        service |= {"concurrency": 1, "retries": 0, "deadline": 10}
    path = tmp_path / "o.yaml"
    path.write_text(yaml.safe_dump({**values, "reads": 1}))
    assert load_config(path).digest == load_config(None).digest
    values["products"]["hls"]["scale"] = 0.0002
    path.write_text(yaml.safe_dump(values))
    assert load_config(path).digest != load_config(None).digest


@pytest.mark.live
@pytest.mark.skipif(not os.environ.get("MMNET_LIVE"), reason="asks the Planetary Computer itself; set MMNET_LIVE=1")
@pytest.mark.parametrize(
    ("product", "group", "first", "last"),
    [
        ("hls", "optical", date(2021, 8, 1), date(2021, 8, 10)),
        ("landsat", "optical", date(2021, 8, 1), date(2021, 8, 17)),
        ("sentinel1", "sar", date(2021, 8, 1), date(2021, 8, 13)),
        ("lst", "lst", date(2021, 8, 1), date(2021, 8, 2)),
    ],
)
def test_live_planetary_computer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], product: str, group: str, first: date, last: date
) -> None:
    values = yaml.safe_load((packaged("configs") / "open.yaml").read_text())
    path = tmp_path / "o.yaml"
    path.write_text(yaml.safe_dump({**values, "use": [product]}))
    source = OpenSource(path)
    window = target_grid(read_aoi("-119.68,47.05,-119.66,47.06"))
    if group == "lst":
        from mmnet_maps.grid.lattice import cover

        lattice = source.lattice(group)
        window = lattice[cover(window, lattice, pad=3)]
    days = source.days(group, window, first, last)
    found = source.read(group, window, days[:1]) if days else {}
    with capsys.disabled():
        means = {name: round(float(np.nanmean(one)), 4) for name, one in found.items() if np.isfinite(one).any()}
        print(f"{product}: {len(days)} days from {first} to {last}; means of {days[0] if days else 'none'}: {means}")
    assert days
