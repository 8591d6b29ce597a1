"""Takes away what a process does not need: capabilities, new privileges, memory.

Sources: capabilities(7), prctl(2), capget(2), setrlimit(2), proc_pid_oom_score_adj(5).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = (
    1,
    24,
    36,
    38,
    47,
)
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITY_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = {name: number for number, name in enumerate(CAPABILITY_NAMES.split())}
LIBC = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, argument: int = 0) -> None:
    """Change an attribute of this process, as the manual page of the same name says.

    Raises:
        OSError: the kernel refused it.
    """
    if LIBC.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {argument})")


def die_with_parent(parent: int) -> None:
    """Be killed when the process `parent` ends; if it ended already, end now. prctl(2) PR_SET_PDEATHSIG."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind; prctl(2) PR_SET_CHILD_SUBREAPER."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def held() -> int:
    """This process's permitted capabilities as a bit set."""
    data = (ctypes.c_uint32 * 6)()
    if LIBC.capget(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), data):
        raise OSError(ctypes.get_errno(), "capget")
    return int(data[1]) | int(data[4]) << 32


def keep_capabilities(names: Iterable[str]) -> None:
    """Drop every capability but `names` (such as CAP_SYSLOG), for good, and gain none by executing anything.

    What the process does not have is not given to it. Only this thread is concerned: call it before others start.
    """
    wanted = sum(1 << CAPABILITIES[name.removeprefix("CAP_")] for name in names) & held()
    if held() & (1 << CAPABILITIES["SETPCAP"]):
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        for number in range(last + 1):
            if not wanted & (1 << number):
                prctl(PR_CAPBSET_DROP, number)
    if LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_CAP_AMBIENT)")
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    if LIBC.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)):
        raise OSError(ctypes.get_errno(), "capset")
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def limit_memory(growth: int) -> None:
    """Let this process's writable memory grow by `growth` bytes and no further: allocations fail then."""
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = data + growth if hard == resource.RLIM_INFINITY else min(hard, data + growth)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def prefer_for_oom_kill(by: int) -> None:
    """Have the kernel's OOM killer take this process `by` points before its parent; proc_pid_oom_score_adj(5)."""
    path = Path("/proc/self/oom_score_adj")
    path.write_text(str(min(1000, int(path.read_text()) + by)))
