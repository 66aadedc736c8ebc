"""Complete daily series at the stations of a table: the observation, and the estimate of a model on every day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmnet_maps import __version__
from mmnet_maps.errors import InputError
from mmnet_maps.metrics import ESTIMATE, STD, TARGET, fill_observations
from mmnet_maps.training.build_table import METADATA
from mmnet_maps.training.evaluate import prediction
from mmnet_maps.training.table import Samples, read_samples

if TYPE_CHECKING:
    import pandas as pd

    from mmnet_maps.model.engine import Engine


def fill_samples(samples: str | Path, *, model: str | None = None, uncertainty: int | None = None) -> pd.DataFrame:
    """Read a table of samples and fill the gaps of its stations (`fill_gaps`); the model as for maps."""
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.settings import settle

    settings = settle({"model": model, "uncertainty": uncertainty})
    engine = Engine(*map(load_checkpoint, settings.model), draws=settings.uncertainty)
    return fill_gaps(engine, read_samples(samples, target=False))


def fill_gaps(engine: Engine, samples: Samples) -> pd.DataFrame:
    """Estimate every day of every station, from its first row to its last.

    Parameters
    ----------
    engine
        The model; with members, standard deviations are given too.
    samples
        Rows with a model's inputs, with or without observations.

    Returns
    -------
    pandas.DataFrame
        One row per station and day, sorted: ``station, date, lat, lon, soil_moisture`` (observed, NaN where there is
        no observation), ``soil_moisture_estimate``, ``soil_moisture_std`` (NaN without members), both NaN where an
        input is missing or the table has no row, and ``soil_moisture_filled``; m³/m³, float32; ``smap`` and ``pr``,
        the day's rain in mm, where the table has them. ``attrs`` name the model and the table.

    Raises
    ------
    InputError
        The table has no column for an input of the model, or has a station twice on a day.
    """
    import pandas as pd

    rows = _estimated(engine, samples)
    parts = []
    for name, mine in rows.groupby("station"):
        days = pd.date_range(mine["date"].min(), mine["date"].max(), name="date")
        lat, lon = samples.stations[str(name)]
        parts.append(mine.set_index("date").reindex(days).assign(station=name, lat=lat, lon=lon).reset_index())
    whole = fill_observations(pd.concat(parts, ignore_index=True))
    about = json.loads((samples.table.schema.metadata or {}).get(METADATA, b"{}"))
    whole.attrs = {
        "model": engine.spec.name,
        "samples": Path(samples.name).name,
        "software": f"mmnet_maps {__version__}",
        "synthetic": bool(about.get("synthetic")),
        "inputs": about.get("inputs", {}),
    }
    return whole


def _estimated(engine: Engine, samples: Samples) -> pd.DataFrame:
    """Return the rows of a table with observation, estimate, standard deviation, SMAP and rain."""
    import pandas as pd

    found = prediction(engine, samples)
    present = set(samples.table.column_names)
    rows = pd.DataFrame(
        {
            "station": samples.station,
            "date": samples.date.astype("datetime64[s]"),
            TARGET: samples.target if TARGET in present else np.float32(np.nan),
            ESTIMATE: found.estimate,
            STD: found.std if found.std is not None else np.float32(np.nan),
        }
    )
    if "smap" in present:
        rows["smap"] = samples.possible("smap")
    if "pr" in present:
        rows["pr"] = samples.series(["pr"], 1)["pr"][:, 0]
    twice = rows.duplicated(["station", "date"])
    if twice.any():
        one = rows[twice].iloc[0]
        raise InputError(
            f"{samples.name}: station {one['station']} has two rows on {one['date']:%Y-%m-%d}; keep one of each day"
        )
    return rows
