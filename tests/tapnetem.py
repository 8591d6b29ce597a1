"""A cable between two network namespaces that loses packets and takes its time: two taps, joined in user space.

A stand-in for tc-netem(8), which not every kernel has.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from network_support import NUMBERS, give_up, ip

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000


class Cable:
    """Its `delay` in seconds holds for each direction, its `loss` (0 to 1) for the first end's packets."""

    def __init__(self, first: int, second: int) -> None:
        self.ends = {first: second, second: first}
        self.lossy = first
        self.delay = self.loss = 0.0
        self.owed = 0.0
        self.stopped, self.stop = os.pipe()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        """Carry packets until told to stop."""
        on_the_way: list[tuple[float, int, int, bytes]] = []
        number = 0
        while True:
            wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
            ready, _, _ = select.select([*self.ends, self.stopped], [], [], wait)
            if self.stopped in ready:
                return
            for end in ready:
                number += 1
                packet = os.read(end, 1 << 16)
                if not self.lost(end, packet):
                    due = time.monotonic() + self.delay
                    heapq.heappush(on_the_way, (due, number, self.ends[end], packet))
            while on_the_way and on_the_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(on_the_way)
                os.write(end, packet)

    def lost(self, end: int, packet: bytes) -> bool:
        """Whether the next packet from `end` is lost: as many as asked for, evenly spread.

        What goes to everybody does not count: the kernel sends that when it likes.
        """
        if end != self.lossy or (packet[0] & 1 and self.loss < 1):
            return False
        self.owed += self.loss
        if self.owed < 1:
            return False
        self.owed -= 1
        return True

    def close(self) -> None:
        """Cut it."""
        os.close(self.stop)
        self.thread.join()
        for descriptor in (*self.ends, self.stopped):
            os.close(descriptor)


@contextmanager
def cable(first: str, second: str, name: str = "wire") -> Iterator[Cable]:
    """A cable between interfaces called `name` in two namespaces; both are up."""
    made = Cable(tap(first, name), tap(second, name))
    try:
        yield made
    finally:
        made.close()


def tap(namespace: str, name: str) -> int:
    """The descriptor of a new interface there."""
    first_name = f"ndtap{os.getpid() % 10000}x{next(NUMBERS)}"[:15]
    try:
        end = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH14x", first_name.encode(), IFF_TAP | IFF_NO_PI))
    except OSError as error:
        give_up(error)
    ip("link", "set", first_name, "netns", namespace, "name", name)
    ip("link", "set", name, "up", namespace=namespace)
    return end
