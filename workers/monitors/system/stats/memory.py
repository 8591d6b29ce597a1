"""What memory is used for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from workers.monitors.system.stats.source import Found, Source, gauge

BYTES = gauge("memory_bytes_used", "Memory by use, in bytes; all states together are the whole", "state")
PERCENT = gauge(
    "memory_percent_used", "Memory that is neither free nor a cache, in percent of the whole", "state"
)
ANONYMOUS = gauge("memory_anonymous_used", "Anonymous memory, in bytes", "state")
PAGE_CACHE = gauge("memory_page_cache_used", "Page cache, in bytes", "state")
DIRTY = gauge("memory_dirty_used", "Memory that waits to be written, or is being written, in bytes", "state")
UNEVICTABLE = gauge("memory_unevictable_used", "Memory that can't be reclaimed, in bytes")
METRICS = (BYTES, PERCENT, ANONYMOUS, PAGE_CACHE, DIRTY, UNEVICTABLE)

NOT_USED = {"MemFree": "free", "Buffers": "buffered", "Cached": "cached", "Slab": "slab"}
STATES = {
    **{name: (BYTES, state) for name, state in NOT_USED.items()},
    "Active(anon)": (ANONYMOUS, "active"),
    "Inactive(anon)": (ANONYMOUS, "inactive"),
    "Active(file)": (PAGE_CACHE, "active"),
    "Inactive(file)": (PAGE_CACHE, "inactive"),
    "Dirty": (DIRTY, "dirty"),
    "Writeback": (DIRTY, "writeback"),
}


def sources(proc: Path) -> tuple[Source, ...]:
    """The file below /proc that these metrics are read from."""
    path = proc / "meminfo"
    return (Source(path, METRICS, partial(read, path)),)


def read(path: Path) -> Found:
    """Sizes by state; proc_meminfo(5)."""
    sizes = meminfo(path.read_text())
    for name, (metric, state) in STATES.items():
        if name in sizes:
            yield metric(sizes[name], state=state)
    if "Unevictable" in sizes:
        yield UNEVICTABLE(sizes["Unevictable"])
    if sizes.get("MemTotal") and sizes.keys() >= NOT_USED.keys():
        total = sizes["MemTotal"]
        used = max(0, total - sum(sizes[name] for name in NOT_USED))
        yield BYTES(used, state="used")
        yield PERCENT(100 * used / total, state="used")


def meminfo(text: str) -> dict[str, int]:
    """The sizes in the text of /proc/meminfo, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {name.rstrip(":"): int(number) * 1024 for name, number, *unit in lines if unit == ["kB"]}
