"""The process of an exporter."""

from __future__ import annotations

from nodedoctor.duration import seconds
from nodedoctor.exporter import Context
from nodedoctor.roster import ExporterSpec
from workers.link import Link
from workers.privileges import keep_capabilities
from workers.process import Place, become


def run_exporter(place: Place, spec: ExporterSpec) -> None:
    """Be the exporter `spec` until SIGTERM; the target of a fork."""
    become(place)
    keep_capabilities(spec.kind.capabilities)
    interval = seconds(place.roster.config.settings.update_interval)
    context = Context(place.run_dir, place.roster.config, lambda: Link(spec.name, place, interval))
    spec.kind(spec.options, context).run()
