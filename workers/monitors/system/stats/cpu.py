"""What the processors do: load, time by state, processes and interrupts."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from workers.monitors.system.stats.source import Found, Source, counter, gauge

RUNNABLE = gauge("cpu_runnable_task_count", "Tasks that ran or waited, on average over one minute")
LOADS = (
    gauge("cpu_load_1m", "Load average over 1 minute"),
    gauge("cpu_load_5m", "Load average over 5 minutes"),
    gauge("cpu_load_15m", "Load average over 15 minutes"),
)
USAGE = counter("cpu_usage_time", "Time of all processors by state, in seconds", "state")
STAGES = counter("system_cpu_stat", "Time of one processor by stage, in seconds", "cpu", "stage")
FORKS = counter("system_processes_total", "Processes and threads that were started since boot")
RUNNING = gauge("system_procs_running", "Tasks that run or could run")
BLOCKED = gauge("system_procs_blocked", "Tasks that wait for I/O")
INTERRUPTS = counter("system_interrupts_total", "Interrupts since boot")
OF_STAT = (USAGE, STAGES, FORKS, RUNNING, BLOCKED, INTERRUPTS)
METRICS = (RUNNABLE, *LOADS, *OF_STAT)

STATE_NAMES = (
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "irq",
    "softirq",
    "steal",
    "guest",
    "guest_nice",
)
STAGE_NAMES = {"irq": "iRQ", "softirq": "softIRQ", "guest_nice": "guestNice"}
"""Stages that are not called as states are."""
NUMBERS = {"processes": FORKS, "procs_running": RUNNING, "procs_blocked": BLOCKED, "intr": INTERRUPTS}


def sources(proc: Path) -> tuple[Source, ...]:
    """The files below /proc that these metrics are read from."""
    loadavg, stat = proc / "loadavg", proc / "stat"
    return (
        Source(loadavg, (RUNNABLE, *LOADS), partial(loads, loadavg)),
        Source(stat, OF_STAT, partial(counts, stat)),
    )


def loads(path: Path) -> Found:
    """The load averages; proc_loadavg(5)."""
    averages = [float(word) for word in path.read_text().split()[:3]]
    yield RUNNABLE(averages[0])
    for average, metric in zip(averages, LOADS, strict=True):
        yield metric(average)


def counts(path: Path) -> Found:
    """Times and counters since boot; proc_stat(5). Time waited for I/O may fall by a little, as the kernel's does."""
    for line in path.read_text().splitlines():
        name, *words = line.split(maxsplit=1 + len(STATE_NAMES))
        if name == "cpu":
            for state, seconds in times(words).items():
                yield USAGE(seconds, state=state)
        elif name.startswith("cpu"):
            for state, seconds in times(words).items():
                yield STAGES(seconds, cpu=name, stage=STAGE_NAMES.get(state, state))
        elif name in NUMBERS:
            yield NUMBERS[name](int(words[0]))


def times(words: list[str]) -> dict[str, float]:
    """Seconds by state, of what /proc/stat tells in clock ticks; guest time is part of user time, too."""
    ticks = os.sysconf("SC_CLK_TCK")
    return {state: int(word) / ticks for state, word in zip(STATE_NAMES, words, strict=False)}
