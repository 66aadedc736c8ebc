"""Specifications: the inputs of a network (profiles) and all that its weights need (``model.json``)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

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

from mmnet_maps.errors import RequestError
from mmnet_maps.model.features import Feature, encoded_columns, required
from mmnet_maps.model.sizes import WATER_SERIES, Architecture, Branch, Sizes
from mmnet_maps.resources import find_model, packaged
from mmnet_maps.settings import first_error, read_yaml
from mmnet_maps.variables import VARIABLES

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, SPEC, GOLDEN = "weights.safetensors", "model.json", "golden.npz"
"""The files of a checkpoint."""

CARD, ITEM = "README.md", "stac.json"
"""Its description for people, and the STAC item that `mlm_item` makes of the other files."""

_FEATURE_KEYS = {"name", "encoding", "classes"}
_LARGEST = 1e18
_CONFIG = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

Count = Annotated[int, Field(ge=1, le=4096)]
Networks = Annotated[int, Field(ge=1, le=32)]
Range = tuple[float, float]
Model = TypeVar("Model", bound=BaseModel)


def _feature(value: Any) -> Feature:
    """Read a feature from JSON or YAML; pydantic would ignore unknown keys of a plain dataclass."""
    if isinstance(value, Feature):
        return value
    if not isinstance(value, dict) or not {"name", "encoding"} <= set(value) <= _FEATURE_KEYS:
        raise ValueError(f"a feature needs name, encoding and, for onehot, classes, not {value!r}")
    classes = value.get("classes", ())
    if not isinstance(classes, list | tuple) or not all(isinstance(item, str) for item in (*classes, value["name"])):
        raise ValueError(f"a feature's name is text and its classes a list of texts, not {value!r}")
    try:
        return Feature(name=value["name"], encoding=value["encoding"], classes=tuple(classes))
    except RequestError as error:
        raise ValueError(str(error)) from None


class SeriesGroup(BaseModel):
    """Series that have a branch of their own in MMNet: those of one source grid.

    Attributes
    ----------
    features
        Names of the series.
    branch
        ``transformer``: the paper's; ``mlp``: a small MLP over all steps; ``water``: such an MLP that also reads stores
        of water, for a group that begins with eto and pr.
    """

    model_config = _CONFIG

    features: Annotated[tuple[str, ...], Field(min_length=1)]
    branch: Branch


class Profile(BaseModel):
    """The inputs of a network, and its architecture.

    Attributes
    ----------
    architecture
        One of the five of `network.build`.
    snapshot, series
        Features in column order.
    series_groups
        For MMNet, groups of series with a branch for each; every series once, in the order of `series`. By default, one
        Transformer reads all series, as in the paper.
    steps, includes_day
        Number of steps of a series, oldest first; true if the last step is the day of the estimate, false if it is the
        day before.
    step_days
        Number of days that each step is the mean of; by default one each.
    may_lack
        Snapshot variables, of encoding ``identity``, that a row of a table may be without: they count as average there.
        A network can thus learn from tables with and without them. A map needs them all.
    """

    model_config = _CONFIG

    architecture: Architecture
    snapshot: Annotated[tuple[Feature, ...], Field(min_length=1)]
    series: Annotated[tuple[Feature, ...], Field(min_length=1)]
    series_groups: Annotated[tuple[SeriesGroup, ...], Field(min_length=1)] | None = None
    steps: Count
    includes_day: bool
    step_days: tuple[Count, ...] | None = None
    may_lack: tuple[str, ...] = ()

    @property
    def feature_groups(self) -> tuple[tuple[Feature, ...], ...]:
        """The series features of each group, in column order; one group with all by default."""
        if self.series_groups is None:
            return (self.series,)
        features = iter(self.series)
        return tuple(tuple(islice(features, len(group.features))) for group in self.series_groups)

    @property
    def days(self) -> int:
        """Number of days of a series."""
        return self.steps if self.step_days is None else sum(self.step_days)

    @property
    def needed_days(self) -> int:
        """Number of last days that an estimate needs: those from the oldest step of one day on."""
        return self.steps if self.step_days is None else sum(self.step_days[self.step_days.index(1) :])

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """First and past-the-last day of each step."""
        ends = [*accumulate(self.step_days or (1,) * self.steps)]
        return tuple(zip([0, *ends], ends, strict=False))

    @field_validator("snapshot", "series", mode="before")
    @classmethod
    def _read_features(cls, value: Any) -> tuple[Feature, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of features, not {value!r}")
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
                twice = next(name for name in columns if columns.count(name) > 1)
                raise ValueError(f"{kind} has the column {twice!r} twice")
        self._check_groups()
        if self.step_days is not None and len(self.step_days) != self.steps:
            raise ValueError(f"step_days has {len(self.step_days)} entries for {self.steps} steps")
        if self.step_days is not None and self.step_days[-1] != 1:
            raise ValueError(f"step_days ends with {self.step_days[-1]}; the last step must be one day")
        whole = {feature.name for feature in self.snapshot if feature.encoding == "identity"}
        for name in self.may_lack:
            if name not in whole:
                raise ValueError(f"may_lack names {name!r}, which is no snapshot variable of encoding identity")
        return self

    def _check_groups(self) -> None:
        if self.series_groups is None:
            return
        if self.architecture != "mmnet":
            raise ValueError(f"series_groups are for the architecture mmnet alone, not {self.architecture}")
        grouped = [name for group in self.series_groups for name in group.features]
        series = [feature.name for feature in self.series]
        if grouped != series:
            raise ValueError(
                f"series_groups hold {', '.join(grouped)}; expected every series once, in their order: "
                f"{', '.join(series)}"
            )
        for group, features in zip(self.series_groups, self.feature_groups, strict=True):
            first = tuple((feature.name, feature.encoding) for feature in features[:2])
            if group.branch == "water" and first != WATER_SERIES:
                raise ValueError(
                    f"series_groups has the branch water for {', '.join(group.features)}; expected a group that begins "
                    "with eto, of encoding identity, and pr, of encoding log1p"
                )
        variables = [name for features in self.feature_groups for name in required(features)]
        for name in variables:
            if variables.count(name) > 1:
                raise ValueError(f"series_groups read {name!r} in two groups; put the series that need it into one")


class Target(BaseModel):
    """The target of a network.

    Attributes
    ----------
    name, units
        The product's, which is all that maps can hold: ``soil_moisture``, ``m3 m-3``.
    residual_of
        The variable that the network's output is added to, if any: one of `variables`.
    std_factor
        Factor on the spread of Monte Carlo or ensemble members.
    """

    model_config = _CONFIG

    name: Literal["soil_moisture"] = "soil_moisture"
    units: Literal["m3 m-3"] = "m3 m-3"
    residual_of: str | None = None
    std_factor: Annotated[float, Field(gt=0, le=1e6)] = 1.0

    @field_validator("residual_of")
    @classmethod
    def _check_residual(cls, value: str | None) -> str | None:
        if value is not None and value not in VARIABLES:
            raise ValueError(f"{value!r} is no variable of a stack; expected one, such as smap")
        return value


class ModelSpec(Profile):
    """All that the weights of a checkpoint need: ``model.json``.

    Attributes
    ----------
    format
        Version of this file, 1.
    name
        Letters, digits, dot, dash and underscore.
    networks
        Number of networks side by side, whose mean is the estimate.
    d_model, heads, layers, feedforward, dropout, positional_base
        Sizes of each for `network.build`.
    snapshot_mean, snapshot_std, series_mean, series_std
        Per encoded column; a standard deviation of 0 counts as 1.
    snapshot_range, series_range
        Lowest and highest encoded value seen in training, per column; None if unknown.
    inputs
        The product behind each variable in training.
    target
        The estimated variable.
    training
        Data, samples, metrics and commit, as far as known.
    weights_sha256
        Of ``weights.safetensors``; `save_checkpoint` fills it in.

    Raises
    ------
    pydantic.ValidationError
        A field is missing, unknown or of another type, or statistics do not match the encoded columns.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    networks: Networks = 1
    d_model: Count = 128
    heads: Count = 16
    layers: Annotated[int, Field(ge=1, le=24)] = 1
    feedforward: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    positional_base: Annotated[float, Field(gt=1, le=1e9)] = 1000
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
            columns = encoded_columns(getattr(self, kind))
            for statistic in ("mean", "std", "range"):
                values = getattr(self, f"{kind}_{statistic}")
                if values is None:
                    continue
                if len(values) != len(columns):
                    raise ValueError(f"{kind}_{statistic} has {len(values)} entries for {len(columns)} encoded columns")
                for name, value in zip(columns, values, strict=True):
                    _check_size(f"{kind}_{statistic} of {name}", value if statistic == "range" else (value,))
            for name, std in zip(columns, getattr(self, f"{kind}_std"), strict=True):
                if std < 0:
                    raise ValueError(f"{kind}_std holds a negative number, {std:g} for {name}")
                if 0 < std < 1 / _LARGEST:
                    raise ValueError(
                        f"{kind}_std of {name} is {std:g}; expected 0, or a number that float32 can divide by"
                    )
            for name, (low, high) in zip(columns, getattr(self, f"{kind}_range") or (), strict=False):
                if low > high:
                    raise ValueError(
                        f"{kind}_range holds a lowest value above its highest, {low:g} to {high:g} for {name}"
                    )
        if self.d_model % self.heads or self.d_model % 4:
            raise ValueError(f"d_model {self.d_model} is not a multiple of 4 and of heads {self.heads}")
        return self

    def network(self) -> nn.Module:
        """Make an untrained network of these sizes."""
        from mmnet_maps.model.network import build

        sizes = Sizes(
            snapshot=len(encoded_columns(self.snapshot)),
            series=len(encoded_columns(self.series)),
            steps=self.steps,
            groups=tuple(
                (len(encoded_columns(features)), group.branch)
                for features, group in zip(self.feature_groups, self.series_groups or (), strict=False)
            ),
            step_days=tuple(stop - start for start, stop in self.windows),
            series_scales=tuple(
                (mean, std or 1.0) for mean, std in zip(self.series_mean, self.series_std, strict=True)
            ),
            d_model=self.d_model,
            heads=self.heads,
            layers=self.layers,
            feedforward=self.feedforward,
            dropout=self.dropout,
            positional_base=self.positional_base,
            networks=self.networks,
        )
        return build(self.architecture, sizes)

    def to_json(self) -> str:
        """Return the text of ``model.json``, with one line per field and per feature.

        Without groups of series, or with one network, there is no line for them, as in files of earlier versions.
        """
        values = self.model_dump(mode="json")
        lines = []
        for key in _ORDER:
            if key in ("series_groups", "networks") and values[key] in (None, 1):
                continue
            text = json.dumps(values[key], ensure_ascii=False, allow_nan=False)
            if key in ("snapshot", "series", "series_groups"):
                items = ",\n    ".join(json.dumps(item) for item in values[key])
                text = f"[\n    {items}\n  ]"
            lines.append(f"  {json.dumps(key)}: {text}")
        return "{\n" + ",\n".join(lines) + "\n}\n"


def _check_size(what: str, values: Iterable[float]) -> None:
    """Refuse a number whose square overflows in float32, in which networks compute."""
    for value in values:
        if abs(value) > _LARGEST:
            raise ValueError(f"{what} is {value:g}; expected a number that float32 can square")


_ORDER = (
    *("format", "name", "architecture", "networks", "d_model", "heads", "layers", "feedforward", "dropout"),
    "positional_base",
    *("snapshot", "series", "series_groups", "steps", "includes_day", "step_days", "may_lack"),
    *("snapshot_mean", "snapshot_std", "series_mean", "series_std"),
    *("snapshot_range", "series_range", "inputs", "target", "training", "weights_sha256"),
)


def profile(name: str) -> dict[str, Any]:
    """Read inputs and architecture from a file in ``configs``: ``paper`` or ``released``.

    Returns
    -------
    dict
        ``architecture``, ``snapshot``, ``series`` (tuples of `Feature`), ``steps``, ``includes_day``: keyword arguments
        of `ModelSpec`.

    Raises
    ------
    RequestError
        The profile does not exist.

    Examples
    --------
    >>> len(encoded_columns(profile("paper")["snapshot"])), profile("released")["steps"]
    (25, 11)
    """
    folder = packaged("configs")
    names = ("paper", "released")
    if name not in names:
        raise RequestError(f"profile {name!r} does not exist; use one of {', '.join(names)}")
    values = read_yaml(folder / f"{name}.yaml", "profile")
    return dict(Profile.model_validate({key: value for key, value in values.items() if key in Profile.model_fields}))


def read_file(path: Path) -> bytes:
    """Read a file of a checkpoint; RequestError where that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"model {str(path.parent)!r}: {path.name} cannot be read ({error.strerror}); "
            f"expected a checkpoint with {SPEC}, {WEIGHTS} and, for parity checks, {GOLDEN}"
        ) from error


def read_spec(model: str | Path) -> ModelSpec:
    """Read the specification of a checkpoint, or of a packaged model; this needs no torch.

    Raises
    ------
    RequestError
        The model does not exist, or ``model.json`` is damaged.
    """
    path = find_model(model) / SPEC
    return parse_spec(path, read_file(path))


def parse_spec(path: Path, data: bytes) -> ModelSpec:
    """Validate the content of a ``model.json``; RequestError where it is at fault."""
    try:
        return ModelSpec.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise RequestError(f"{path}: {first_error(error)}; correct it or get the checkpoint again") from error
