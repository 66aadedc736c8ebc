"""The models of maps, kept beside them: each map's STAC item links the item of every network that made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmnet_maps.files import write_whole
from mmnet_maps.model.mlm_item import mlm_name, write_model_item
from mmnet_maps.model.saved import SavedModel
from mmnet_maps.model.spec import CARD, ITEM, SPEC, WEIGHTS, read_file

MODELS = "models"
"""Folder of the models in an output folder."""


def model_links(models: Sequence[SavedModel]) -> list[dict[str, Any]]:
    """Return links from a day's folder to the items of models, as the MLM extension recommends them."""
    return [
        {
            "rel": "derived_from",
            "href": f"../{MODELS}/{_name(model)}/{ITEM}",
            "type": "application/geo+json",
            "title": f"the network {model.spec.name}",
            "mlm:name": mlm_name(model.spec),
        }
        for model in models
    ]


def keep_models(out: Path, models: Sequence[SavedModel]) -> None:
    """Copy models into an output folder, the item last.

    The folder of a copy is named by the hash of the model, and is a checkpoint that ``--model`` takes.

    Raises
    ------
    OutputError
        A file cannot be written.
    RequestError
        A file of a model cannot be read any more.
    """
    for model in models:
        folder = out / MODELS / _name(model)
        for name in (WEIGHTS, SPEC, CARD):
            if (model.path / name).is_file():
                write_whole(folder / name, read_file(model.path / name))
        write_model_item(folder)


def _name(model: SavedModel) -> str:
    return f"{model.spec.name}_{model.fingerprint[:12]}"
