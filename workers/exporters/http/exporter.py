"""The health API's process."""

from __future__ import annotations

from nodedoctor.config import model
from nodedoctor.exporter import Exporter
from workers.exporters.http.server import serve


class HttpExporter(Exporter[model.HttpExporter]):
    """Serves the health API with gunicorn, on `health.sock` always and on a TCP port when it can be had."""

    options_type = model.HttpExporter
    capabilities = ("CAP_NET_BIND_SERVICE",)

    def run(self) -> None:
        """Serve until SIGTERM."""
        serve(self.options, self.context)
