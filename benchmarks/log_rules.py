"""CPU for each line of the kernel's log with 40 rules: reading, parsing, matching; beside it the same rules with `re`."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from benchmarks.figures import show
from workers.monitors.logs.kmsg import KernelLog, numbers, parse
from workers.monitors.logs.rules import Matcher, Rule, rule_set

LINES = 2000
TEXT = "usb 1-1.{0}: new high-speed USB device number {0} using xhci_hcd, idVendor=0x1d6b, bcdDevice= 6.{0}"


def rules() -> list[Rule]:
    """40 rules: the built-in ones and more of their kind."""
    words = ("nvme", "mce", "edac", "thermal", "xfs", "btrfs", "nfs", "md", "scsi", "iwlwifi")
    more = [
        Rule(f"r{i}", rf"{words[i % 10]}{i}: (?:error|timeout|reset) on (?P<device>\S+) after \d+ ms")
        for i in range(40)
    ]
    return [*rule_set("kernel"), *more][:40]


def main() -> None:
    """Print the figures."""
    chosen = rules()
    log, matcher = KernelLog(Path("/dev/kmsg"), numbers(Path("/dev/kmsg"), 0.0)[1]), Matcher(chosen)
    used, count = 0.0, 0
    for first in range(0, LINES, 10):
        # The kernel takes ten lines from one open file before it limits their rate (printk_devkmsg).
        with Path("/dev/kmsg").open("w") as kernel:
            for number in range(first, first + 10):
                kernel.write(f"<6>{os.getpid()} {TEXT.format(number)}\n")
                kernel.flush()
        began = time.process_time()
        for line in log.read(LINES):
            matcher.hits(line.text)
            count += 1
        used += time.process_time() - began
    show(
        f"CPU per kernel line, {len(chosen)} rules, RE2 ({count} lines)",
        f"{used / count * 1e6:.2f} us",
        "<= 8 us",
    )
    compiled = [re.compile(rule.pattern.encode()) for rule in chosen]
    records = [f"6,{i},{i},-;{TEXT.format(i)}\n".encode() for i in range(LINES)]
    began = time.process_time()
    for record in records:
        text = parse(record).text
        for pattern in compiled:
            pattern.search(text)
    show(
        "    the same rules with re, without reading", f"{(time.process_time() - began) / LINES * 1e6:.2f} us"
    )


if __name__ == "__main__":
    main()
