"""From columns in physical units to the numbers that a network sees: indices, encodings, standardisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmnet_maps.errors import InputError, RequestError
from mmnet_maps.model.indices import INDICES
from mmnet_maps.variables import LANDCOVER_CLASSES, VARIABLES

if TYPE_CHECKING:
    from torch import Tensor

Encoding = Literal["identity", "log1p", "onehot", "half_cosine", "sincos"]

Windows = Sequence[tuple[int, int]]
"""First and past-the-last day of each step of a series."""

PERIODS = {"doy": 365.25, "aspect": 360.0}
"""Cyclic features and their periods."""

COMPUTED = ("doy", "latitude", "longitude")
"""Features computed from the grid and the day; no stack holds them."""

_STORED_AS = {"smap_series": "smap"}
_BLOCK = 16_384  # rows; columns are filled one by one, so a block of the matrix should stay in the cache


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input of a network and its encoding.

    Attributes
    ----------
    name
        A stored variable, an index, ``doy`` (1-366), ``latitude``, ``longitude`` (degrees) or ``smap_series``.
    encoding
        ``identity``; ``log1p``: ln(1 + x); ``onehot``: one column per class, for ``landcover``; ``half_cosine``: the
        paper's cos((doy - 1)/365 pi) or cos(aspect/360 pi); ``sincos``: sine and cosine of the whole circle (365.25
        days, 360 degrees).
    classes
        Class names in column order, for ``onehot`` alone.

    Raises
    ------
    RequestError
        Name, encoding and classes do not match.

    Examples
    --------
    >>> Feature(name="doy", encoding="sincos").columns
    ('doy_sin', 'doy_cos')
    """

    name: str
    encoding: Encoding
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            raise RequestError(
                f"feature {self.name!r} has the unknown encoding {self.encoding!r}; "
                f"use one of {', '.join(get_args(Encoding))}"
            )
        if (self.encoding == "onehot") != (self.name == "landcover"):
            raise RequestError(
                f"feature {self.name!r} has the encoding {self.encoding!r}; use onehot for landcover only"
            )
        if self.encoding in ("half_cosine", "sincos") and self.name not in PERIODS:
            raise RequestError(
                f"feature {self.name!r} has the encoding {self.encoding!r}, which is for {' and '.join(PERIODS)} only"
            )
        self._check_classes()

    def _check_classes(self) -> None:
        if bool(self.classes) != (self.encoding == "onehot"):
            raise RequestError(
                f"feature {self.name!r} with the encoding {self.encoding!r} lists {len(self.classes)} classes; "
                "expected at least one for onehot, and none for other encodings"
            )
        unknown = [name for name in self.classes if name not in LANDCOVER_CLASSES]
        if unknown or len(set(self.classes)) != len(self.classes):
            raise RequestError(
                f"feature {self.name!r} lists the classes {', '.join(self.classes)}; expected each at most once of "
                f"{', '.join(LANDCOVER_CLASSES)}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the encoded columns."""
        if self.encoding == "onehot":
            return tuple(f"{self.name}_{label}" for label in self.classes)
        if self.encoding == "sincos":
            return (f"{self.name}_sin", f"{self.name}_cos")
        return (self.name,)

    @property
    def stored_name(self) -> str:
        """Name of what it is computed from: a stored variable, an index, or one of `COMPUTED`."""
        return _STORED_AS.get(self.name, self.name)


def encoded_columns(features: Iterable[Feature]) -> tuple[str, ...]:
    """Return the names of all encoded columns, in order.

    Examples
    --------
    >>> encoded_columns([Feature(name="smap", encoding="identity"), Feature(name="aspect", encoding="half_cosine")])
    ('smap', 'aspect')
    """
    return tuple(column for feature in features for column in feature.columns)


def by_column(features: Iterable[Feature]) -> list[Feature]:
    """Return the feature that each encoded column belongs to."""
    return [feature for feature in features for _ in feature.columns]


def required(features: Iterable[Feature]) -> tuple[str, ...]:
    """Return the stored variables that features are computed from, each once, in the order of first use.

    Examples
    --------
    >>> required([Feature(name="ndvi", encoding="identity"), Feature(name="doy", encoding="half_cosine")])
    ('nir', 'red')
    """
    names: dict[str, None] = {}
    for feature in features:
        if feature.name in INDICES:
            names.update(dict.fromkeys(INDICES[feature.name].bands))
        elif feature.name not in COMPUTED:
            names[_STORED_AS.get(feature.name, feature.name)] = None
    return tuple(names)


def encode_snapshot(columns: Mapping[str, NDArray[Any]], features: Sequence[Feature]) -> NDArray[np.float32]:
    """Encode one value per row and feature.

    Parameters
    ----------
    columns
        Arrays (n,) in the units of `variables`, NaN where missing. An index that is not among them is computed from
        its bands. ``landcover`` holds class names, or NLCD codes as uint8.
    features
        What to encode, in column order.

    Returns
    -------
    ndarray, float32 (n, columns)
        NaN where an input is missing; all columns of a one-hot feature are NaN where the class is not one of its own.

    Raises
    ------
    InputError
        A column is missing or differs in shape from the first, or land cover is of another type.

    Examples
    --------
    >>> shrub_and_water = np.array([52, 11], np.uint8)
    >>> encode_snapshot({"landcover": shrub_and_water},
    ...                 [Feature(name="landcover", encoding="onehot", classes=("shrubland", "forest"))])
    array([[ 1.,  0.],
           [nan, nan]], dtype=float32)
    """
    return _encode(columns, features, ndim=1)


def encode_series(
    columns: Mapping[str, NDArray[Any]], features: Sequence[Feature], windows: Windows | None = None
) -> NDArray[np.float32]:
    """Encode one value per cell, step and feature, from arrays (n, days) with the oldest day first.

    Parameters
    ----------
    columns, features
        See `encode_snapshot`.
    windows
        First and past-the-last day of each step, whose mean is encoded (`step_means`); by default one step per day.

    Returns
    -------
    ndarray, float32 (n, steps, columns)
        NaN where an input is missing.

    Raises
    ------
    InputError
        See `encode_snapshot`.

    Examples
    --------
    >>> encode_series({"pr": np.array([[0.0, np.e - 1]])}, [Feature(name="pr", encoding="log1p")]).round(6).tolist()
    [[[0.0], [1.0]]]
    """
    if windows is not None:
        import torch

        columns = {
            name: step_means(torch.tensor(as_numbers(name, np.asarray(columns[name]))), windows).numpy()
            for name in used_columns(columns, features)
        }
    return _encode(columns, features, ndim=2)


def _encode(columns: Mapping[str, NDArray[Any]], features: Sequence[Feature], ndim: int) -> NDArray[np.float32]:
    import torch

    if not features:
        raise InputError("no feature is given; name at least one")
    used = {name: as_numbers(name, np.asarray(columns[name])) for name in used_columns(columns, features)}
    first = next(iter(used))
    shape = used[first].shape
    for name, values in used.items():
        if values.ndim != ndim or values.shape != shape:
            raise InputError(
                f"column {name!r} has the shape {values.shape}; expected {ndim} dimension(s), "
                f"like {first!r} with {shape}"
            )
    encoded = np.empty((*shape, len(encoded_columns(features))), np.float32)
    for start in range(0, shape[0], _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = encode({name: torch.tensor(values[rows]) for name, values in used.items()}, features)
        encoded[rows] = block.movedim(0, -1).numpy()
    return encoded


def as_numbers(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return land cover as NLCD codes (a class name as the first code of its class), other columns as floats."""
    if name == "landcover":
        if values.dtype.kind in "OUT":
            codes = np.zeros(values.shape, np.uint8)
            for label, members in LANDCOVER_CLASSES.items():
                codes[values == label] = members[0]
            return codes
        if values.dtype != np.uint8:
            raise InputError(
                f"column {name!r} is of type {values.dtype}; expected class names "
                f"({', '.join(LANDCOVER_CLASSES)}) or NLCD codes as uint8"
            )
        return values
    if values.dtype.kind not in "fiub":
        raise InputError(f"column {name!r} is of type {values.dtype}; expected numbers")
    return values if values.dtype.kind == "f" else values.astype(np.float32)


def used_columns(columns: Iterable[str], features: Iterable[Feature]) -> tuple[str, ...]:
    """Return the columns, of those given, that features are computed from, each once.

    Raises
    ------
    InputError
        A column is missing.
    """
    given = set(columns)
    used: dict[str, None] = {}
    for feature in features:
        for name in _parts(given, feature.name):
            if name not in given:
                needed = "" if name == feature.name else f", an input of {feature.name!r},"
                raise InputError(f"column {name!r}{needed} is missing; given are {', '.join(sorted(given)) or 'none'}")
            used[name] = None
    return tuple(used)


def _parts(columns: Iterable[str], name: str) -> tuple[str, ...]:
    if name in columns:
        return (name,)
    if name in INDICES:
        return INDICES[name].bands
    return (_STORED_AS.get(name, name),)


def unpack(names: Sequence[str], steps: Tensor, out: Tensor) -> Tensor:
    """Unpack stored variables, on the device where they are.

    Parameters
    ----------
    names
        The variables.
    steps
        Their packed values, int16 (variables, n).
    out
        float32 (2, variables, n), overwritten.

    Returns
    -------
    Tensor, float32 (variables, n)
        Physical values, NaN where missing, in `out`; the numbers of `Variable.unpack`.
    """
    import torch

    variables = [VARIABLES[name] for name in names]
    scale, offset, nodata = (
        torch.tensor([float(getattr(variable, field)) for variable in variables], device=steps.device)[:, None]
        for field in ("scale", "offset", "nodata")
    )
    values, known = out[0], out[1]
    values.copy_(steps)
    torch.sub(values, nodata, out=known)
    known.div_(known)  # 0 / 0 is NaN, all else 1: a mask takes four times as long
    return values.mul_(scale).add_(offset).mul_(known)


def encode(columns: Mapping[str, Tensor], features: Sequence[Feature], out: Tensor | None = None) -> Tensor:
    """Encode features, on the device where the columns are.

    Parameters
    ----------
    columns
        Tensors of one shape in the units of `variables`, NaN where missing; land cover as NLCD codes, uint8. A
        tensor of one element applies to all. An index that is not among them is computed from its bands.
    features
        What to encode, in column order.
    out
        float32 (columns, *shape), overwritten; by default new memory, in the shape of the largest column.

    Returns
    -------
    Tensor, float32 (columns, *shape)
        The columns of `encode_snapshot`, each contiguous in memory.
    """
    import torch

    if out is None:
        shape = np.broadcast_shapes(*(values.shape for values in columns.values()))
        like = next(iter(columns.values()))
        out = torch.empty((len(encoded_columns(features)), *shape), dtype=torch.float32, device=like.device)
    place = 0
    for feature in features:
        parts = [columns[name] for name in _parts(columns, feature.name)]
        values = parts[0] if len(parts) == 1 else INDICES[feature.name].formula(*parts)
        width = len(feature.columns)
        _fill(feature, values, out[place : place + width])
        place += width
    return out


def _fill(feature: Feature, values: Tensor, out: Tensor) -> None:
    import torch

    if feature.encoding == "onehot":
        out[...] = onehot_table(feature).to(values.device)[values.long()].movedim(-1, 0)
    elif feature.encoding == "identity":
        out[0] = values
    elif feature.encoding == "log1p":
        out[0] = torch.log1p(values).nan_to_num_(nan=math.nan, posinf=math.nan, neginf=math.nan)
    elif feature.encoding == "half_cosine":
        turn = (values - 1.0) / 365.0 if feature.name == "doy" else values / 360.0
        out[0] = torch.cos(turn * math.pi)
    else:
        angle = values * (2 * math.pi / PERIODS[feature.name])
        out[0], out[1] = torch.sin(angle), torch.cos(angle)


def onehot_table(feature: Feature) -> Tensor:
    """Return the one-hot columns of each NLCD code: float32 (256, classes), NaN for codes without a class."""
    import torch

    table = torch.full((256, len(feature.classes)), math.nan)
    for row, label in zip(torch.eye(len(feature.classes)), feature.classes, strict=True):
        table[list(LANDCOVER_CLASSES[label])] = row
    return table


def step_means(days: Tensor, windows: Windows) -> Tensor:
    """Average the days of each step.

    Parameters
    ----------
    days
        (n, days), oldest first, NaN where missing.
    windows
        First and past-the-last day of each step.

    Returns
    -------
    Tensor, float32 (n, steps)
        NaN where more than half of a step's days are missing. Consecutive steps of one day each are not copied.

    Examples
    --------
    >>> import torch
    >>> step_means(torch.tensor([[1.0, 3.0, math.nan, 5.0]]), [(0, 3), (3, 4)]).tolist()
    [[2.0, 5.0]]
    """
    import torch

    first = windows[0][0]
    if all(window == (first + k, first + k + 1) for k, window in enumerate(windows)):
        return days[:, first : first + len(windows)]
    starts, stops = torch.tensor(windows, device=days.device).T
    valid = ~days.isnan()
    # In float64, a difference of two cumulative sums is exact enough for the sum of some days.
    total = torch.nn.functional.pad(days.double().nan_to_num(nan=0.0).cumsum(1), (1, 0))
    count = torch.nn.functional.pad(valid.long().cumsum(1), (1, 0))
    total, count = total[:, stops] - total[:, starts], count[:, stops] - count[:, starts]
    means = (total / count).masked_fill_(2 * count < stops - starts, math.nan).float()
    return torch.where(stops - starts == 1, days[:, starts], means)


def fill_steps(x: NDArray[np.float32] | Tensor, windows: Windows) -> None:
    """Replace missing standardised steps of several days by the average 0, in place; steps of one day must be known.

    A model with a long memory can then be used where only the last days are known.

    Parameters
    ----------
    x
        (..., steps, columns), standardised, NaN where missing.
    windows
        First and past-the-last day of each step.
    """
    for step, (start, stop) in enumerate(windows):
        if stop - start > 1:
            part = x[..., step, :]
            part[part != part] = 0


def standardise(encoded: NDArray[np.float32], mean: ArrayLike, std: ArrayLike) -> NDArray[np.float32]:
    """Return ``(encoded - mean) / std`` per column of an array (..., columns); a standard deviation of 0 counts as 1.

    Examples
    --------
    >>> standardise(np.array([[3.0, 5.0]], np.float32), [1.0, 5.0], [2.0, 0.0]).tolist()
    [[1.0, 0.0]]
    """
    divisor = np.asarray(std, np.float32)
    scaled = encoded - np.asarray(mean, np.float32)
    scaled /= np.where(divisor == 0, np.float32(1), divisor)
    return scaled
