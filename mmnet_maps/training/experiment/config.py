"""The configuration of an experiment, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmnet_maps.settings import first_error, read_model
from mmnet_maps.training.config import TrainConfig
from mmnet_maps.training.splits import BORDERS, Scenario

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


class Trees(BaseModel):
    """Settings of gradient-boosted trees, in the words of scikit-learn's ``HistGradientBoostingRegressor``.

    Attributes
    ----------
    max_iter, learning_rate
        Number of trees, and the factor on each.
    max_leaf_nodes, min_samples_leaf
        Leaves of a tree at most, and rows of a leaf at least.
    l2_regularization
        Penalty on the values of leaves.
    max_features
        Share of the inputs that a split chooses from.
    rows
        Share of the training rows that is used, drawn at random: neighbouring days are similar.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["trees"]
    max_iter: Annotated[int, Field(ge=1, le=100_000)] = 300
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.06
    max_leaf_nodes: Annotated[int, Field(ge=2, le=10_000)] = 31
    min_samples_leaf: Annotated[int, Field(ge=1)] = 200
    l2_regularization: Annotated[float, Field(ge=0)] = 1.0
    max_features: Annotated[float, Field(gt=0, le=1)] = 0.3
    rows: Annotated[float, Field(gt=0, le=1)] = 1.0


class Lstm(BaseModel):
    """An LSTM over every day of the series, after Liu et al. (2022); ``hidden`` is its width."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lstm"]
    hidden: Annotated[int, Field(ge=1, le=4096)] = 64


class Climatology(BaseModel):
    """A linear regression on the season and on a rain index; it reads ``pr`` and the date alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["climatology"]


Baseline = Annotated[Trees | Lstm | Climatology, Field(discriminator="kind")]


class Entry(BaseModel):
    """One of the compared networks, or a baseline.

    Attributes
    ----------
    baseline
        Use this in place of the network; it has the same inputs, rows and seed.
    also
        Further tables to train on, without the rows that are related to the tested ones.
    seeds
        Number of networks, where not that of the experiment.
    tables, scenarios
        Tables and scenarios to test on; by default all.
    training
        Fields of `config.TrainConfig`. ``validation``, where given, replaces the one that matches the scenario.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline: Baseline | None = None
    also: tuple[str, ...] = ()
    seeds: Annotated[int, Field(ge=1, le=1000)] | None = None
    tables: tuple[str, ...] | None = None
    scenarios: tuple[Scenario, ...] | None = None
    training: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_training(cls, given: Any) -> Any:
        """Accept the fields of a training beside the others, as they are written in the file."""
        if not isinstance(given, dict) or "training" in given:
            return given
        own = {key: value for key, value in given.items() if key in cls.model_fields}
        return own | {"training": {key: value for key, value in given.items() if key not in own}}


class Ablations(BaseModel):
    """Off-site runs without some inputs, to measure what these add.

    Attributes
    ----------
    table
        Table to test on.
    networks
        Networks to repeat without inputs.
    without
        Inputs to leave out, by a name for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    networks: Annotated[tuple[str, ...], Field(min_length=1)]
    without: Annotated[dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)]

    def names(self, network: str) -> dict[str, tuple[str, ...]]:
        """Return the inputs that are left out, by the name of the run of a network."""
        if network not in self.networks:
            return {}
        return {f"{network}-without-{what}": inputs for what, inputs in self.without.items()}


class ExperimentConfig(BaseModel):
    """The tables, networks and splits that are compared: the YAML file of ``mmnet experiment``.

    Attributes
    ----------
    name
        Name of the experiment, for headings.
    tables
        Tables by name.
    networks
        Networks and baselines by name; the others are compared with the first.
    ablations
        Networks to repeat without some inputs; None for none.
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
    networks: Annotated[dict[Name, Entry], Field(min_length=1)]
    ablations: Ablations | None = None
    training: dict[str, Any] = {}
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    folds: Annotated[int, Field(ge=2, le=1000)] = 5
    borders: tuple[float, float] = BORDERS
    stations: str | None = None

    @model_validator(mode="after")
    def _check_networks(self) -> Self:
        for network, entry in self.networks.items():
            for other in (*entry.also, *(entry.tables or ())):
                if other not in self.tables:
                    raise ValueError(f"network {network} names {other!r}, which is not one of the tables")
            for table in self.tables:
                try:
                    self.training_of(table, network)
                except ValidationError as error:
                    raise ValueError(f"network {network} on table {table}: {first_error(error)}") from None
        return self

    @model_validator(mode="after")
    def _check_ablations(self) -> Self:
        if self.ablations is None:
            return self
        if self.ablations.table not in self.tables:
            raise ValueError(f"ablations name {self.ablations.table!r}, which is not one of the tables")
        for network in self.ablations.networks:
            if network not in self.networks:
                raise ValueError(f"ablations name {network!r}, which is not one of the networks")
            full = self.training_of(self.ablations.table, network)
            inputs = {feature.name for feature in (*full.snapshot, *full.series)}
            for what, names in self.ablations.without.items():
                if not set(names) <= inputs:
                    unknown = sorted(set(names) - inputs)[0]
                    raise ValueError(f"ablation {what} leaves out {unknown!r}, which is no input of {network}")
                try:
                    without(full, names)
                except ValidationError as error:
                    raise ValueError(f"ablation {what} of {network}: {first_error(error)}") from None
        return self

    def training_of(self, table: str, network: str) -> TrainConfig:
        """Return the configuration for training a network on a table."""
        own = self.networks[network].training
        given = {"name": network, **self.training, **self.tables[table].training, **own}
        if self.networks[network].baseline is not None:
            given.setdefault("architecture", "mlp_full")  # not used, but a configuration of inputs has one
        return TrainConfig.model_validate(given)

    def wanted(self, table: str, scenario: Scenario, network: str) -> bool:
        """Return True if a network is to be tested on a table in a scenario."""
        entry = self.networks[network]
        return table in (entry.tables or self.tables) and scenario in (entry.scenarios or (scenario,))

    def seeds_of(self, network: str) -> int:
        """Return the number of seeds of a network."""
        return self.networks[network].seeds or self.seeds

    def also(self, table: str, network: str) -> list[str]:
        """Return the other tables that a network tested on this table is trained on."""
        return [name for name in self.networks[network].also if name != table]

    def ablated(self, table: str, scenario: Scenario, network: str) -> dict[str, tuple[str, ...]]:
        """Return the inputs to leave out of a network, by the name of the run."""
        if self.ablations is None or (self.ablations.table, "off-site") != (table, scenario):
            return {}
        return self.ablations.names(network)


def without(config: TrainConfig, names: tuple[str, ...]) -> TrainConfig:
    """Return a configuration without some of its inputs, and without the groups of series that hold nothing else.

    Raises
    ------
    pydantic.ValidationError
        No snapshot variable, or no series, is left.
    """
    left = {
        kind: tuple(feature for feature in getattr(config, kind) if feature.name not in names)
        for kind in ("snapshot", "series")
    }
    groups = config.series_groups
    if groups is not None:
        kept = [group.model_copy(update={"features": _others(group.features, names)}) for group in groups]
        groups = tuple(group for group in kept if group.features) or None
    changed = {**left, "series_groups": groups, "may_lack": _others(config.may_lack, names)}
    return TrainConfig.model_validate(
        {key: changed.get(key, getattr(config, key)) for key in config.model_fields_set | changed.keys()}
    )


def _others(names: tuple[str, ...], but: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in but)


def read_experiment(path: str | Path) -> ExperimentConfig:
    """Read the configuration of an experiment (YAML).

    Raises
    ------
    RequestError
        The file does not exist, is not YAML, or a field is missing, unknown or out of bounds.
    """
    return read_model(path, ExperimentConfig, "experiment")
