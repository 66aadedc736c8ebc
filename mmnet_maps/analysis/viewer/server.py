"""Serve the page of ``mmnet view`` on the loopback interface, to this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmnet_maps.analysis.viewer.data import open_view
from mmnet_maps.errors import RequestError

if TYPE_CHECKING:
    from mmnet_maps.analysis.viewer.data import Viewable
    from mmnet_maps.analysis.viewer.panes import Rings

LOOPBACK = "127.0.0.1"
_PORT = 5006

# Without the viewport phones lay the page out at desktop width.
_TEMPLATE = '{% block preamble %}<meta name="viewport" content="width=device-width, initial-scale=1">{% endblock %}'


def view(
    paths: str | Path | Sequence[str | Path],
    *,
    stack: str | Path | None = None,
    climatology: str | Path | None = None,
    outline: str | Path | None = None,
    port: int | None = None,
    show: bool = True,
) -> None:
    """Serve a page that shows maps or a stack until interrupted.

    Only this machine can connect, and only the given files are read.

    Parameters
    ----------
    paths
        Anything that `reader.open_maps` accepts, or the folder of a stack.
    stack
        Source of the rain in the series at a place; of a stack that is shown, the stack itself.
    climatology
        Climatology to compare the maps with.
    outline
        Polygons drawn over the map, given like an area of interest.
    port
        The port to listen on. By default 5006, or any free one.
    show
        Whether to open the page in the browser.

    Raises
    ------
    RequestError
        Panel is not installed, the port is not available, or there is nothing to show.
    InputError
        An input cannot be read.
    """
    shown = open_view([paths] if isinstance(paths, str | Path) else list(paths), climatology)
    make_page = _page_maker(shown, stack, outline)
    free = _free_port(port)
    import panel as pn

    print(f"{shown.title}: http://{LOOPBACK}:{free}/  (Ctrl-C stops it)", flush=True)
    pn.serve(
        {"/": make_page},
        address=LOOPBACK,
        port=free,
        websocket_origin=[f"{LOOPBACK}:{free}", f"localhost:{free}"],
        title=f"{shown.title}: soil moisture",
        show=show,
        verbose=False,
    )


def _page_maker(shown: Viewable, stack: str | Path | None, outline: str | Path | None) -> Callable[[], Any]:
    """Return a function that makes a page for each visitor, after making one: errors appear before anything is served.

    Raises
    ------
    RequestError, InputError
        See `view`.
    """
    from mmnet_maps.analysis.viewer.data import ViewedStack
    from mmnet_maps.stack.store import Stack

    weather = Stack(stack) if stack is not None else shown.stack if isinstance(shown, ViewedStack) else None
    if stack is not None and weather is not None:
        weather.group_of("pr")
    rings = _rings(outline, str(shown.grid.crs)) if outline is not None else []
    try:
        import panel as pn
    except ImportError as error:
        raise RequestError(
            "mmnet view needs the package panel, which is not installed: pip install '.[viewer]'"
        ) from error
    from mmnet_maps.analysis.viewer.page import Page

    pn.extension()
    for name in ("bokeh.server.views.ws", "tornado.access", "tornado.general"):  # they log every refused request
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_not_a_departure)

    def make_page() -> Any:
        if pn.state.curdoc is not None:
            pn.state.curdoc.template = _TEMPLATE
        return Page(shown, stack=weather, outline=rings).layout()

    make_page()  # also imports what the first visitor would wait for
    return make_page


def _is_not_a_departure(record: logging.LogRecord) -> bool:
    """Return whether a log record is about anything but a visitor who left while data was being sent."""
    from tornado.websocket import WebSocketClosedError

    return not (record.exc_info and isinstance(record.exc_info[1], WebSocketClosedError))


def _rings(outline: str | Path, crs: str) -> Rings:
    """Return the borders of an area as lines of x and y in a CRS."""
    import shapely

    from mmnet_maps.grid.area import read_aoi, transform_geometry
    from mmnet_maps.grid.polygons import LONLAT

    area = transform_geometry(shapely.segmentize(read_aoi(outline).geometry, 0.02), LONLAT, crs)
    polygons = shapely.get_parts(area)
    lines = [ring for polygon in polygons for ring in (polygon.exterior, *polygon.interiors)]
    return [tuple(shapely.get_coordinates(line).T) for line in lines]


def _free_port(wanted: int | None) -> int:
    """Return the wanted port, or by default 5006 or any free one.

    Raises
    ------
    RequestError
        The wanted port is not available.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        if os.name == "posix":  # as the server does; a page just closed does not hold its port
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((LOOPBACK, _PORT if wanted is None else wanted))
        except OSError as error:
            if wanted is not None:
                raise RequestError(f"port {wanted} is not available ({error.strerror}); give another --port") from error
            trial.bind((LOOPBACK, 0))
        return int(trial.getsockname()[1])
