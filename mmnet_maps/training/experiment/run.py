"""The paper's comparison: every network in every scenario, several seeds each, resumable.

A run is one network trained and tested on one split of one table. It writes a checkpoint, the estimates of its test
rows and, last of all, ``run.json``, with a hash of everything that decides the result; so the same command continues
after an interruption. `report` and `figures` summarise the finished runs.
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
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mmnet_maps.errors import InputError
from mmnet_maps.files import write_whole
from mmnet_maps.metrics import ESTIMATE, TARGET
from mmnet_maps.model.checkpoint import save_checkpoint
from mmnet_maps.model.engine import Engine
from mmnet_maps.training.config import TrainConfig
from mmnet_maps.training.evaluate import predict_samples
from mmnet_maps.training.experiment.baselines import fit
from mmnet_maps.training.experiment.config import Baseline, ExperimentConfig, without
from mmnet_maps.training.experiment.config import read_experiment as read_experiment  # its former place
from mmnet_maps.training.experiment.duration import core_seconds, describe
from mmnet_maps.training.explain import explain_samples
from mmnet_maps.training.splits import REGIONS, Split, cross_region, near, off_site, on_site
from mmnet_maps.training.table import Samples, read_samples, write_samples
from mmnet_maps.training.train import train

log = logging.getLogger("mmnet_maps")

_RECIPE = 2  # to be raised when a change of the code changes the result of a run
_EXPLAINED = 1500  # rows that a network is explained by, over all splits of a scenario


@dataclass(frozen=True, kw_only=True)
class Run:
    """One network to train and to test.

    Attributes
    ----------
    table, scenario, split, network, seed
        Identity of the run.
    samples, also
        The table's file, and the files of other tables that it is trained on.
    config
        Training configuration, with seed and kind of validation.
    baseline
        What to fit in place of the network; None for the network.
    explained
        Number of its test rows that are explained, see `explain`; 0 for none.
    estimated_seconds
        Rough time on one core, see `duration.core_seconds`.
    key
        Hash of everything that decides the result.
    folder
        Folder of its results.
    """

    table: str
    scenario: str
    split: str
    network: str
    seed: int
    samples: Path
    also: tuple[Path, ...]
    config: TrainConfig
    baseline: Baseline | None
    explained: int
    estimated_seconds: float
    key: str
    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any] | None:
        """The content of ``run.json``; None where the run is not finished, or other settings decided its result."""
        try:
            found = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and found.get("key") == self.key else None

    def estimates(self) -> dict[str, NDArray[Any]]:
        """Read station, day, observation and estimate (m³/m³) of each test row."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.folder / "estimates.parquet")
        return {
            "station": np.asarray(table["station"].to_pylist(), np.str_),
            "date": table["date"].to_numpy().astype("datetime64[D]"),
            TARGET: table[TARGET].to_numpy(),
            ESTIMATE: table[ESTIMATE].to_numpy(),
        }


def splits_of(config: ExperimentConfig, table: str, samples: Samples) -> list[Split]:
    """Return the splits of a table in all three scenarios."""
    return [
        *on_site(samples.date, config.tables[table].on_site_years),
        *off_site(samples.station, samples.stations, config.folds),
        *cross_region(samples.numbers("lon"), config.borders),
    ]


def plan_runs(config: ExperimentConfig, data: str | Path, out: str | Path) -> list[Run]:
    """List all runs of an experiment, seed by seed, so that an interrupted experiment holds complete seeds.

    Parameters
    ----------
    config
        The experiment.
    data
        Folder of the tables.
    out
        Folder of the results.

    Raises
    ------
    InputError, RequestError
        A table cannot be read, or has too few rows for the splits.
    """
    if config.stations:
        read_climates(Path(data, config.stations))
    paths = {table: Path(data, about.samples) for table, about in config.tables.items()}
    digests = {table: _digest(path) for table, path in paths.items()}
    sizes = {table: len(_read(path)) for table, path in paths.items()}
    found: list[Run] = []
    for table, path in paths.items():
        samples = _read(path)
        _check_once(samples)
        splits = splits_of(config, table, samples)
        in_scenario = Counter(split.scenario for split in splits)
        for split in splits:
            rows = hashlib.sha256(np.packbits([split.train, split.test]).tobytes()).hexdigest()
            folder = Path(out, "runs", table, split.scenario, split.name)
            for network, name, settings in _networks(config, table, split):
                also = config.also(table, network)
                baseline = config.networks[network].baseline
                trained_on = int(split.train.sum()) + sum(sizes[other] for other in also)
                for seed in range(config.seeds_of(network)):
                    chosen = settings.model_copy(update={"seed": seed})
                    first = (name, seed) == (next(iter(config.networks)), 0)
                    explained = _EXPLAINED // in_scenario[split.scenario] if first else 0
                    used = [digests[other] for other in (table, *also)]
                    parts = [_RECIPE, _settled(chosen), used, rows, config.borders, explained]
                    parts += [] if baseline is None else [baseline.model_dump_json()]
                    found.append(
                        Run(
                            table=table,
                            scenario=split.scenario,
                            split=split.name,
                            network=name,
                            seed=seed,
                            samples=path,
                            also=tuple(paths[other] for other in also),
                            config=chosen,
                            baseline=baseline,
                            explained=explained,
                            estimated_seconds=core_seconds(settings, baseline, trained_on),
                            key=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
                            folder=folder / name / f"seed{seed}",
                        )
                    )
    return sorted(found, key=lambda run: run.seed)


def _settled(config: TrainConfig) -> str:
    """Return a training as JSON; of one network as before there were several, so that finished runs stay finished."""
    return config.model_dump_json(exclude=None if config.networks > 1 else {"networks"})


def _networks(config: ExperimentConfig, table: str, split: Split) -> Iterator[tuple[str, str, TrainConfig]]:
    """Yield each network to test on a split, the name of its run and its training; after it, its ablations."""
    for network in config.networks:
        if not config.wanted(table, split.scenario, network):
            continue
        asked = config.training_of(table, network)
        validation = asked.validation if "validation" in asked.model_fields_set else split.validation
        full = asked.model_copy(update={"validation": validation})
        yield network, network, full
        for name, inputs in config.ablated(table, split.scenario, network).items():
            yield network, name, without(full, inputs)


def read_climates(path: Path) -> dict[str, str]:
    """Read the Köppen-Geiger class of each station from a CSV with the columns ``station`` and ``koppen``."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, usecols=["station", "koppen"], keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected a CSV with the columns station and koppen"
        ) from error
    return dict(zip(table["station"], table["koppen"], strict=True))


def _check_once(samples: Samples) -> None:
    day = np.char.add(np.char.add(samples.station, " on "), samples.date.astype(str))
    found, count = np.unique(day, return_counts=True)
    if (count > 1).any():
        raise InputError(
            f"{samples.name} has {found[count > 1][0]} {count.max()} times; run mmnet samples check to list all "
            "duplicates"
        )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"no table {path} ({error.strerror}); give the folder that holds it as --data") from error


def rows_beside(split: Split, samples: Samples, other: Samples, borders: tuple[float, float]) -> NDArray[np.bool_]:
    """Select the rows of another table that are unrelated to the rows that a split tests.

    On-site: rows on days before all tested ones. Off-site: rows of stations that are not tested and have no tested
    station within 25 km. Cross-region: rows in other regions.
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
    """Train, test and explain one network, by checkpoint and engine as for a map; return the content of ``run.json``.

    Scalers, early stopping and the choice of an epoch use training rows alone; `more` are other tables, each with a
    mask of the rows that are trained on too.
    """
    import pyarrow as pa

    started = time.perf_counter()
    (run.folder / "run.json").unlink(missing_ok=True)  # it would vouch for results that are about to be replaced
    tables = [samples.take(split.train), *(table.take(rows) for table, rows in more)]
    tested = samples.take(split.test)
    facts: dict[str, Any] = {"key": run.key}
    if run.baseline is None:
        trained = train(tables, run.config, progress=False)
        checkpoint = save_checkpoint(run.folder / "model", trained.spec, trained.network, trained.golden)
        estimate = predict_samples(Engine(checkpoint, device="cpu", threads=1), tested)
        facts |= {"epochs": trained.spec.training["epochs"], "history": trained.history}
    else:
        estimate = fit(run.baseline, tables, run.config)(tested)
    columns = {"station": tested.station, "date": tested.date, TARGET: tested.target, ESTIMATE: estimate}
    write_samples(pa.table(columns), run.folder / "estimates.parquet")
    facts["seconds"] = round(time.perf_counter() - started, 1)
    if run.explained and run.baseline is None:
        facts["importance"] = explain_samples(checkpoint, tested, rows=run.explained, progress=False)
    write_whole(run.folder / "run.json", json.dumps(facts, indent=1) + "\n")
    return facts


def execute_all(
    config: ExperimentConfig, data: str | Path, out: str | Path, *, workers: int = 1, quiet: bool = False
) -> list[Run]:
    """Run everything that is not finished, in processes of one thread each; return all runs.

    Parameters
    ----------
    config, data, out
        See `plan_runs`.
    workers
        Number of processes.
    quiet
        No progress bar.

    Raises
    ------
    MMNetError
        A table is at fault, or a result cannot be written; finished runs are kept.
    """
    runs = plan_runs(config, data, out)
    waiting = [run for run in runs if run.facts is None]
    times = [(run.estimated_seconds, None if run.facts is None else float(run.facts["seconds"])) for run in runs]
    log.info("%s", describe(times, workers))
    with tqdm(total=len(waiting), desc=config.name, unit="run", disable=quiet) as bar:
        for run in _executed(config, waiting, workers):
            bar.set_postfix_str(f"{run.table} {run.scenario} {run.split} {run.network}", refresh=False)
            bar.update()
    return plan_runs(config, data, out)


def _executed(config: ExperimentConfig, waiting: list[Run], workers: int) -> Iterator[Run]:
    """Execute runs in processes and yield each when it is finished; an error or interrupt ends all processes at once.

    `ProcessPoolExecutor` by itself would wait for the running networks to finish.
    """
    todo, others = iter(waiting), set(multiprocessing.active_children())
    with ExitStack() as at_exit:
        pool = ProcessPoolExecutor(
            workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_process
        )
        at_exit.callback(pool.shutdown, cancel_futures=True)
        early = at_exit.enter_context(ExitStack())
        early.callback(_terminate_children, others)
        running: dict[Future[None], Run] = {}
        while True:
            for run in todo:
                running[pool.submit(_execute_alone, config, run)] = run
                if len(running) > workers:  # one waits, to start as soon as another ends
                    break
            if not running:
                early.pop_all()  # nothing is running, so nothing is to be terminated
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield running.pop(future)


def _terminate_children(others: set[BaseProcess]) -> None:
    """Terminate the child processes that are not among `others`."""
    for process in set(multiprocessing.active_children()) - others:
        process.terminate()


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    tqdm.set_lock(threading.RLock())  # its default is a semaphore, which a process that is ended leaks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process when its parent is killed, which a process that waits for work would not notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _execute_alone(config: ExperimentConfig, run: Run) -> None:
    """Execute one run in a process, which keeps the tables that it has read."""
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
    """Group the finished runs by table, scenario and network, in their order."""
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if run.facts is not None:
            found.setdefault((run.table, run.scenario, run.network), []).append(run)
    return found
