"""Packaged files, the folders of models and of fetched inputs, and the cores of the machine."""

from __future__ import annotations

import atexit
import gc
import os
from pathlib import Path

from mmnet_maps.errors import RequestError, brief

_PACKAGE = Path(__file__).parent


def packaged(kind: str) -> Path:
    """Return the folder of packaged ``models``, ``configs`` or ``examples``, in the wheel or in a checkout."""
    checkout = _PACKAGE.parent
    inside = _PACKAGE / "data" / kind
    return inside if inside.is_dir() or not (checkout / "pyproject.toml").is_file() else checkout / kind


def find_model(path: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint, or of the packaged model of this name.

    Raises
    ------
    RequestError
        When there is none, or a file.
    """
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, no error for a name that is too long
        return path
    if os.path.lexists(path):
        raise RequestError(
            f"model {brief(path)!r} is a file; expected a folder with model.json and weights.safetensors; "
            "convert a released .pth with `mmnet convert`"
        )
    models = packaged("models")
    if path.name == str(path) and os.path.isfile(models / path / "model.json"):
        return models / path
    names = sorted(spec.parent.name for spec in models.glob("*/model.json"))
    raise RequestError(
        f"model {brief(path)!r} does not exist; give a checkpoint folder or one of the packaged models: "
        f"{', '.join(names) or 'none'}"
    )


def cache_folder() -> Path:
    """Return the folder of fetched inputs: ``$MMNET_CACHE``, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("MMNET_CACHE") or platformdirs.user_cache_dir("mmnet_maps"))


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def collect_rarely() -> None:
    """Have Python search for garbage less often, and not at the end of the process.

    Imported modules are millions of objects. By default all of them are searched several times while more are imported,
    a tenth of the time of a map, and three times at the end, up to a second.
    """
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)
