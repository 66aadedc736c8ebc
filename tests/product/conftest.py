"""Fixtures of the product's tests."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for disks: only a power cut shows whether files were flushed."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
