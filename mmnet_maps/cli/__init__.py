"""The commands: thin, with imports where they are used, so that ``--help`` answers at once."""

from __future__ import annotations

import logging
import sys
import traceback

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
from mmnet_maps.cli.surroundings import mend_environment, of_output, report_bug
from mmnet_maps.errors import MMNetError, OutputError, RequestError
from mmnet_maps.resources import collect_rarely

INTERRUPTED = 130


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


def main() -> None:
    """Entry point of ``mmnet``."""
    _run(mmnet, "mmnet")


def map_main() -> None:
    """Entry point of ``mmnet-map``."""
    _run(map_command, "mmnet-map")


def _run(command: click.Command, name: str) -> None:
    """Run a command: notices go to standard error, an error is one line and an exit code."""
    collect_rarely()
    debug = "--debug" in sys.argv
    if not debug:
        sys.excepthook = report_bug
    notices = logging.StreamHandler()
    notices.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("mmnet_maps")
    logger.addHandler(notices)
    logger.setLevel(logging.INFO)
    mend_environment()
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = RequestError.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "mmnet"
        code = _fail(f"{error.format_message().rstrip('.')}; see {where} --help", RequestError.exit_code)
    except MMNetError as error:
        if debug:
            traceback.print_exception(error)
        code = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted; finished work is kept, the same command continues", INTERRUPTED)
    except OSError as error:
        if not of_output(error):
            raise
        code = _fail(
            f"cannot write to standard output: {error.strerror}; make room where it goes", OutputError.exit_code
        )
    finally:
        logger.removeHandler(notices)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code
