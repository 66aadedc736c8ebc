"""A source of open services that asks a loopback server instead of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fake_open import FakeOpen
from mmnet_maps.resources import packaged
from mmnet_maps.sources.open.source import OpenSource
from open_routes import login_of

ADDRESSES = {
    "planetary-computer": {"url": "{url}/stac", "token": "{url}/token/{{collection}}"},
    "northwest-knowledge": {"url": "{url}/thredds"},
    "earthdata": {"url": "{url}/cmr", "token": "{login}"},
    "usgs-nlcd": {"url": "{url}/wcs"},
    "usgs-3dep": {"url": "{url}/3dep"},
    "duke-polaris": {"url": "{url}/polaris"},
}


def loopback_config(server: FakeOpen, use: list[Any], **politeness: Any) -> dict[str, Any]:
    """Return the packaged YAML with the addresses of a server, some products, and other limits of its services."""
    config: dict[str, Any] = yaml.safe_load((packaged("configs") / "open.yaml").read_text(encoding="utf-8"))
    for name, service in config["services"].items():
        addresses = {key: text.format(url=server.url, login=login_of(server)) for key, text in ADDRESSES[name].items()}
        service.update(addresses, **politeness)
    return {**config, "use": use}


def loopback_source(server: FakeOpen, folder: Path, use: list[Any], **politeness: Any) -> OpenSource:
    """Return a source of some products."""
    path = folder / "open.yaml"
    path.write_text(yaml.safe_dump(loopback_config(server, use, **politeness), sort_keys=False), encoding="utf-8")
    return OpenSource(path)
