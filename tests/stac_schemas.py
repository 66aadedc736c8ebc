"""Validate STAC files with pystac and the schemas beside the tests, without network access."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pystac import StacIO
from pystac.stac_io import DefaultStacIO
from pystac.validation import JsonSchemaSTACValidator, validate_dict

_FOLDER = Path(__file__).parent / "schemas"


class _Offline(JsonSchemaSTACValidator):
    """A validator with the core schemas, bundled with pystac, and those of the files; any other schema is an error."""

    def __init__(self) -> None:
        super().__init__()
        for path in _FOLDER.glob("*.json"):
            schema = json.loads(path.read_text(encoding="utf-8"))
            self.schema_cache[schema["$id"].removesuffix("#")] = schema


class _NoNetwork(StacIO):
    """Refuse all reading: a text is read only for a schema that is missing."""

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        raise AssertionError(f"{source} is not among the schemas in {_FOLDER}")

    def write_text(self, dest: Any, txt: str, *args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"{dest} is written while validating")


def validate(content: dict[str, Any]) -> list[str]:
    """Validate an item, catalogue or collection, and return the addresses of the schemas used."""
    StacIO.set_default(_NoNetwork)
    try:
        done: list[str] = validate_dict(content, validator=_Offline())
    finally:
        StacIO.set_default(DefaultStacIO)
    return done
