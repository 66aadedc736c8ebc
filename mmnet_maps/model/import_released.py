"""Convert a ``.pth`` of the released MMNet code into a checkpoint in physical units."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from mmnet_maps.errors import RequestError
from mmnet_maps.model.checkpoint import Checkpoint, restore, save_checkpoint
from mmnet_maps.model.features import Feature, encoded_columns
from mmnet_maps.model.spec import ModelSpec
from mmnet_maps.model.spec import profile as read_profile
from mmnet_maps.settings import first_error

SNAPSHOT_SCALER, SERIES_SCALER = "static_mean_std.npy", "dynamic_mean_std.npy"

_TABLE = "position_enc.pe"
_LST_SCALE = 0.02  # K per raw MODIS number; the released code trains on the raw numbers
_GOLDEN_ROWS = 64

_OPTICAL = "NASA/HLS/HLSL30/v002"
_RADAR = "COPERNICUS/S1_GRD"
_WEATHER = "IDAHO_EPSCOR/GRIDMET"
_INPUTS = (
    dict.fromkeys(("elevation", "slope", "aspect"), "USGS/3DEP/10m")
    | {"landcover": "USGS/NLCD_RELEASES", "smap": "NASA/SMAP/SPL4SMGP", "lst": "MODIS/061/MOD11A1"}
    | dict.fromkeys(("clay", "sand", "bulk_density"), "projects/sat-io/open-datasets/polaris")
    | dict.fromkeys(("ndvi", "evi", "ndwi", "lswi", "nsdsi"), _OPTICAL)
    | dict.fromkeys(("cr", "dpsvim", "pol", "rvim", "vvvh"), _RADAR)
    | dict.fromkeys(("eto", "etr", "pr", "sph", "srad", "vpd", "vs"), _WEATHER)
)


def convert(
    pth: str | Path, scalers_dir: str | Path, profile: Literal["released", "paper"] | str, out: str | Path
) -> Checkpoint:
    """Convert a ``.pth`` of the released code and its two scaler files.

    The ``.pth`` is a dict of ``model_state`` and ``criterion``. The unpickler makes tensors and ``torch.nn.MSELoss``
    only, so a file made to run code is refused. Row 0 of the scalers is the mean and row 1 the standard deviation of
    each encoded column; those of the land surface temperature are converted from raw MODIS numbers to kelvin. Ranges
    seen in training are not in these files and stay unknown.

    Parameters
    ----------
    pth
        The file, for example ``model_best.pth``.
    scalers_dir
        Folder of ``static_mean_std.npy`` and ``dynamic_mean_std.npy``.
    profile
        Inputs of its training: ``released`` or ``paper``.
    out
        Checkpoint folder to write; its name becomes the model's.

    Returns
    -------
    Checkpoint
        The checkpoint written to `out`.

    Raises
    ------
    RequestError
        A file is missing, or its content is not that of the released code.
    OutputError
        `out` cannot be written.
    """
    pth = Path(pth)
    inputs = read_profile(profile)
    snapshot = _read_scaler(Path(scalers_dir, SNAPSHOT_SCALER), inputs["snapshot"])
    series = _read_scaler(Path(scalers_dir, SERIES_SCALER), inputs["series"])
    data = _read(pth)
    used = {feature.name for feature in (*inputs["snapshot"], *inputs["series"])}
    try:
        spec = ModelSpec(
            name=Path(out).resolve().name,
            **inputs,
            snapshot_mean=tuple(snapshot[0].tolist()),
            snapshot_std=tuple(snapshot[1].tolist()),
            series_mean=tuple(series[0].tolist()),
            series_std=tuple(series[1].tolist()),
            inputs={name: product for name, product in _INPUTS.items() if name in used},
            training={"converted_from": pth.name, "converted_sha256": hashlib.sha256(data).hexdigest()},
        )
    except ValidationError as error:
        raise RequestError(f"{pth} cannot become the model {str(out)!r}: {first_error(error)}") from error
    network = restore(spec, _model_state(pth, data, spec), str(pth))
    draw = np.random.default_rng(0)
    golden = (
        draw.standard_normal((_GOLDEN_ROWS, snapshot.shape[1]), np.float32),
        draw.standard_normal((_GOLDEN_ROWS, spec.steps, series.shape[1]), np.float32),
    )
    return save_checkpoint(out, spec, network, golden)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read ({error.strerror}); give the file that the released code saved"
        ) from error


def _model_state(path: Path, data: bytes, spec: ModelSpec) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([torch.nn.MSELoss]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of files that it then refuses
            saved: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(
            f"{path} holds more than tensors and torch.nn.MSELoss, or is no .pth ({_reason(error)}); nothing was run"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise RequestError(
            f"{path} is damaged or no .pth ({_reason(error)}); give the file that the released code saved"
        ) from error
    if not isinstance(saved, dict) or saved.keys() != {"model_state", "criterion"}:
        found = ", ".join(map(str, saved)) if isinstance(saved, dict) else type(saved).__name__
        raise RequestError(
            f"{path} holds {found or 'nothing'}; expected model_state and criterion, as saved by the released code"
        )
    state = saved["model_state"]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise RequestError(f"{path}: model_state is not a dict of tensors; give the file that the released code saved")
    return {name: _table(tensor, spec) if name == _TABLE else tensor.contiguous() for name, tensor in state.items()}


def _table(tensor: Tensor, spec: ModelSpec) -> Tensor:
    """Remove the batch axis that the positional table may have been saved with."""
    rows = spec.steps + 1
    fits = tensor.numel() == rows * spec.d_model and tensor.shape[-1:] == (spec.d_model,)
    return tensor.reshape(rows, spec.d_model) if fits else tensor


def _read_scaler(path: Path, features: tuple[Feature, ...]) -> NDArray[np.float64]:
    """Read mean and standard deviation in physical units, float64 (2, columns)."""
    data = _read(path)
    try:
        scaler = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RequestError(
            f"{path} is not a plain .npy array ({_reason(error)}); give the file that the released code saved"
        ) from error
    columns = encoded_columns(features)
    expected = (2, len(columns))
    if scaler.shape != expected or scaler.dtype.kind != "f":
        raise RequestError(
            f"{path} holds {scaler.dtype} {scaler.shape}; expected floats {expected}: mean and standard deviation "
            "per column"
        )
    if not np.isfinite(scaler).all() or (scaler[1] < 0).any():
        raise RequestError(f"{path} holds NaN, infinite or negative deviations; expected those of the training data")
    scaler = scaler.astype(np.float64)
    if "lst" in columns:
        scaler[:, columns.index("lst")] *= _LST_SCALE
    return scaler


def _reason(error: Exception) -> str:
    """Return the first sentence of a library's message."""
    return str(error).splitlines()[0].split(". ")[0][:160] if str(error) else type(error).__name__
