"""The paper's comparison: every network in every scenario, several seeds each, resumable.

A run is one network trained and tested on one split of one table. It leaves a checkpoint, the estimates of its test
rows and a line of facts, which is written last and carries a hash of all that decides the result; so the same command
continues after an interruption. `experiment_report` makes tables and figures of what the runs left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tqdm import tqdm

from mmnet_maps.errors import InputError
from mmnet_maps.files import write_whole
from mmnet_maps.metrics import ESTIMATE, TARGET
from mmnet_maps.model.checkpoint import save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.settings import first_error, read_model
from mmnet_maps.training.evaluate import predict_samples
from mmnet_maps.training.explain import explain_samples
from mmnet_maps.training.splits import BORDERS, REGIONS, Split, cross_region, near, off_site, on_site
from mmnet_maps.training.table import Samples, read_samples, write_samples
from mmnet_maps.training.train import TrainConfig, train

log = logging.getLogger("mmnet_maps")

_RECIPE = 2  # to be raised when a change of the code changes what comes out of a run
_EXPLAINED = 1500  # rows that say what counts in a network, over all splits of a scenario
_NAME = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
Name = Annotated[str, _NAME]


class TableConfig(BaseModel):
    """A table of samples and how it is split.

    Attributes
    ----------
    samples
        The file; a relative path is taken from the folder that is given with the configuration.
    on_site_years
        Years to train on before the one that is tested.
    training
        Fields of `train.TrainConfig` that hold for this table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: str
    on_site_years: Annotated[int, Field(ge=1)] = 3
    training: dict[str, Any] = {}


class ExperimentConfig(BaseModel):
    """What is compared with what: the YAML file that ``mmnet experiment`` takes.

    Attributes
    ----------
    name
        Of the experiment, for headings.
    tables
        By name.
    networks
        Fields of `train.TrainConfig` by the network's name; the first is the one that the others are compared with.
        ``also`` names tables that a network is trained on besides: those of their rows that tell nothing of the tested
        ones. Where ``validation`` is given it takes the place of the one that matches the scenario.
    training
        Fields that hold for all.
    seeds
        How many networks are trained of each kind.
    folds
        Of the off-site scenario.
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
    seeds: Annotated[int, Field(ge=1)] = 3
    folds: Annotated[int, Field(ge=2)] = 5
    borders: tuple[float, float] = BORDERS
    stations: str | None = None

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        for table in self.tables:
            for network, about in self.networks.items():
                if not isinstance(about.get("also", []), list):
                    raise ValueError(f"also of network {network} is {about['also']!r}, expected a list of tables")
                for other in self.also(table, network):
                    if other not in self.tables:
                        raise ValueError(f"network {network} is also to be trained on {other!r}, which is no table")
                try:
                    self.training_of(table, network)
                except ValidationError as error:
                    raise ValueError(f"network {network} on table {table}: {first_error(error)}") from None
        return self

    def training_of(self, table: str, network: str) -> TrainConfig:
        """How a network is trained on a table."""
        own = {key: value for key, value in self.networks[network].items() if key != "also"}
        return TrainConfig.model_validate({"name": network, **self.training, **self.tables[table].training, **own})

    def also(self, table: str, network: str) -> list[str]:
        """The other tables that a network which is tested on a table is trained on."""
        return [name for name in self.networks[network].get("also", []) if name != table]


def read_experiment(path: str | Path) -> ExperimentConfig:
    """Read the configuration of an experiment (YAML).

    Raises
    ------
    RequestError
        The file is absent, is not YAML, or a field is missing, unknown or out of bounds.
    """
    return read_model(path, ExperimentConfig, "experiment")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One network to train and to test.

    Attributes
    ----------
    table, scenario, split, network, seed
        What tells it apart.
    samples, also
        The table's file, and those of others that it is trained on.
    config
        How it is trained, seed and kind of validation included.
    explained
        How many of its test rows are explained, see `explain`; 0 for none.
    key
        Hash of all that decides the result.
    folder
        Where it leaves what it finds.
    """

    table: str
    scenario: str
    split: str
    network: str
    seed: int
    samples: Path
    also: tuple[Path, ...]
    config: TrainConfig
    explained: int
    key: str
    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any] | None:
        """What a finished run wrote down last; None where it has not, or something else decided its result."""
        try:
            found = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("key") == self.key else None

    def estimates(self) -> dict[str, NDArray[Any]]:
        """Station, day, observation and estimate (m³/m³) of each test row."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / "estimates.parquet")
        return {
            "station": np.asarray(table["station"].to_pylist(), np.str_),
            "date": table["date"].to_numpy().astype("datetime64[D]"),
            TARGET: table[TARGET].to_numpy(),
            ESTIMATE: table[ESTIMATE].to_numpy(),
        }


def splits_of(config: ExperimentConfig, table: str, samples: Samples) -> list[Split]:
    """The splits of a table in all three scenarios."""
    return [
        *on_site(samples.date, config.tables[table].on_site_years),
        *off_site(samples.station, samples.stations, config.folds),
        *cross_region(samples.numbers("lon"), config.borders),
    ]


def plan_runs(config: ExperimentConfig, data: str | Path, out: str | Path) -> list[Run]:
    """All runs of an experiment, seed by seed, so that an interrupted one holds whole seeds.

    Parameters
    ----------
    config
        What is compared.
    data
        Folder of the tables.
    out
        Folder of what the runs leave.

    Raises
    ------
    InputError, RequestError
        When a table cannot be read or does not fill the splits.
    """
    if config.stations:
        read_climates(Path(data, config.stations))
    found = []
    paths = {table: Path(data, about.samples) for table, about in config.tables.items()}
    digests = {table: _digest(path) for table, path in paths.items()}
    for table, path in paths.items():
        samples = _read(path)
        _check_once(samples)
        splits = splits_of(config, table, samples)
        in_scenario = Counter(split.scenario for split in splits)
        for seed in range(config.seeds):
            for split in splits:
                rows = hashlib.sha256(np.packbits([split.train, split.test]).tobytes()).hexdigest()
                for network in config.networks:
                    asked = config.training_of(table, network)
                    validation = asked.validation if "validation" in asked.model_fields_set else split.validation
                    chosen = asked.model_copy(update={"seed": seed, "validation": validation})
                    also = config.also(table, network)
                    first = (network, seed) == (next(iter(config.networks)), 0)
                    explained = _EXPLAINED // in_scenario[split.scenario] if first else 0
                    used = [digests[name] for name in (table, *also)]
                    parts = [_RECIPE, chosen.model_dump_json(), used, rows, config.borders, explained]
                    found.append(
                        Run(
                            table=table,
                            scenario=split.scenario,
                            split=split.name,
                            network=network,
                            seed=seed,
                            samples=path,
                            also=tuple(paths[name] for name in also),
                            config=chosen,
                            explained=explained,
                            key=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
                            folder=Path(out, "runs", table, split.scenario, split.name, network, f"seed{seed}"),
                        )
                    )
    return sorted(found, key=lambda run: run.seed)


def read_climates(path: Path) -> dict[str, str]:
    """The Köppen-Geiger class of each station of a CSV with the columns ``station`` and ``koppen``."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, usecols=["station", "koppen"], keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no list of stations with the columns station and koppen ({error})") from error
    return dict(zip(table["station"], table["koppen"], strict=True))


def _check_once(samples: Samples) -> None:
    day = np.char.add(np.char.add(samples.station, " on "), samples.date.astype(str))
    found, count = np.unique(day, return_counts=True)
    if (count > 1).any():
        raise InputError(
            f"{samples.name} has {found[count > 1][0]} {count.max()} times; mmnet samples check tells all such"
        )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"no table {path} ({error.strerror}); give the folder that holds it as --data") from error


def rows_beside(split: Split, samples: Samples, other: Samples, borders: tuple[float, float]) -> NDArray[np.bool_]:
    """Rows of another table that tell nothing of what a split tests.

    On-site those of earlier days than all tested ones; off-site those of stations that are not tested and have no
    tested one within 25 km; cross-region those of other regions.
    """
    tested = samples.take(split.test)
    if split.scenario == "on-site":
        return np.asarray(other.date < tested.date.min())
    if split.scenario == "off-site":
        return ~np.isin(other.station, sorted(near(tested.stations, other.stations)))
    region = np.searchsorted(np.asarray(borders), other.numbers("lon"), side="right")
    return np.asarray(region != REGIONS.index(split.name))


def execute(
    run: Run, split: Split, samples: Samples, more: Sequence[tuple[Samples, NDArray[np.bool_]]] = ()
) -> dict[str, Any]:
    """Train, test and explain one network, through a checkpoint and the engine as a map; returns what is written last.

    The scalers, early stopping and the choice of an epoch see training rows alone; `more` are other tables and those
    of their rows that are trained on as well.
    """
    import pyarrow as pa

    started = time.perf_counter()
    (run.folder / "run.json").unlink(missing_ok=True)  # it would vouch for what is about to be replaced
    tables = [samples.take(split.train), *(table.take(rows) for table, rows in more)]
    trained = train(tables, run.config, progress=False)
    checkpoint = save_checkpoint(run.folder / "model", trained.spec, trained.network, trained.golden)
    tested = samples.take(split.test)
    columns = {"station": tested.station, "date": tested.date, TARGET: tested.target}
    columns[ESTIMATE] = predict_samples(Engine(checkpoint, device="cpu", threads=1), tested)
    write_samples(pa.table(columns), run.folder / "estimates.parquet")
    facts = {
        "key": run.key,
        "epochs": trained.spec.training["epochs"],
        "seconds": round(time.perf_counter() - started, 1),
        "history": trained.history,
    }
    if run.explained:
        facts["importance"] = explain_samples(checkpoint, tested, rows=run.explained, progress=False)
    write_whole(run.folder / "run.json", json.dumps(facts, indent=1) + "\n")
    return facts


def execute_all(
    config: ExperimentConfig, data: str | Path, out: str | Path, *, workers: int = 1, quiet: bool = False
) -> list[Run]:
    """Run whatever has not been run yet, in processes of one thread each; returns all runs.

    Parameters
    ----------
    config, data, out
        As for `plan_runs`.
    workers
        Processes.
    quiet
        No progress bar.

    Raises
    ------
    MMNetError
        When something is wrong with the tables, or cannot be written; what was finished is kept.
    """
    runs = plan_runs(config, data, out)
    waiting = [run for run in runs if run.facts is None]
    log.info("%d runs, %d of them there already", len(runs), len(runs) - len(waiting))
    with tqdm(total=len(waiting), desc=config.name, unit="run", disable=quiet) as bar:
        for run in _executed(config, waiting, workers):
            bar.set_postfix_str(f"{run.table} {run.scenario} {run.split} {run.network}", refresh=False)
            bar.update()
    return plan_runs(config, data, out)


def _executed(config: ExperimentConfig, waiting: list[Run], workers: int) -> Iterator[Run]:
    """Runs as they are finished; whatever ends this ends the others, which takes none of what is finished."""
    todo, others = iter(waiting), set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_single) as pool:
        running: dict[Future[None], Run] = {}
        try:
            while True:
                for run in todo:
                    running[pool.submit(_execute_alone, config, run)] = run
                    if len(running) > workers:  # one is ready when another ends
                        break
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield running.pop(future)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _single() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """A process that waits for work does not notice by itself that the one that gives it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _execute_alone(config: ExperimentConfig, run: Run) -> None:
    """What a process does: one run, with the table that it read before."""
    samples = _read(run.samples)
    for split in _splits(config.model_dump_json(), run.table, run.samples):
        if (split.scenario, split.name) == (run.scenario, run.split):
            others = [_read(path) for path in run.also]
            more = [(other, rows_beside(split, samples, other, config.borders)) for other in others]
            execute(run, split, samples, more)


@lru_cache(maxsize=2)
def _read(path: Path) -> Samples:
    return read_samples(path)


@lru_cache(maxsize=2)
def _splits(config: str, table: str, path: Path) -> list[Split]:
    return splits_of(ExperimentConfig.model_validate_json(config), table, _read(path))


def by_network(runs: list[Run]) -> Mapping[tuple[str, str, str], list[Run]]:
    """The finished runs by table, scenario and network, in their order."""
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if run.facts is not None:
            found.setdefault((run.table, run.scenario, run.network), []).append(run)
    return found
