"""A trained network on disk: weights, all that they need to be used, and a strict way back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import safetensors.torch
import torch
import yaml
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from safetensors import SafetensorError
from torch import nn

from mmnet_maps.errors import OutputError, RequestError
from mmnet_maps.features import Feature, encoded_columns
from mmnet_maps.network import Architecture, build

WEIGHTS, SPEC, GOLDEN, CARD = "weights.safetensors", "model.json", "golden.npz", "README.md"

_PACKAGE = Path(__file__).parent
_FEATURE_KEYS = {"name", "encoding", "classes"}
_CONFIG = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=4096)]
Range = tuple[float, float]


def _feature(value: Any) -> Feature:
    """A feature from its JSON or YAML form; pydantic would pass over unknown keys of a plain dataclass."""
    if isinstance(value, Feature):
        return value
    if not isinstance(value, dict) or not {"name", "encoding"} <= set(value) <= _FEATURE_KEYS:
        raise ValueError(f"a feature needs name, encoding and, for onehot, classes, not {value!r}")
    classes = value.get("classes", ())
    if not isinstance(classes, list | tuple) or not all(isinstance(item, str) for item in (*classes, value["name"])):
        raise ValueError(f"a feature's name is text and its classes a list of texts, not {value!r}")
    return Feature(name=value["name"], encoding=value["encoding"], classes=tuple(classes))


class Profile(BaseModel):
    """What a network is fed with.

    Attributes
    ----------
    architecture
        One of the five of `network.build`.
    snapshot, series
        Features in column order.
    steps, includes_day
        Days in a series, oldest first, and whether the last of them is the day of the estimate or the day before.
    """

    model_config = _CONFIG

    architecture: Architecture
    snapshot: Annotated[tuple[Feature, ...], Field(min_length=1)]
    series: Annotated[tuple[Feature, ...], Field(min_length=1)]
    steps: Count
    includes_day: bool

    @field_validator("snapshot", "series", mode="before")
    @classmethod
    def _read_features(cls, value: Any) -> tuple[Feature, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"a list of features is expected, not {value!r}")
        return tuple(_feature(item) for item in value)

    @field_serializer("snapshot", "series")
    def _write_features(self, features: tuple[Feature, ...]) -> list[dict[str, Any]]:
        return [
            {"name": item.name, "encoding": item.encoding} | ({"classes": list(item.classes)} if item.classes else {})
            for item in features
        ]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for kind in ("snapshot", "series"):
            columns = encoded_columns(getattr(self, kind))
            if len(set(columns)) != len(columns):
                raise ValueError(f"{kind} gives a column twice: {', '.join(columns)}")
        return self


class Target(BaseModel):
    """What a network estimates.

    Attributes
    ----------
    name, units
        As in the product: ``soil_moisture``, ``m3 m-3``.
    residual_of
        The variable that the network's output is to be added to, if any.
    std_factor
        Factor on the spread of Monte Carlo or ensemble members.
    """

    model_config = _CONFIG

    name: str = "soil_moisture"
    units: str = "m3 m-3"
    residual_of: str | None = None
    std_factor: Annotated[float, Field(gt=0)] = 1.0


class ModelSpec(Profile):
    """All that a checkpoint's weights need to be used: ``model.json``.

    Attributes
    ----------
    format
        Version of this file, 1.
    name
        Letters, digits, dot, dash and underscore.
    d_model, heads, layers, feedforward, dropout, positional_base
        Sizes for `network.build`.
    snapshot_mean, snapshot_std, series_mean, series_std
        Per encoded column; a standard deviation of 0 counts as 1.
    snapshot_range, series_range
        Lowest and highest encoded value seen in training, per column; None where nobody knows.
    inputs
        The product behind each variable in training.
    target
        What is estimated.
    training
        Whatever is known of data, samples, metrics and commit.
    weights_sha256
        Of ``weights.safetensors``; `save_checkpoint` fills it in.

    Raises
    ------
    pydantic.ValidationError
        When a field is missing, unknown, of another type, or statistics do not match the encoded columns.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    d_model: Count = 128
    heads: Count = 16
    layers: Annotated[int, Field(ge=1, le=24)] = 1
    feedforward: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    positional_base: Annotated[float, Field(gt=1)] = 1000
    snapshot_mean: tuple[float, ...]
    snapshot_std: tuple[float, ...]
    series_mean: tuple[float, ...]
    series_std: tuple[float, ...]
    snapshot_range: tuple[Range, ...] | None = None
    series_range: tuple[Range, ...] | None = None
    inputs: dict[str, str] = {}
    target: Target = Target()
    training: dict[str, JsonValue] = {}
    weights_sha256: str = ""

    @model_validator(mode="after")
    def _check_statistics(self) -> Self:
        for kind in ("snapshot", "series"):
            columns = len(encoded_columns(getattr(self, kind)))
            for statistic in ("mean", "std", "range"):
                values = getattr(self, f"{kind}_{statistic}")
                if values is not None and len(values) != columns:
                    raise ValueError(f"{kind}_{statistic} has {len(values)} entries for {columns} encoded columns")
            if min(getattr(self, f"{kind}_std")) < 0:
                raise ValueError(f"{kind}_std holds a negative number")
            if any(low > high for low, high in getattr(self, f"{kind}_range") or ()):
                raise ValueError(f"{kind}_range holds a lowest value above its highest")
        if self.d_model % self.heads or self.d_model % 4:
            raise ValueError(f"d_model {self.d_model} is not a multiple of 4 and of heads {self.heads}")
        return self

    def network(self) -> nn.Module:
        """An untrained network of these sizes."""
        return build(
            self.architecture,
            snapshot=len(encoded_columns(self.snapshot)),
            series=len(encoded_columns(self.series)),
            steps=self.steps,
            d_model=self.d_model,
            heads=self.heads,
            layers=self.layers,
            feedforward=self.feedforward,
            dropout=self.dropout,
            positional_base=self.positional_base,
        )

    def to_json(self) -> str:
        """The text of ``model.json``: one line a field, one line a feature."""
        values = self.model_dump(mode="json")
        lines = []
        for key in _ORDER:
            text = json.dumps(values[key], ensure_ascii=False, allow_nan=False)
            if key in ("snapshot", "series"):
                items = ",\n    ".join(json.dumps(item) for item in values[key])
                text = f"[\n    {items}\n  ]"
            lines.append(f"  {json.dumps(key)}: {text}")
        return "{\n" + ",\n".join(lines) + "\n}\n"


_ORDER = (
    *("format", "name", "architecture", "d_model", "heads", "layers", "feedforward", "dropout", "positional_base"),
    *("snapshot", "series", "steps", "includes_day", "snapshot_mean", "snapshot_std", "series_mean", "series_std"),
    *("snapshot_range", "series_range", "inputs", "target", "training", "weights_sha256"),
)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model.

    Attributes
    ----------
    spec
        What ``model.json`` says.
    network
        With its weights, in evaluation mode, on the CPU.
    path
        Its folder.
    sha256
        Hash of the weights file.
    fingerprint
        Hash of the weights file and ``model.json`` together.
    """

    spec: ModelSpec
    network: nn.Module
    path: Path
    sha256: str
    fingerprint: str


def profile(name: str) -> dict[str, Any]:
    """Inputs and architecture by the name of a file in ``configs``: ``paper`` or ``released``.

    Returns
    -------
    dict
        ``architecture``, ``snapshot``, ``series`` (tuples of `Feature`), ``steps``, ``includes_day``: keyword arguments
        of `ModelSpec`.

    Raises
    ------
    RequestError
        When there is no such profile.

    Examples
    --------
    >>> len(encoded_columns(profile("paper")["snapshot"])), profile("released")["steps"]
    (25, 11)
    """
    folder = _packaged("configs")
    names = ("paper", "released")
    if name not in names:
        raise RequestError(f"There is no profile {name!r}; use one of {', '.join(names)}.")
    text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(Profile.model_validate(yaml.safe_load(text)))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load a checkpoint folder, or a model that comes with the package by its bare name.

    Nothing is repaired or guessed: the weights' hash, keys, shapes and types must be those that ``model.json`` states.

    Parameters
    ----------
    path
        A folder with ``model.json`` and ``weights.safetensors``, or a name such as ``mmnet-uscrn``.

    Returns
    -------
    Checkpoint

    Raises
    ------
    RequestError
        When there is no such model, or anything about it is not as it should be.
    """
    folder = _find(Path(path))
    spec_bytes, weights = _read(folder / SPEC), _read(folder / WEIGHTS)
    spec = _read_spec(folder / SPEC, spec_bytes)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != spec.weights_sha256:
        raise RequestError(
            f"{folder / WEIGHTS}{_is_pickle(weights)} has the SHA-256 {digest[:12]}…, but {SPEC} states "
            f"{spec.weights_sha256[:12] or 'none'}…: damaged or changed. Get the checkpoint again."
        )
    try:
        state = safetensors.torch.load(weights)
    except (SafetensorError, KeyError) as error:  # KeyError: a tensor type that this version does not know
        raise RequestError(
            f"{folder / WEIGHTS}{_is_pickle(weights)} is not a safetensors file ({error}). Get the checkpoint again."
        ) from error
    network = restore(spec, state, str(folder / WEIGHTS))
    fingerprint = hashlib.sha256(weights + spec_bytes).hexdigest()
    return Checkpoint(spec=spec, network=network, path=folder, sha256=digest, fingerprint=fingerprint)


def restore(spec: ModelSpec, state: dict[str, torch.Tensor], source: str) -> nn.Module:
    """A network in evaluation mode from a state dict that fits the specification in every key, shape and type.

    Parameters
    ----------
    spec
        Architecture and sizes.
    state
        Tensors by name; they are used as they are, not copied.
    source
        Where they come from, for messages.

    Raises
    ------
    RequestError
        When a key is missing or unknown, a tensor has another shape or type, or holds NaN or infinity.
    """
    with torch.device("meta"):  # no memory, and no draw from the random generator
        network = spec.network()
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"holds the unknown {unknown[0]!r}"
        raise RequestError(
            f"{source} {what} ({len(missing)} missing, {len(unknown)} unknown of {len(expected)} tensors); "
            f"it is not a {spec.architecture} network of this specification."
        )
    for name, tensor in expected.items():
        given = state[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            raise RequestError(
                f"{source}: {name} is {_kind(given)}; expected {_kind(tensor)} for "
                f"{len(encoded_columns(spec.snapshot))} snapshot columns, {len(encoded_columns(spec.series))} series "
                f"columns and {spec.steps} steps."
            )
        if not bool(torch.isfinite(given).all()):
            raise RequestError(f"{source}: {name} holds NaN or infinite values. Train or get the model again.")
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval()


def save_checkpoint(
    folder: str | Path,
    spec: ModelSpec,
    network: nn.Module,
    golden: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
) -> Checkpoint:
    """Write a checkpoint, whole or not at all, and load it back.

    Parameters
    ----------
    folder
        New, empty, or a checkpoint, which is replaced; its ``README.md`` stays.
    spec
        ``weights_sha256`` is filled in.
    network
        Of the specification's sizes; it is left as it is.
    golden
        Standardised inputs (n, snapshot columns) and (n, steps, series columns), float32, kept with the outputs of
        the network in ``golden.npz`` for `check_golden`.

    Returns
    -------
    Checkpoint
        As loaded from `folder`.

    Raises
    ------
    OutputError
        When the folder holds anything that is not a checkpoint's, or cannot be written.
    RequestError
        When network and specification do not match.
    """
    folder = Path(os.path.abspath(folder))
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    trained = restore(spec, state, f"Network {spec.name!r}")
    weights = safetensors.torch.save(state)
    text = spec.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()}).to_json()
    try:
        _check_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            (new / WEIGHTS).write_bytes(weights)
            (new / SPEC).write_text(text, encoding="utf-8")
            if golden is not None:
                snapshot, series = (np.asarray(part, np.float32) for part in golden)
                np.savez(new / GOLDEN, snapshot=snapshot, series=series, output=_forward(trained, snapshot, series))
            if (folder / CARD).exists():
                shutil.copy2(folder / CARD, new / CARD)
            load_checkpoint(new)
            _swap(new, folder, Path(scratch, "old"))
    except OSError as error:
        raise OutputError(f"The checkpoint {folder} cannot be written: {error}.") from error
    return load_checkpoint(folder)


def check_golden(checkpoint: Checkpoint) -> float:
    """Largest absolute deviation of the network from the outputs that were kept when it was saved.

    Raises
    ------
    RequestError
        When ``golden.npz`` is missing, broken or of other shapes.
    """
    path = checkpoint.path / GOLDEN
    try:
        with np.load(io.BytesIO(_read(path)), allow_pickle=False) as archive:
            snapshot, series, output = archive["snapshot"], archive["series"], archive["output"]
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path} is broken ({error}). Get the checkpoint again.") from error
    try:
        estimate = _forward(checkpoint.network, snapshot, series)
    except (RuntimeError, TypeError, IndexError) as error:
        first = str(error).splitlines()[0]
        raise RequestError(f"{path} does not fit the network ({first}). Get the checkpoint again.") from error
    if estimate.shape != output.shape or not np.isfinite(output).all():
        raise RequestError(
            f"{path} has outputs {output.shape}; expected finite numbers {estimate.shape}. Get the checkpoint again."
        )
    return float(np.abs(estimate - output).max(initial=0.0))


def _forward(network: nn.Module, snapshot: NDArray[np.float32], series: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.inference_mode():
        estimate: NDArray[np.float32] = network(torch.from_numpy(snapshot), torch.from_numpy(series)).numpy()
    return estimate


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Put `new` in the place of `folder`, which comes back when that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)


def _packaged(kind: str) -> Path:
    """Folder of packaged models or configs: in the wheel, or in the checkout that an editable install runs from."""
    checkout = _PACKAGE.parent
    inside = _PACKAGE / "data" / kind
    return inside if inside.is_dir() or not (checkout / "pyproject.toml").is_file() else checkout / kind


def _find(path: Path) -> Path:
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        return path
    if os.path.lexists(path):
        raise RequestError(
            f"Model {str(path)!r} is a file; expected a folder with {SPEC} and {WEIGHTS}. "
            "Convert a released .pth with: mmnet convert."
        )
    packaged = _packaged("models")
    if path.name == str(path) and os.path.isfile(packaged / path / SPEC):
        return packaged / path
    there = sorted(spec.parent.name for spec in packaged.glob(f"*/{SPEC}"))
    raise RequestError(
        f"There is no model {str(path)!r}; give a checkpoint folder or one of the packaged models: "
        f"{', '.join(there) or 'none'}."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"Model {str(path.parent)!r}: {path.name} cannot be read ({error.strerror}); "
            f"a checkpoint holds {SPEC}, {WEIGHTS} and, for parity checks, {GOLDEN}."
        ) from error


def _read_spec(path: Path, data: bytes) -> ModelSpec:
    try:
        return ModelSpec.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise RequestError(f"{path}: {first_error(error)}. Get the checkpoint again or correct it.") from error


def first_error(error: ValidationError) -> str:
    """The first of a specification's faults, on one line: where, what, and how many more there are."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {' '.join(first['msg'].split())}{more}"


def _is_pickle(data: bytes) -> str:
    """A word for messages; only a guess, as a safetensors header may begin with the same byte."""
    return " looks like a pickle, is not opened, and" if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04" else ""


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise OutputError(f"{folder} is not a folder; nothing was written. Name another.")
    foreign = sorted({item.name for item in folder.iterdir()} - {WEIGHTS, SPEC, GOLDEN, CARD})
    if foreign:
        raise OutputError(
            f"{folder} holds {foreign[0]!r}, which is not a checkpoint's; nothing was written. Name another folder."
        )


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
