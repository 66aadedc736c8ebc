"""The entry points. Imports stand where they are used, so that work begins at once."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import nullcontext
from typing import Any

import click

from mmnet_maps.cli.surroundings import mend_environment, of_output, report_bug
from mmnet_maps.errors import MMNetError, OutputError, RequestError
from mmnet_maps.mapping.apart import other_process
from mmnet_maps.resources import collect_rarely

INTERRUPTED = 130


def main() -> None:
    """Entry point of ``mmnet``."""
    collect_rarely()
    from mmnet_maps.cli.commands import mmnet

    _run(mmnet, "mmnet")


def map_main() -> None:
    """Entry point of ``mmnet-map``."""
    collect_rarely()
    only_says = not {"-h", "--help", "--version"}.isdisjoint(sys.argv)
    with nullcontext() if only_says else other_process() as other:  # before all else: it has most to import
        from mmnet_maps.cli.map import map_command

        _run(map_command, "mmnet-map", other)


def _run(command: click.Command, name: str, obj: Any = None) -> None:
    """Run a command: notices go to standard error, an error is one line and an exit code."""
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
        code = command.main(prog_name=name, standalone_mode=False, obj=obj)
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
