"""Checkpoints on disk, without their networks: what a request needs of its models, read without importing torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmnet_maps.errors import RequestError
from mmnet_maps.model.spec import SPEC, WEIGHTS, ModelSpec, parse_spec, read_file
from mmnet_maps.resources import find_model

_DAYS, _WIDTH = 10, 128  # days whose terms are kept at once, for networks of so many columns together


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A checkpoint on disk.

    Attributes
    ----------
    spec
        The content of ``model.json``.
    path
        The folder.
    sha256
        Hash of the weights file.
    fingerprint
        Hash of the weights file and ``model.json`` together.
    """

    spec: ModelSpec
    path: Path
    sha256: str
    fingerprint: str


def read_saved(path: str | Path) -> tuple[SavedModel, bytes]:
    """Read a checkpoint folder, or a packaged model by its bare name, and return it with the bytes of its weights.

    Raises
    ------
    RequestError
        The model does not exist, or the hash of its weights is not the one that ``model.json`` states.
    """
    folder = find_model(path)
    spec_bytes, weights = read_file(folder / SPEC), read_file(folder / WEIGHTS)
    spec = parse_spec(folder / SPEC, spec_bytes)
    digest = hashlib.sha256(weights).hexdigest()
    if digest != spec.weights_sha256:
        raise RequestError(
            f"{folder / WEIGHTS}{is_pickle(weights)} has the SHA-256 {digest[:12]}…, but {SPEC} states "
            f"{spec.weights_sha256[:12] or 'none'}…: damaged or changed; get the checkpoint again"
        )
    fingerprint = hashlib.sha256(weights + spec_bytes).hexdigest()
    return SavedModel(spec=spec, path=folder, sha256=digest, fingerprint=fingerprint), weights


def check_ensemble(models: Sequence[SavedModel], draws: int) -> None:
    """Refuse models with different inputs or targets, a model that is given twice, and a single drawn member."""
    if draws < 0 or draws == 1:
        raise RequestError(f"draws {draws} is too few; expected at least 2 members, such as 20, or 0 for none")
    first = models[0]
    for k, other in enumerate(models):
        for field in ("snapshot", "series", "series_groups", "steps", "includes_day", "step_days", "target"):
            if getattr(first.spec, field) != getattr(other.spec, field):
                raise RequestError(
                    f"the models {first.spec.name!r} and {other.spec.name!r} differ in {field!r} of model.json; "
                    "give models with the same inputs and target"
                )
        if other.sha256 in {one.sha256 for one in models[:k]}:
            raise RequestError(f"the model {other.spec.name!r} is given twice; give different models")


def count_members(networks: Sequence[int], draws: int) -> int:
    """Return the number of networks behind the standard deviation: those drawn, or those of several models; 0 if none.

    `networks` are the numbers of networks of the models.

    >>> count_members([1], 0), count_members([4], 0), count_members([4, 1], 0), count_members([4, 1], 20)
    (0, 0, 5, 40)
    """
    return len(networks) * draws if draws or len(networks) == 1 else sum(networks)


def days_at_once(networks: int, width: int) -> int:
    """Return the number of days that are mapped together, whose terms of the series are kept; at least one.

    >>> days_at_once(1, 128), days_at_once(3, 128), days_at_once(4, 32), days_at_once(21, 128)
    (10, 3, 10, 1)
    """
    return max(1, min(_DAYS, _DAYS * _WIDTH // (networks * width)))


def is_pickle(data: bytes) -> str:
    """Return a remark for messages; it is a guess, because a safetensors header may begin with the same byte."""
    return " looks like a pickle, was not opened, and" if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04" else ""
