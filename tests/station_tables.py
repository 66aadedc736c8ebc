"""Small made-up tables of station samples, in the format of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mmnet_maps.model.features import Feature
from mmnet_maps.training.train import TrainConfig

WEATHER = ("eto", "etr", "pr", "sph", "srad", "vpd", "vs")
"""Weather of the released code's tables."""

CLASSES = ("grassland", "pasture", "developed")
POSITIONS = {f"S{i:02d}": (33.0 + i % 3 * 4, -118.0 + 4.0 * i) for i in range(8)}


def make_table(days: int = 60, start: str = "2020-11-15", length: int = 11, seed: int = 0) -> pa.Table:
    """Make eight stations far apart; soil moisture follows SMAP, the last two days' rain, and a station's own level."""
    random = np.random.default_rng(seed)
    rows = []
    for number, (name, (lat, lon)) in enumerate(POSITIONS.items()):
        rain = random.gamma(0.3, 12.0, days + length - 1).astype(np.float32)
        smap = np.clip(0.2 + 0.1 * np.sin(np.arange(days) / 9 + number), 0, 0.9).astype(np.float32)
        for day in range(days):
            pr = rain[day : day + length]
            wet = 0.5 * smap[day] + 0.02 * np.log1p(pr[-1]) + 0.02 * np.log1p(pr[-2]) + 0.004 * number
            rows.append(
                {
                    "station": name,
                    "region": "west" if lon < -104 else "middle",
                    "date": np.datetime64(start) + np.timedelta64(day, "D"),
                    "lat": lat,
                    "lon": lon,
                    "soil_moisture": wet,
                    "smap": smap[day],
                    "landcover": CLASSES[number % 2],
                    "elevation": 100.0 * number,
                    "note": number,
                    "pr": pr,
                    "lst": random.normal(300, 8, length).astype(np.float32),
                }
            )
    return pa.table({name: _column(name, [row[name] for row in rows], length) for name in rows[0]})


def _column(name: str, values: list[Any], length: int) -> pa.Array:
    if name in ("pr", "lst"):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values), pa.float32()), length)
    if name in ("station", "region", "landcover"):
        return pa.array(values).dictionary_encode()
    if name == "date":
        return pa.array(np.array(values).astype("datetime64[D]"))
    return pa.array(np.asarray(values), pa.int16() if name == "note" else pa.float32())


def write_table(path: Path, table: pa.Table | None = None) -> Path:
    """Write a table, by default that of `make_table`."""
    pq.write_table(make_table() if table is None else table, path)
    return path


def replace(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """Replace one column of a table."""
    return table.set_column(table.column_names.index(name), name, column)


def released(rows: int = 40, seed: int = 4) -> pd.DataFrame:
    """Make a table with the columns of the released code."""
    random = np.random.default_rng(seed)
    columns = {
        "ID": np.repeat([101, 102], rows // 2),
        "Network": "USCRN",
        "Latitude": np.repeat([36.12, 47.42], rows // 2),
        "Longitude": np.repeat([-97.09, -117.53], rows // 2),
        "Date": [f"{day:%Y%m%d}" for day in pd.date_range("2019-12-20", periods=rows // 2)] * 2,
        "Year": 2020,
        "Domain": np.repeat(["M", "W"], rows // 2),
        "VWC_5": random.uniform(0.05, 0.4, rows),
        "DoY_normalized": 0.5,
        "bd": 1.4,
        "LC_name": np.repeat(["Grassland", "Cropland"], rows // 2),
        "aspect": 135.0,
        "angle": 38.0,
        "VV": random.uniform(-14, -8, rows),
        "pol": random.uniform(-5, -3, rows),
    }
    for name in (*WEATHER, "LST", "SMAP"):
        for suffix in ("", *(f"_{lag}" for lag in range(1, 11))):
            low, high = {"LST": (14_000, 15_500), "SMAP": (0.1, 0.4), "sph": (0.004, 0.01)}.get(name, (1, 5))
            columns[f"{name}{suffix}"] = random.uniform(low, high, rows)
    return pd.DataFrame(columns)


def small_config(**changes: Any) -> TrainConfig:
    """Configure a small MMNet for these tables that trains in a second or two."""
    values: dict[str, Any] = {
        "name": "small",
        "architecture": "mmnet",
        "snapshot": (
            Feature(name="smap", encoding="identity"),
            Feature(name="landcover", encoding="onehot", classes=CLASSES),
            Feature(name="doy", encoding="sincos"),
        ),
        "series": (Feature(name="pr", encoding="log1p"), Feature(name="lst", encoding="identity")),
        "steps": 5,
        "includes_day": True,
        "d_model": 16,
        "heads": 4,
        "batch": 32,
        "max_epochs": 3,
    }
    return TrainConfig(**(values | changes))


def experiment_values(**changes: Any) -> dict[str, Any]:
    """Two small networks, one table of eight stations on 60 days of two years."""
    training = small_config(max_epochs=1, validation_fraction=0.34).model_dump(
        mode="json", exclude={"name", "architecture", "seed", "validation"}
    )
    networks = {"mmnet": {"architecture": "mmnet"}, "days": {"architecture": "mlp_full"}}
    table = {"samples": "table.parquet", "on_site_years": 1}
    return {
        "name": "Small",
        "tables": {"t": table},
        "networks": networks,
        "training": training,
        "seeds": 2,
        "folds": 2,
        **changes,
    }
