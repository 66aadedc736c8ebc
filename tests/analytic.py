"""A source whose values follow a closed formula, and models with random weights for its variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from mmnet_maps.sources.base import Provenance, Rasters, Source
from mmnet_maps.stack.needs import Needs
from mmnet_maps.variables import FINE_GROUPS, STATIC_GROUPS, VARIABLES

LATTICES = {
    "smap": GeoBox.from_bbox((-130.0, 20.0, -60.0, 55.0), "EPSG:4326", resolution=0.09, tight=True),
    "weather": GeoBox.from_bbox((-130.0, 20.0, -60.0, 55.0), "EPSG:4326", resolution=1 / 24, tight=True),
    "lst": GeoBox.from_bbox((-2400000, 200000, 2400000, 3300000), "EPSG:5070", resolution=1000, tight=True),
}


@dataclass
class AnalyticSource:
    """A source whose values follow a closed formula of place and day.

    Values differ between variables. Optical, radar and surface temperature are observed every third day, and every
    seventh column of their lattices is missing.
    """

    name: str = "analytic"
    without: tuple[str, ...] = ()
    synthetic: bool = False
    reads: list[tuple[str, tuple[date, ...]]] = field(default_factory=list)

    def variables(self) -> dict[str, Provenance]:
        entry = Provenance(
            source="files", product="closed formula", version="1", licence="CC0-1.0", synthetic=self.synthetic
        )
        return {name: entry for name in VARIABLES if name not in self.without}

    def lattice(self, group: str) -> GeoBox:
        return LATTICES[group]

    def days(self, group: str, geobox: GeoBox, start: date, end: date) -> list[date]:
        every = [date.fromordinal(k) for k in range(start.toordinal(), end.toordinal() + 1)]
        return [day for day in every if group not in ("optical", "sar", "lst") or day.toordinal() % 3 == 0]

    def read(self, group: str, geobox: GeoBox, days: Sequence[date]) -> Rasters:
        self.reads.append((group, tuple(days)))
        names = [name for name, spec in VARIABLES.items() if spec.group == group and name not in self.without]
        return {name: np.stack([self.value(name, geobox, day) for day in days]) for name in names}

    def value(self, name: str, geobox: GeoBox, day: date) -> np.ndarray:
        """Return the formula: a value in the middle of the variable's usual range, by place and day."""
        x = (geobox.affine.c + geobox.affine.a * (np.arange(geobox.shape[1]) + 0.5))[None, :]
        y = (geobox.affine.f + geobox.affine.e * (np.arange(geobox.shape[0]) + 0.5))[:, None]
        unit = abs(geobox.affine.a)
        wave = np.sin(x / (37 * unit)) * np.cos(y / (23 * unit)) + 0.3 * np.sin(day.toordinal() / 5 + len(name))
        if name == "landcover":
            return np.where(wave > -0.7, np.where(wave > 0, 82, 52), 11).astype(np.uint8)
        low, high = RANGES[name]
        values = (low + (high - low) * (0.5 + 0.35 * wave)).astype(np.float32)
        if VARIABLES[name].group in ("optical", "sar", "lst"):
            column = np.rint(x / unit - 0.5).astype(int)
            values[np.broadcast_to(column % 7 == 0, values.shape)] = np.nan
        return values


RANGES = {
    "elevation": (200, 900), "slope": (0, 20), "aspect": (10, 350), "clay": (10, 30), "sand": (30, 60),
    "bulk_density": (1.3, 1.5), "blue": (0.03, 0.08), "green": (0.05, 0.1), "red": (0.05, 0.15), "nir": (0.2, 0.4),
    "swir1": (0.15, 0.3), "swir2": (0.1, 0.2), "vv": (-14, -8), "vh": (-21, -15), "smap": (0.1, 0.3), "eto": (2, 7),
    "etr": (3, 9), "pr": (0, 9), "sph": (0.004, 0.009), "srad": (150, 300), "vpd": (0.5, 2.5), "vs": (1, 6),
    "tmmx": (290, 305), "tmmn": (278, 290), "lst": (295, 320),
}  # fmt: skip
assert set(RANGES) | {"landcover"} == set(VARIABLES)
assert set(FINE_GROUPS) == {*STATIC_GROUPS, "optical", "sar"}


def read_static(source: Source, geobox: GeoBox, days: Sequence[date]) -> Rasters:
    """Read all variables of a source that have no time axis."""
    return {name: values for group in STATIC_GROUPS for name, values in source.read(group, geobox, days).items()}


def source_of(needs: Needs, **options: Any) -> AnalyticSource:
    """Return an analytic source of the needed variables alone, which makes small stacks."""
    return AnalyticSource(without=tuple(name for name in VARIABLES if name not in needs.variables), **options)


GROUPS = ({"features": ("pr", "vpd"), "branch": "transformer"}, {"features": ("lst",), "branch": "mlp"})
"""Groups of series for `make_model`."""


def make_model(
    folder: Path, architecture: str = "mmnet", name: str = "random", seed: int = 7, groups: Any = None
) -> Path:
    """Write a checkpoint with random weights whose inputs are scaled by the analytic source's ranges."""
    import torch

    from mmnet_maps.model.checkpoint import save_checkpoint
    from mmnet_maps.model.features import Feature
    from mmnet_maps.model.spec import ModelSpec
    from mmnet_maps.variables import LANDCOVER_CLASSES

    classes = tuple(LANDCOVER_CLASSES)
    snapshot = [
        Feature(name=n, encoding="identity") for n in ("smap", "ndvi", "cr", "elevation", "clay", "bulk_density")
    ]
    snapshot += [
        Feature(name="landcover", encoding="onehot", classes=classes),
        Feature(name="doy", encoding="sincos"),
        Feature(name="latitude", encoding="identity"),
    ]
    series = [Feature(name="pr", encoding="log1p")] + [Feature(name=n, encoding="identity") for n in ("vpd", "lst")]
    if "transformer" in architecture:
        series.append(Feature(name="smap_series", encoding="identity"))
    centre = {
        "smap": 0.2,
        "ndvi": 0.5,
        "cr": 0.6,
        "elevation": 500.0,
        "clay": 20.0,
        "bulk_density": 1.4,
        "latitude": 40.0,
    }
    mean = [*(centre[f.name] for f in snapshot[:6]), *([0.0] * 10), 40.0]
    std = [0.1, 0.2, 0.1, 300.0, 8.0, 0.1, *([1.0] * 10), 5.0]
    spec = ModelSpec(
        name=name,
        architecture=architecture,
        snapshot=tuple(snapshot),
        series=tuple(series),
        series_groups=groups,
        steps=4,
        includes_day=True,
        d_model=32,
        heads=4,
        feedforward=32,
        snapshot_mean=tuple(mean),
        snapshot_std=tuple(std),
        series_mean=(1.5, 1.5, 305.0, 0.2)[: len(series)],
        series_std=(1.0, 0.8, 9.0, 0.1)[: len(series)],
        inputs={"smap": "closed formula", "lst": "thermometer", "cr": "another radar", "ndvi": "closed formula"},
    )
    torch.manual_seed(seed)
    network = spec.network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        list(network.parameters())[-1].fill_(0.25)
    save_checkpoint(folder, spec, network, None)
    return folder
