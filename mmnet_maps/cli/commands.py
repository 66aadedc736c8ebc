"""The commands: thin, with imports where they are used, so that ``--help`` answers at once."""

from __future__ import annotations

import click

from mmnet_maps import __version__
from mmnet_maps.cli.analysis import export_command, points_command, view_command, zones_command
from mmnet_maps.cli.batch import batch_command
from mmnet_maps.cli.climatology import climatology_command
from mmnet_maps.cli.command import HELP, group
from mmnet_maps.cli.map import map_command
from mmnet_maps.cli.models import (
    convert_command,
    evaluate_command,
    experiment_command,
    explain_command,
    predict_command,
    recalibrate_command,
    train_command,
)
from mmnet_maps.cli.samples import samples_command
from mmnet_maps.cli.stack import stack_command


@group("mmnet", context_settings=HELP)
@click.version_option(__version__, prog_name="mmnet_maps")
def mmnet() -> None:
    """Surface soil moisture at 100 m with MMNet: maps, inputs and models."""


for _command in (
    map_command,
    stack_command,
    batch_command,
    climatology_command,
    samples_command,
    train_command,
    experiment_command,
    points_command,
    zones_command,
    export_command,
    predict_command,
    evaluate_command,
    recalibrate_command,
    explain_command,
    view_command,
    convert_command,
):
    mmnet.add_command(_command)
