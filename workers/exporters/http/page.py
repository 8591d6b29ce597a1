"""The page for people: the node's state as plain tables."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from nodedoctor.bus.messages import Snapshot
from nodedoctor.duration import human
from nodedoctor.health import health
from nodedoctor.types import utc_now

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
.healthy, .ok, .running, .False { color: #18794e; } .degraded, .Unknown, .unknown, .warning { color: #8a5a00; }
.unhealthy, .True, .problem, .hung, .crashed, .stuck, .paused, .unavailable, .error { color: #b42318; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } .healthy, .ok, .running, .False { color: #4cc38a; }
.degraded, .Unknown, .unknown, .warning { color: #f5b944; }
.unhealthy, .True, .problem, .hung, .crashed, .stuck, .paused, .unavailable, .error { color: #ff8a80; } }
"""


def page(snapshot: Snapshot) -> str:
    """The whole page; it asks for itself again every 10 seconds and loads nothing from anywhere else."""
    state, node = health(snapshot), escape(snapshot.node)
    uptime = human((utc_now() - snapshot.started).total_seconds())
    problems = table(
        "Problems",
        ("Problem", "Severity", "Reason", "Message", "Monitor", "Since"),
        ((p.type, p.severity, p.reason, p.message, p.monitor, p.first_seen) for p in snapshot.problems),
    )
    conditions = table(
        "Conditions",
        ("Condition", "Status", "Reason", "Message", "Monitor", "Since"),
        (
            (c.type, c.status, c.reason, c.message, c.monitor, c.last_transition_time)
            for c in snapshot.conditions
        ),
    )
    monitors = table(
        "Monitors",
        ("Monitor", "State", "Type", "Checks", "Restarts", "Last check"),
        ((m.name, m.state, m.type, m.checks, m.restarts, m.last_check or "") for m in snapshot.monitors),
    )
    exporters = table(
        "Exporters",
        ("Exporter", "State", "Message"),
        ((e.name, e.state, e.message) for e in snapshot.exporters),
    )
    workers = table(
        "Processes",
        ("Process", "State", "pid", "Last end"),
        ((w.name, w.state, w.pid, w.last_exit) for w in snapshot.workers),
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{node} is {state}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="10">'
        f"<style>{STYLE}</style></head><body>"
        f'<h1>{node} is <span class="{state}">{state}</span></h1>'
        f"<p>node-doctor {escape(snapshot.version)}, up for {uptime}</p>"
        f"{problems if snapshot.problems else '<p>No problems.</p>'}{conditions}{monitors}{exporters}{workers}</body></html>"
    )


def table(title: str, heads: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """One table; the second column's words are also its classes."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<h2>{title}</h2><table><tr>{head}</tr>{''.join(map(row, rows))}</table>"


def row(cells: tuple[object, ...]) -> str:
    """One row."""
    texts = [escape(str(cell)) for cell in cells]
    marked = [
        f'<td class="{text}">{text}</td>' if i == 1 else f"<td>{text}</td>" for i, text in enumerate(texts)
    ]
    return f"<tr>{''.join(marked)}</tr>"
