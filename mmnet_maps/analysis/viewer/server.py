"""``mmnet view``: the web page that shows maps, served on the loopback interface to this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps.analysis.viewer.data import open_view
from mmnet_maps.errors import RequestError

if TYPE_CHECKING:
    from mmnet_maps.analysis.viewer.page import Rings

LOOPBACK = "127.0.0.1"
_PORT = 5006

# Without it a phone draws the page as wide as a desk's screen.
_TEMPLATE = '{% block preamble %}<meta name="viewport" content="width=device-width, initial-scale=1">{% endblock %}'


def view(
    paths: str | Path | Sequence[str | Path],
    *,
    stack: str | Path | None = None,
    outline: str | Path | None = None,
    port: int | None = None,
    show: bool = True,
) -> None:
    """Serve a page that shows maps or a stack, until it is interrupted.

    Only this machine reaches it, and only what is given here is read.

    Parameters
    ----------
    paths
        What `reader.open_maps` takes, or the folder of a stack.
    stack
        Where the rain in the series at a place comes from; a stack that is looked at is its own.
    outline
        Polygons that are drawn over the map: whatever an area of interest may be.
    port
        Default: 5006, or any that is free.
    show
        Open it in the browser.

    Raises
    ------
    RequestError
        When Panel is not installed, the port is taken, or there is nothing to be shown.
    InputError
        When something cannot be read.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    shown = open_view(given)
    make = _maker(shown, stack, outline)
    free = _free_port(port)
    import panel as pn

    print(f"{shown.title}: http://{LOOPBACK}:{free}/  (Ctrl-C ends it)", flush=True)
    pn.serve(
        {"/": make},
        address=LOOPBACK,
        port=free,
        websocket_origin=[f"{LOOPBACK}:{free}", f"localhost:{free}"],
        title=f"{shown.title}: soil moisture",
        show=show,
        verbose=False,
    )


def _maker(shown: Any, stack: str | Path | None, outline: str | Path | None) -> Any:
    """What makes a page for each visitor."""
    try:
        import panel as pn
    except ImportError as error:
        raise RequestError(
            "mmnet view needs the package panel, which is not installed: pip install 'mmnet-maps[viewer]'"
        ) from error
    from mmnet_maps.analysis.viewer.data import ViewedStack
    from mmnet_maps.analysis.viewer.page import Page
    from mmnet_maps.stack.store import Stack

    pn.extension()
    for name in ("bokeh.server.views.ws", "tornado.access", "tornado.general"):  # they name all that they refuse
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_news)
    weather = Stack(stack) if stack is not None else shown.stack if isinstance(shown, ViewedStack) else None
    if stack is not None and weather is not None:
        weather.group_of("pr")
    rings = _rings(outline, str(shown.grid.crs)) if outline is not None else []

    def make() -> Any:
        if pn.state.curdoc is not None:
            pn.state.curdoc.template = _TEMPLATE
        return Page(shown, stack=weather, outline=rings).layout()

    make()  # what cannot be read is told before there is a page, and the first visitor need not wait for imports
    return make


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message is other than that a visitor left while something was being sent."""
    from tornado.websocket import WebSocketClosedError

    return not (record.exc_info and isinstance(record.exc_info[1], WebSocketClosedError))


def _rings(outline: str | Path, crs: str) -> Rings:
    """The borders of an area as lines of x and y in a CRS."""
    import shapely

    from mmnet_maps.grid.area import LONLAT, read_aoi, transform_geometry

    area = transform_geometry(shapely.segmentize(read_aoi(outline).geometry, 0.02), LONLAT, crs)
    polygons = shapely.get_parts(area)
    lines = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    return [tuple(shapely.get_coordinates(line).T) for line in lines]


def _free_port(wanted: int | None) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        if os.name == "posix":  # as the server itself does: a page that was just closed does not hold its port
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOOPBACK, _PORT if wanted is None else wanted))
        except OSError as error:
            if wanted is not None:
                raise RequestError(f"port {wanted} cannot be had ({error.strerror}); choose another --port") from error
            trial.bind((LOOPBACK, 0))
        return int(trial.getsockname()[1])
