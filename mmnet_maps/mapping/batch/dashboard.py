"""Dask's dashboard, imported when somebody opens it: Bokeh takes a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tornado.web import Application, RequestHandler

if TYPE_CHECKING:
    from distributed import LocalCluster, Scheduler


class _FirstVisit(RequestHandler):
    """Add the dashboard to the scheduler's web server, and send the visitor there."""

    def initialize(self, scheduler: Scheduler) -> None:
        """Keep the scheduler."""
        self._scheduler = scheduler

    def get(self) -> None:
        """Answer the first request for a page that the server does not have."""
        from distributed.dashboard.scheduler import connect

        server = self._scheduler.http_application
        if self.application in server.applications:
            server.applications.remove(self.application)
            connect(server, self._scheduler.http_server, self._scheduler)
        self.redirect(self.request.uri or "/")


def offer_dashboard(cluster: LocalCluster) -> None:
    """Let the scheduler of a cluster that was started without the dashboard show it when it is opened."""
    scheduler: Any = cluster.scheduler
    first = Application([(r".*", _FirstVisit, {"scheduler": scheduler})])
    scheduler.http_application.add_application(first)
