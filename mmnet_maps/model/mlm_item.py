"""A model folder as a STAC item with the Machine Learning Model extension, made from the folder's files alone."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmnet_maps.files import write_whole
from mmnet_maps.model.features import PERIODS, Feature, by_column, encoded_columns
from mmnet_maps.model.indices import INDICES
from mmnet_maps.model.saved import read_saved
from mmnet_maps.model.spec import CARD, GOLDEN, ITEM, SPEC, WEIGHTS, ModelSpec, read_file
from mmnet_maps.variables import LANDCOVER_CLASSES, VARIABLES

OLDEST_TORCH = "2.4.0"
"""The oldest PyTorch that the package allows."""

_EXTENSIONS = [
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
]
_SIZES = ("networks", "d_model", "heads", "layers", "feedforward", "dropout", "positional_base")
_COMPUTED = {
    "doy": ("day of the year, 1 to 366", "day"),
    "latitude": ("latitude of the pixel's centre", "degree"),
    "longitude": ("longitude of the pixel's centre", "degree"),
}
_NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked", "position_enc.pe")
_NAME = r"[a-zA-Z][a-zA-Z0-9_.\-]+[a-zA-Z0-9]"  # of mlm:name
_LICENCE = re.compile(r"\bWeights: ([A-Za-z0-9.+-]*[A-Za-z0-9+])")


def mlm_name(spec: ModelSpec) -> str:
    """Return a model's name for the extension, which refuses very short names and some first and last characters.

    >>> from types import SimpleNamespace
    >>> mlm_name(SimpleNamespace(name="mmnet-uscrn")), mlm_name(SimpleNamespace(name="7-"))
    ('mmnet-uscrn', 'model-7')
    """
    return spec.name if re.fullmatch(_NAME, spec.name) else f"model-{spec.name}".rstrip("._-")


def write_model_item(folder: Path) -> Path:
    """Write the item of a model folder as ``stac.json`` beside the files that it lists; the same files, the same bytes.

    The item is no part of the model: its hash does not enter that of the weights or of maps.

    Raises
    ------
    RequestError
        The folder holds no model.
    OutputError
        The file cannot be written.
    """
    path = folder / ITEM
    write_whole(path, json.dumps(model_item(folder), indent=2, ensure_ascii=False) + "\n")
    return path


def model_item(folder: Path) -> dict[str, Any]:
    """Return the STAC item of a model folder.

    ``model.json`` names no place and no time, so the item has no geometry and all times. The licence is what the card
    says behind ``Weights:``, and ``other`` where it says nothing.

    Raises
    ------
    RequestError
        The folder holds no model.
    """
    saved, weights = read_saved(folder)
    spec = saved.spec
    bands = _bands((*spec.snapshot, *spec.series))
    licence = _LICENCE.search(_card(folder))
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": _EXTENSIONS,
        "id": spec.name,
        "geometry": None,
        "properties": {
            "title": spec.name,
            "description": f"Network {spec.architecture} for daily surface soil moisture at 0-5 cm, by mmnet_maps.",
            "license": licence.group(1) if licence else "other",
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            "mlm:name": mlm_name(spec),
            "mlm:architecture": spec.architecture,
            "mlm:tasks": ["regression"],
            "mlm:framework": "PyTorch",
            "mlm:framework_version": OLDEST_TORCH,
            "mlm:total_parameters": _parameters(weights),
            "mlm:accelerator": "cuda",
            "mlm:accelerator_constrained": False,
            "mlm:accelerator_summary": "No accelerator is needed; a CUDA device is used where there is one.",
            "mlm:hyperparameters": {name: getattr(spec, name) for name in _SIZES},
            "mlm:input": _inputs(spec),
            "mlm:output": [_output(spec)],
            "mmnet:fingerprint": saved.fingerprint,
            "mmnet:std_factor": spec.target.std_factor,
            "mmnet:inputs": spec.inputs,
            "mmnet:training": spec.training,
            "bands": bands,
        },
        "assets": _assets(folder, [band["name"] for band in bands]),
        "links": [
            {
                "rel": "about",
                "href": "https://doi.org/10.1029/2025JH000639",
                "type": "text/html",
                "title": "Xu et al. (2025)",
            }
        ],
    }


def _card(folder: Path) -> str:
    path = folder / CARD
    return read_file(path).decode(errors="replace") if path.is_file() else ""


def _parameters(weights: bytes) -> int:
    """Count the trained numbers in a safetensors file by its header, which needs no torch."""
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    return sum(
        math.prod(tensor["shape"])
        for name, tensor in header.items()
        if name != "__metadata__" and not name.endswith(_NO_PARAMETERS)
    )


def _inputs(spec: ModelSpec) -> list[dict[str, Any]]:
    steps = [1] * spec.steps if spec.step_days is None else list(spec.step_days)
    last = "the day of the estimate" if spec.includes_day else "the day before the estimate"
    return [
        {
            "name": "snapshot",
            "description": "One value a pixel: bands, then value_scaling.",
            **_columns(spec.snapshot, spec.snapshot_mean, spec.snapshot_std),
            "input": _structure([-1, len(spec.snapshot_mean)], ["batch", "channel"]),
        },
        {
            "name": "series",
            "description": (
                f"Means of {', '.join(map(str, steps))} days, oldest first, the last of them {last}: bands of the "
                "means, then value_scaling. A missing mean of several days is 0 after scaling."
            ),
            **_columns(spec.series, spec.series_mean, spec.series_std),
            "input": _structure([-1, spec.steps, len(spec.series_mean)], ["batch", "time", "channel"]),
        },
    ]


def _columns(features: Sequence[Feature], means: Sequence[float], stds: Sequence[float]) -> dict[str, Any]:
    """Return the encoded columns as bands, computed from those of the item, and how each is standardised."""
    bands: list[str | dict[str, str]] = []
    for name, feature in zip(encoded_columns(features), by_column(features), strict=True):
        expression = _expression(name, feature)
        bands.append(name if expression == name else {"name": name, "format": "numpy", "expression": expression})
    return {
        "bands": bands,
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std or 1.0} for mean, std in zip(means, stds, strict=True)
        ],
    }


def _expression(column: str, feature: Feature) -> str:
    """Return the formula of a column with numpy's functions; `features.encode` computes the same."""
    band = feature.stored_name
    if feature.encoding == "onehot":
        codes = LANDCOVER_CLASSES[column.removeprefix(f"{feature.name}_")]
        return f"isin({band}, {list(codes)})"
    if feature.encoding == "log1p":
        return f"log1p({band})"
    if feature.encoding == "half_cosine":
        return f"cos(({band} - 1) / 365 * pi)" if band == "doy" else f"cos({band} / 360 * pi)"
    if feature.encoding == "sincos":
        return f"{column.removeprefix(f'{feature.name}_')}(2 * pi * {band} / {PERIODS[band]:g})"
    return band


def _output(spec: ModelSpec) -> dict[str, Any]:
    target = spec.target
    found = {
        "name": target.name,
        "description": f"Volumetric soil moisture at 0-5 cm in {target.units}; maps clip it to what is possible.",
        "tasks": ["regression"],
        "result": _structure([-1], ["batch"]),
    }
    if target.residual_of is not None:
        expression = f"{target.name} + {target.residual_of}"
        found["post_processing_function"] = {"format": "numpy", "expression": expression}
    return found


def _structure(shape: list[int], dimensions: list[str]) -> dict[str, Any]:
    return {"shape": shape, "dim_order": dimensions, "data_type": "float32"}


def _bands(features: Iterable[Feature]) -> list[dict[str, str]]:
    """Return what features are made of, each once: variables, indices, and what follows from place and day."""
    return [_band(name) for name in dict.fromkeys(feature.stored_name for feature in features)]


def _band(name: str) -> dict[str, str]:
    band = {"name": name, "data_type": "float32"}
    if name in INDICES:
        index = INDICES[name]
        return {**band, "description": f"index of {', '.join(index.bands)}; {index.source}"}
    described, unit = _COMPUTED.get(name) or (VARIABLES[name].long_name, VARIABLES[name].units)
    return {**band, "description": described, "unit": unit}


def _assets(folder: Path, bands: Iterable[str]) -> dict[str, Any]:
    """Return the files of the folder; the card, which people edit, without size and checksum."""
    found: dict[str, Any] = {
        "weights": {
            **_file(folder / WEIGHTS, "trained weights", "application/octet-stream; application=safetensors"),
            "roles": ["mlm:model", "mlm:weights", "data"],
            "mlm:artifact_type": "safetensors.torch.save",
            # STAC 1.1 allows bands in an item only if an asset has some; the extension wants them in the item.
            "bands": [{"name": name} for name in bands],
        },
        "specification": {
            **_file(folder / SPEC, "inputs, encoding, scaling and sizes", "application/json"),
            "roles": ["metadata"],
        },
    }
    if (folder / GOLDEN).is_file():
        found["golden"] = {
            **_file(folder / GOLDEN, "standardised inputs and outputs to compare with", "application/octet-stream"),
            "roles": ["data"],
        }
    if (folder / CARD).is_file():
        card = {"href": f"./{CARD}", "title": "model card: training data, skill, where it is valid"}
        found["card"] = {**card, "type": "text/markdown", "roles": ["metadata"]}
    return found


def _file(path: Path, title: str, kind: str) -> dict[str, Any]:
    data = read_file(path)
    # 12 20 is the multihash prefix of a SHA-256 of 32 bytes, which the file extension requires.
    checksum = f"1220{hashlib.sha256(data).hexdigest()}"
    return {"href": f"./{path.name}", "title": title, "type": kind, "file:size": len(data), "file:checksum": checksum}
