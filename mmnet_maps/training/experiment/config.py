"""The configuration of an experiment, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmnet_maps.settings import first_error, read_model
from mmnet_maps.training.config import TrainConfig
from mmnet_maps.training.splits import BORDERS

_NAME = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
Name = Annotated[str, _NAME]


class TableConfig(BaseModel):
    """A table of samples and its splits.

    Attributes
    ----------
    samples
        The file; a relative path starts at the folder that is given with the configuration.
    on_site_years
        Years to train on before the test year.
    training
        Fields of `config.TrainConfig` for this table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: str
    on_site_years: Annotated[int, Field(ge=1)] = 3
    training: dict[str, Any] = {}


class ExperimentConfig(BaseModel):
    """The tables, networks and splits that are compared: the YAML file of ``mmnet experiment``.

    Attributes
    ----------
    name
        Name of the experiment, for headings.
    tables
        Tables by name.
    networks
        Fields of `config.TrainConfig` by the network's name; the others are compared with the first. ``also`` names
        further tables to train on, without the rows that are related to the tested ones. ``validation``, where given,
        replaces the one that matches the scenario.
    training
        Fields for all tables and networks.
    seeds
        Number of networks of each kind.
    folds
        Folds of the off-site scenario.
    borders
        Longitudes between the regions west, middle and east.
    stations
        A CSV beside the tables with the columns ``station`` and ``koppen``, for results by climate; None for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tables: Annotated[dict[Name, TableConfig], Field(min_length=1)]
    networks: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    training: dict[str, Any] = {}
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    folds: Annotated[int, Field(ge=2, le=1000)] = 5
    borders: tuple[float, float] = BORDERS
    stations: str | None = None

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        for table in self.tables:
            for network, about in self.networks.items():
                also = about.get("also", [])
                if not isinstance(also, list) or not all(isinstance(other, str) for other in also):
                    raise ValueError(f"also of network {network} is {also!r}; expected a list of tables")
                for other in self.also(table, network):
                    if other not in self.tables:
                        raise ValueError(
                            f"network {network} is also to be trained on {other!r}, which is not one of the tables"
                        )
                try:
                    self.training_of(table, network)
                except ValidationError as error:
                    raise ValueError(f"network {network} on table {table}: {first_error(error)}") from None
        return self

    def training_of(self, table: str, network: str) -> TrainConfig:
        """Return the configuration for training a network on a table."""
        own = {key: value for key, value in self.networks[network].items() if key != "also"}
        return TrainConfig.model_validate({"name": network, **self.training, **self.tables[table].training, **own})

    def also(self, table: str, network: str) -> list[str]:
        """Return the other tables that a network tested on this table is trained on."""
        return [name for name in self.networks[network].get("also", []) if name != table]


def read_experiment(path: str | Path) -> ExperimentConfig:
    """Read the configuration of an experiment (YAML).

    Raises
    ------
    RequestError
        The file does not exist, is not YAML, or a field is missing, unknown or out of bounds.
    """
    return read_model(path, ExperimentConfig, "experiment")
