"""`mmnet stack --source open` for a county from a loopback server: values, requests and bytes against the plan, cost.

    python benchmarks/open_county.py            # Grant County, 2021-07-01 to 2021-08-10: a quarter of an hour of a core
    python benchmarks/open_county.py --quick    # a window of 30 km and four days

The server runs in a process of its own and computes every pixel that it sends, so that its cost is not the product's.
Each of two Landsat tiles is observed every 16 days, 8 days apart, and all of the area by Sentinel-1 every 12.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import date
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT)]

from loopback import metered, serve, serving  # noqa: E402
from measure import Code, measured  # noqa: E402

COUNTY, DAYS = ROOT / "examples" / "grant_county.geojson", "2021-07-01/2021-08-10"
WINDOW, FEW = "-119.70,47.00,-119.30,47.27", "2021-07-01/2021-07-04"


def serve_county() -> None:
    """Serve everything around the county."""
    import yaml

    import open_catalog
    from fake_open import FakeOpen
    from mmnet_maps.resources import packaged
    from open_routes import Earthdata, Thredds, Tiles, Wcs
    from open_values import few_passes

    collections = {
        **open_catalog.COLLECTIONS,
        "hls2-l30": partial(open_catalog.hls, few_passes),
        "sentinel-1-rtc": partial(open_catalog.radar, few_passes),
    }
    corners = {(south, west) for south in range(45, 50) for west in range(-122, -116)}
    use = yaml.safe_load((packaged("configs") / "open.yaml").read_text(encoding="utf-8"))["use"]
    with FakeOpen() as server:
        open_catalog.Planetary(server, collections=collections)
        server.serve(Thredds(), Earthdata(), Wcs(), Tiles(corners=corners))
        serve(server, use)


def run(aoi: str, days: str, folder: Path) -> None:
    """Plan, fetch, compare and map, and print what each takes."""
    import yaml

    from mmnet_maps.grid.area import parse_days, read_aoi
    from mmnet_maps.grid.tiles import target_grid, touched_tiles
    from mmnet_maps.mapping.request import needs_of
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.sources.open.source import OpenSource
    from mmnet_maps.stack.fetch import estimate
    from mmnet_maps.stack.needs import Demand
    from mmnet_maps.stack.store import Stack
    from open_values import Expectation, few_passes
    from world_values import verify

    code, stack, source = Code(name="this", folder=ROOT, stack=folder / "s.zarr"), folder / "s.zarr", folder / "o.yaml"
    os.environ |= {"MMNET_CACHE": str(folder / "cache"), "EARTHDATA_TOKEN": "token-1"}
    settings = ["env", f"MMNET_CACHE={folder / 'cache'}"]
    grid = target_grid(area := read_aoi(aoi))
    needs = needs_of(load_checkpoint("mmnet-uscrn").spec)
    demand = Demand(grid=grid, tiles=touched_tiles(area, grid), needs=needs, days=parse_days(days))
    print(f"{grid.shape.x} x {grid.shape.y} pixels, {len(demand.days)} days", flush=True)
    with serving([sys.executable, str(Path(__file__).resolve()), "--serve"]) as server:
        source.write_text(yaml.safe_dump(server["config"], sort_keys=False), encoding="utf-8")
        planned = {item.group: item.cost for item in estimate(stack, [OpenSource(source)], demand)}
        metered(server["url"], forget=True)
        fill = code.mmnet("stack", "--aoi", aoi, "--date", days, "--source", str(source), "--out", str(stack))
        cost, _ = measured([*settings, *fill], code, folder / "fill")
        sent = metered(server["url"])
        print(f"mmnet stack: {cost.wall:.0f} s, {cost.user:.0f} + {cost.system:.0f} core-s, {cost.peak_mb:.0f} MB;"
              f" the server: {sent['seconds']:.0f} core-s", flush=True)  # fmt: skip
        for group, plan in sorted(planned.items()):
            assert plan is not None
            requests, size = sent["requests"].get(group, 0), sent["bytes"].get(group, 0)
            print(f"{group}: {requests} requests of {plan.requests} planned ({requests / plan.requests:.3f}), "
                  f"{size / 1e6:.1f} MB of {plan.bytes / 1e6:.1f} ({size / plan.bytes:.3f}), "
                  f"{sent['again'].get(group, 0)} sent again", flush=True)  # fmt: skip
        print(f"other: {sent['requests'].get('other', 0)} requests, {sent['bytes'].get('other', 0) / 1e6:.1f} MB")
    checked: dict[str, tuple[int, float]] = {}
    for tile in demand.tiles:
        for name, found in verify(Stack(stack), tile.geobox, needs, list(demand.days), Expectation(few_passes)).items():
            before = checked.get(name, (0, 0.0))
            checked[name] = before[0] + found[0], max(before[1], found[1])
    for name, (count, worst) in sorted(checked.items()):
        print(f"{name}: {count} values, at most {worst:.2g} from the formula", flush=True)
    for day in (demand.days[0], demand.days[-1]):
        mapped(code, [*settings, *code.mmnet_map("--aoi", aoi, "--stack", str(stack))], day, folder / f"map-{day}")


def mapped(code: Code, command: list[str], day: date, folder: Path) -> None:
    """Map a day from the stack, without the server, and print its cost and its share of pixels with an estimate."""
    import rasterio

    cost, _ = measured([*command, "--date", str(day), "--out", str(folder / "out")], code, folder)
    (path,) = (folder / "out").rglob("*soil_moisture.tif")
    with rasterio.open(path) as image:
        values = image.read(1, masked=True) * image.scales[0]
    print(f"mmnet-map {day}: {cost.wall:.0f} s, {cost.core_s:.0f} core-s, {cost.peak_mb:.0f} MB; "
          f"{values.count() / values.size:.0%} of the pixels mapped, mean {values.mean():.3f}")  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a window and four days")
    parser.add_argument("--folder", type=Path, help="keep the stack and the maps in this folder")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve_county()
    aoi, days = (WINDOW, FEW) if options.quick else (str(COUNTY), DAYS)
    if options.folder:
        return run(aoi, days, options.folder.resolve())
    with tempfile.TemporaryDirectory() as folder:
        run(aoi, days, Path(folder))


if __name__ == "__main__":
    main()
