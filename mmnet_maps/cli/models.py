"""Commands for models: train, experiment, predict, evaluate, recalibrate, explain, convert."""

from __future__ import annotations

import os

import click

from mmnet_maps.cli.checks import require, require_tables
from mmnet_maps.cli.command import INPUT, OutputFile, OutputFolder, command
from mmnet_maps.cli.options import (
    DEBUG,
    NOTHING_TO_QUIET,
    QUIET,
    SAMPLES,
    SEED,
    TRAINED_MODEL,
    WORKERS,
    draws,
    json_option,
    picture,
    setting,
)
from mmnet_maps.errors import RequestError, brief
from mmnet_maps.resources import packaged

CHECKPOINT = OutputFolder(whole=True)
PREDICTIONS = OutputFile(".parquet", marks=("soil_moisture_estimate",))
IMPORTANCE = OutputFile(".json", marks=('"incompleteness"', '"variables"'))


def _print_config(context: click.Context, _: click.Parameter, name: str | None) -> None:
    """Print a packaged configuration and end."""
    if name is None:
        return
    found = {path.stem: path for path in packaged("configs").glob("*.yaml")}
    if name not in found:
        raise RequestError(
            f"no packaged configuration is called {brief(name, 40)!r}; expected one of {', '.join(sorted(found))}"
        )
    click.echo(found[name].read_text(encoding="utf-8"), nl=False)
    context.exit()


def _require_known(samples: str, model: str, *, target: bool = True) -> None:
    """Refuse a table or a model that does not exist or is no such thing, before torch is imported."""
    require_tables()
    from mmnet_maps.model.spec import read_spec
    from mmnet_maps.training.table import require_samples

    require_samples(samples, target=target)
    read_spec(model)


@command("train")
@click.option(
    "--samples",
    required=True,
    type=INPUT,
    multiple=True,
    metavar="PARQUET",
    help="Table of samples; may be repeated.",
)
@click.option(
    "--config",
    required=True,
    type=INPUT,
    metavar="YAML",
    help="Training configuration, such as configs/mmnet-uscrn.yaml.",
)
@click.option(
    "--print-config",
    metavar="NAME",
    is_eager=True,
    expose_value=False,
    callback=_print_config,
    help="Print a packaged configuration, such as mmnet-uscrn, and exit.",
)
@click.option("--seed", type=SEED, help="Seed, in place of that of the configuration.")
@click.option("--out", required=True, type=CHECKPOINT, metavar="FOLDER", help="Folder of the new checkpoint.")
@QUIET
@DEBUG
def train_command(samples: tuple[str, ...], config: str, seed: int | None, out: str, quiet: bool) -> None:
    """Train a network on station samples."""
    require_tables()
    from mmnet_maps.training.config import read_config
    from mmnet_maps.training.table import require_samples

    read_config(config)
    for table in samples:
        require_samples(table)
    from mmnet_maps.training.train import train_checkpoint

    click.echo(train_checkpoint(samples, config, out, seed=seed, progress=not quiet).path)


@command("experiment")
@click.argument("config", type=INPUT, metavar="CONFIG.YAML")
@click.option(
    "--data", required=True, type=INPUT, metavar="FOLDER", help="Folder of the tables that the configuration names."
)
@click.option(
    "--out", required=True, type=OutputFolder(), metavar="FOLDER", help="Folder for runs, tables and figures."
)
@click.option("--workers", type=WORKERS, help="Processes, of one thread each.  [default: one per core]")
@QUIET
@DEBUG
def experiment_command(config: str, data: str, out: str, workers: int | None, quiet: bool) -> None:
    """Train and test several networks in the paper's scenarios; the same command continues after an interruption."""
    require_tables()
    from mmnet_maps.training.experiment.config import read_experiment

    settings = read_experiment(config)
    from mmnet_maps.resources import cores
    from mmnet_maps.training.experiment.results import write_results
    from mmnet_maps.training.experiment.run import execute_all

    runs = execute_all(settings, data, out, workers=workers or cores(), quiet=quiet)
    for path in write_results(settings, runs, out):
        click.echo(path)


@command("predict")
@SAMPLES
@TRAINED_MODEL
@click.option(
    "--out", required=True, type=PREDICTIONS, metavar="PARQUET", help="The table with soil_moisture_estimate added."
)
@draws()
@setting("device")
@NOTHING_TO_QUIET
@DEBUG
def predict_command(samples: str, model: str, out: str, uncertainty: int, device: str | None) -> None:
    """Estimate soil moisture for station samples; no target column is needed.

    With --uncertainty, soil_moisture_std is added as well.
    """
    _require_known(samples, model, target=False)
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.training.evaluate import write_predictions

    engine = Engine(load_checkpoint(model), device=device or "auto", draws=uncertainty)
    count = write_predictions(engine, samples, out)
    click.echo(f"{out}: {count} rows with an estimate")


@command("evaluate")
@click.option("--samples", type=INPUT, metavar="PARQUET", help="Table of station samples.")
@TRAINED_MODEL
@click.option(
    "--parity", is_flag=True, help="Deviation of each precision and device from the plain network in float64."
)
@json_option("per_station", what="metrics")
@draws()
@picture("Draw the reliability of the standard deviations.", metavar="FILE.png")
@setting("device")
@QUIET
@DEBUG
def evaluate_command(
    samples: str | None,
    model: str,
    parity: bool,
    json_path: str | None,
    uncertainty: int,
    picture: str | None,
    device: str | None,
    quiet: bool,
) -> None:
    """Compute R, RMSE, bias (estimate - observed) and ubRMSE per station, or the deviation of the engine (--parity).

    With --uncertainty the standard deviations over the members are evaluated as well.
    """
    if parity == (samples is not None) or (parity and (json_path or device or uncertainty)):
        raise RequestError("give either --samples (and optionally --json, --uncertainty and --device) or --parity")
    if picture and not uncertainty:
        raise RequestError("--picture shows the uncertainty; give --uncertainty as well, such as --uncertainty 20")
    if parity:
        from mmnet_maps.model.spec import read_spec

        read_spec(model)
        from mmnet_maps.model.checkpoint import load_checkpoint
        from mmnet_maps.training.parity import format_parity
        from mmnet_maps.training.parity import parity as deviations

        click.echo(format_parity(list(deviations(load_checkpoint(model), quiet=quiet))))
        return
    assert samples is not None
    from mmnet_maps.plots.canvas import check_picture

    check_picture(picture)
    _require_known(samples, model)
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.training.evaluate import evaluate_samples, format_evaluation, write_report
    from mmnet_maps.training.table import read_samples

    engine = Engine(load_checkpoint(model), device=device or "auto", draws=uncertainty)
    found = evaluate_samples(engine, read_samples(samples))
    click.echo(format_evaluation(found))
    if json_path:
        write_report(found, json_path)
        click.echo(json_path)
    if picture:
        from pathlib import Path

        from mmnet_maps.training.plots import draw_reliability

        draw_reliability(found["uncertainty"], Path(picture), model=engine.spec.name)
        click.echo(picture)


@command("recalibrate")
@SAMPLES
@TRAINED_MODEL
@draws(20)
@click.option("--out", required=True, type=CHECKPOINT, metavar="FOLDER", help="Folder of the recalibrated copy.")
@setting("device")
@NOTHING_TO_QUIET
@DEBUG
def recalibrate_command(samples: str, model: str, uncertainty: int, out: str, device: str | None) -> None:
    """Scale a model's standard deviations so that they match its errors at held-out stations.

    Writes a copy that differs only by std_factor in model.json; maps made with it have scaled standard deviations.
    """
    _require_known(samples, model)
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.model.engine import Engine
    from mmnet_maps.training.calibration import format_reliability
    from mmnet_maps.training.evaluate import recalibrate
    from mmnet_maps.training.table import read_samples

    engine = Engine(load_checkpoint(model), device=device or "auto", draws=uncertainty)
    copy, judged = recalibrate(engine, read_samples(samples), out)
    click.echo(format_reliability(judged))
    click.echo(f"{copy.path}  std_factor {copy.spec.target.std_factor:.4g}")


@command("explain")
@SAMPLES
@TRAINED_MODEL
@click.option("--out", required=True, type=IMPORTANCE, metavar="FILE.json", help="File for the attributions.")
@picture("Also draw them.", metavar="FILE.png")
@click.option(
    "--rows", type=click.IntRange(2, 1_000_000), default=2500, show_default=True, help="Number of rows to explain."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed that chooses the rows.")
@QUIET
@DEBUG
def explain_command(samples: str, model: str, out: str, picture: str | None, rows: int, seed: int, quiet: bool) -> None:
    """Attribute a model's estimates to its variables and the days of its series (feature importance).

    \b
    mmnet explain --samples samples.parquet --model mmnet-uscrn --out importance.json --picture importance.png
    """  # noqa: D301  (see map_command)
    import json
    from pathlib import Path

    from mmnet_maps.plots.canvas import check_picture

    check_picture(picture)
    _require_known(samples, model, target=False)
    require("captum", "mmnet explain")
    from mmnet_maps.files import write_whole
    from mmnet_maps.model.checkpoint import load_checkpoint
    from mmnet_maps.training.explain import explain_samples, format_importance
    from mmnet_maps.training.plots import draw_importance
    from mmnet_maps.training.table import read_samples

    table = read_samples(samples, target=False)
    found = explain_samples(load_checkpoint(model), table, rows=rows, seed=seed, progress=not quiet)
    click.echo(format_importance(found))
    write_whole(Path(out), json.dumps(found, indent=1, allow_nan=False) + "\n")
    click.echo(out)
    if picture:
        draw_importance(found, Path(picture))
        click.echo(picture)


@command("convert")
@click.argument("pth", type=INPUT, metavar="MODEL.PTH")
@click.option(
    "--scalers",
    required=True,
    type=INPUT,
    metavar="FOLDER",
    help="Holds static_mean_std.npy and dynamic_mean_std.npy.",
)
@click.option(
    "--profile",
    type=click.Choice(["released", "paper"]),
    default="released",
    show_default=True,
    help="Inputs that it was trained with.",
)
@click.option("--out", required=True, type=CHECKPOINT, metavar="FOLDER", help="Folder of the new checkpoint.")
@NOTHING_TO_QUIET
@DEBUG
def convert_command(pth: str, scalers: str, profile: str, out: str) -> None:
    """Convert a checkpoint of the authors' released code into the format used here."""
    for path in (pth, scalers):
        if not os.path.exists(path):  # before torch is imported
            raise RequestError(f"no file or folder {brief(path)}; expected what the released code saved")
    from mmnet_maps.model.import_released import convert

    convert(pth, scalers, profile, out)
    click.echo(out)
