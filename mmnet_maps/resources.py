"""Packaged files."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def packaged(kind: str) -> Path:
    """Return the folder of packaged ``models``, ``configs`` or ``examples``, in the wheel or in a checkout."""
    checkout = _PACKAGE.parent
    inside = _PACKAGE / "data" / kind
    return inside if inside.is_dir() or not (checkout / "pyproject.toml").is_file() else checkout / kind
