"""Whether the kernel is in good health: what tainted it, errors of memory, and whether a newer one waits for a reboot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from nodedoctor.duration import Duration, seconds
from nodedoctor.host import Host
from nodedoctor.monitor import ConditionType, Finding, Gauge, Monitor, Observation, Options, counter
from nodedoctor.types import Severity
from nodedoctor.words import listed
from workers.growth import Growth

TAINTED = ConditionType(
    "KernelTainted", reason="KernelBroke", ok_reason="KernelSound", severity=Severity.WARNING
)
REBOOT = ConditionType(
    "RebootRequired", reason="UpdatesWaitForReboot", ok_reason="NoRebootRequired", severity=Severity.WARNING
)
MEMORY = ConditionType(
    "MemoryErrors",
    reason="UncorrectedMemoryErrors",
    ok_reason="NoMemoryErrors",
    warning_reason="ManyCorrectedMemoryErrors",
)
ENTROPY = Gauge("entropy_available_bits", "Entropy that the kernel has; always 256 since Linux 5.18")
TAINT = Gauge("kernel_taint", "All that has tainted the kernel since boot, as a number of flags; 0: nothing")
TAINT_FLAG = Gauge("kernel_taint_flag", "1 for each flag that taints the kernel", ("flag", "meaning"))
REBOOT_REQUIRED = Gauge("reboot_required", "1 if the distribution says that updates wait for a reboot")
BOOT_TIME = Gauge("boot_time_seconds", "When the machine was booted, since the epoch")
HUNG_TASKS = counter("hung_tasks_total", "Tasks that the kernel has found hung since boot")
MEMORY_ERRORS = counter(
    "memory_errors_total", "Errors that a memory controller has reported", ("controller", "kind")
)
FLAGS = {
    "P": "proprietary module",
    "F": "module loaded by force",
    "S": "processor or system out of specification",
    "R": "module unloaded by force",
    "M": "machine check exception",
    "B": "bad page",
    "U": "requested by a user",
    "D": "oops or BUG",
    "A": "ACPI table overridden",
    "W": "kernel warning",
    "C": "staging driver",
    "I": "workaround for a firmware bug",
    "O": "module from out of tree",
    "E": "unsigned module",
    "L": "soft lockup",
    "K": "live patch",
    "X": "taint of the distribution's own",
    "T": "randomized structures",
    "N": "test inside the kernel",
    "J": "debug operation of fwctl",
}
"""Letters and meanings, bit 0 first; Documentation/admin-guide/tainted-kernels.rst."""


class KernelOptions(Options, frozen=True):
    """What is worth a condition."""

    taint_flags: tuple[str, ...] = ("M", "B", "D", "L")
    """Letters of the taint flags that are a problem; by default those that mean that something broke."""
    reboot_condition: bool = False
    """Report RebootRequired too; else there is the metric alone."""
    corrected_errors: int = 100
    """So many corrected errors of one memory controller within `memoryErrorsWithin` are warned of."""
    memory_errors_within: Duration = "1h"
    """How long an error of memory counts; one that was not corrected is a problem for so long."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Letters that are no flag, and numbers that can never be right."""
        for index, flag in enumerate(self.taint_flags):
            if flag not in FLAGS:
                yield f"taintFlags[{index}]", f"found {flag!r}, allowed: one of {' '.join(FLAGS)}"
        if self.corrected_errors < 1:
            yield "correctedErrors", f"found {self.corrected_errors}, allowed: 1 or more"
        if seconds(self.memory_errors_within) <= 0:
            yield "memoryErrorsWithin", f"found {self.memory_errors_within!r}, allowed: more than 0"


class KernelMonitor(Monitor[KernelOptions]):
    """Looks at taint flags, memory controllers, and what a distribution leaves behind when it wants a reboot.

    Reads /proc/sys/kernel/tainted (Documentation/admin-guide/tainted-kernels.rst), the counters of EDAC
    (Documentation/admin-guide/ras.rst), /run/reboot-required of Debian and Ubuntu and /run/reboot-needed of SUSE. What
    a machine does not have, such as EDAC in a virtual one, is left out.
    """

    kind, options_type = "kernel-health-check", KernelOptions
    conditions = (TAINTED, MEMORY, REBOOT)
    metrics = (ENTROPY, TAINT, TAINT_FLAG, REBOOT_REQUIRED, BOOT_TIME, HUNG_TASKS, MEMORY_ERRORS)
    timeout = 5.0

    def __init__(self, name: str, options: KernelOptions, host: Host | None = None) -> None:
        super().__init__(name, options, host)
        self.growths: dict[tuple[str, str], Growth] = {}

    @classmethod
    def conditions_of(cls, name: str, options: KernelOptions) -> tuple[ConditionType, ...]:  # noqa: ARG003 - see base
        """RebootRequired only if it is asked for."""
        return cls.conditions if options.reboot_condition else (TAINTED, MEMORY)

    def check(self) -> Iterator[Observation]:
        """Look at the kernel, at memory, then at the files of the distribution."""
        kernel = self.host.proc / "sys/kernel"
        for gauge, path in ((ENTROPY, "random/entropy_avail"), (HUNG_TASKS, "hung_task_detect_count")):
            value = number(kernel / path)
            if value is not None:
                yield gauge(value)
        yield BOOT_TIME(boot_time((self.host.proc / "stat").read_text()))
        yield from self.check_taint(number(kernel / "tainted"))
        yield from self.check_memory()
        yield from self.check_reboot()

    def check_taint(self, taint: int | None) -> Iterator[Observation]:
        """Whether anything that matters has tainted the kernel."""
        if taint is None:
            yield TAINTED.unknown("there is no /proc/sys/kernel/tainted here", "NoTaintFlags")
            return
        flags = flags_of(taint)
        yield TAINT(taint)
        for flag, meaning in flags.items():
            yield TAINT_FLAG(1, flag=flag, meaning=meaning)
        broken = [
            f"{meaning} ({flag})" for flag, meaning in flags.items() if flag in self.options.taint_flags
        ]
        text = f"tainted since boot by {', '.join(broken)}: see the kernel's log for the cause, then reboot"
        yield TAINTED.when(bool(broken), text)

    def check_memory(self) -> Iterator[Observation]:
        """Whether memory controllers report errors; without any that the kernel can ask, there are none to tell of."""
        yield MEMORY.when(False, "")
        for folder in sorted((self.host.sys / "devices/system/edac/mc").glob("mc[0-9]*")):
            for kind, file in (("uncorrected", "ue_count"), ("corrected", "ce_count")):
                count = number(folder / file)
                if count is not None:
                    yield MEMORY_ERRORS(count, controller=folder.name, kind=kind)
                    yield self.memory_errors(folder.name, kind, count)

    def memory_errors(self, controller: str, kind: str, count: int) -> Finding:
        """Whether `controller`, which has counted `count` errors of a `kind`, had too many of them lately."""
        growth = self.growths.setdefault((controller, kind), Growth())
        within = self.options.memory_errors_within
        lately = growth.within(seconds(within), count, time.monotonic())
        if kind == "uncorrected":
            return MEMORY.when(lately > 0, f"memory controller {controller} could not correct an error")
        limit = self.options.corrected_errors
        text = f"memory controller {controller} has corrected {limit} errors or more within {within}"
        return MEMORY.warn_when(lately >= limit, text)

    def check_reboot(self) -> Iterator[Observation]:
        """Whether the distribution wants a reboot, and for which packages."""
        required = [p for p in ("/run/reboot-required", "/run/reboot-needed") if self.host.path(p).exists()]
        yield REBOOT_REQUIRED(int(bool(required)))
        if self.options.reboot_condition:
            packages = packages_of(self.host.path("/run/reboot-required.pkgs"))
            text = f"{' and '.join(required)}: updates take effect after a reboot" + (
                f" ({packages})" if packages else ""
            )
            yield REBOOT.when(bool(required), text)


def number(path: Path) -> int | None:
    """The number in a file of the kernel, or None where there is no such file."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return None


def flags_of(taint: int) -> dict[str, str]:
    """Letter and meaning of each flag in `taint`; one that is newer than the table has its bit for a letter."""
    known = list(FLAGS.items())
    set_bits = [bit for bit in range(taint.bit_length()) if taint >> bit & 1]
    return dict(known[bit] if bit < len(known) else (str(bit), "unknown") for bit in set_bits)


def boot_time(stat: str) -> int:
    """When the machine was booted, from the text of /proc/stat; proc_stat(5)."""
    return next(int(line.split()[1]) for line in stat.splitlines() if line.startswith("btime "))


def packages_of(path: Path) -> str:
    """The packages that ask for a reboot, each once and cut to a few; empty where they are not known."""
    try:
        return listed(path.read_text().split())
    except FileNotFoundError:
        return ""
