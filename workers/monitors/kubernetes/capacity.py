"""How much room the node has left: for pods, and on the disks whose shortage makes the kubelet evict them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator

import msgspec

from nodedoctor.duration import Duration, seconds
from nodedoctor.errors import Undetermined
from nodedoctor.host import Host
from nodedoctor.monitor import (
    ConditionType,
    Gauge,
    Monitor,
    Observation,
    Options,
    Percent,
    order_faults,
)
from nodedoctor.types import Severity
from workers.cri import FAILURES, Runtime, endpoint_faults, explained, find_endpoint
from workers.kubelet import Kubelet, kubelet_of

PODS_LOW = ConditionType(
    "PodCapacityLow",
    reason="NodeAlmostFullOfPods",
    ok_reason="RoomForPods",
    warning_reason="NodeGettingFullOfPods",
    severity=Severity.WARNING,
)
STORAGE_LOW = ConditionType(
    "EphemeralStorageLow",
    reason="CloseToEviction",
    ok_reason="StorageAvailable",
    reasons=("CloseToEviction", "BelowEvictionThreshold"),
)
IMAGES_LOW = ConditionType(
    "ImageFilesystemLow",
    reason="CloseToEviction",
    ok_reason="ImageStorageAvailable",
    reasons=("CloseToEviction", "BelowEvictionThreshold"),
)
PODS = Gauge("pods_running", "Pods whose sandbox the container runtime calls ready")
MOST_PODS = Gauge("pods_allocatable", "Pods that the kubelet takes at most")
LEFT = Gauge("eviction_signal_ratio", "Share that is left of what the kubelet watches", ("signal",))
LIMIT = Gauge(
    "eviction_threshold_ratio", "Share left at which the kubelet evicts, 0 if it does not", ("signal",)
)
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)(%|[kMGTP]|[KMGTP]i)?\Z")


class CapacityOptions(Options, frozen=True):
    """When room is short, and where to ask."""

    pod_warning_threshold: Percent = 85
    """Percent of the pods that the node takes at which to warn."""
    pod_critical_threshold: Percent = 95
    """Percent of the pods that the node takes that is a problem."""
    eviction_margin: Percent = 5
    """A disk is short if so many percent of it, or fewer, are left above the amount at which the kubelet evicts."""
    max_pods: int = 0
    """Pods that the node takes; by default, 0, what the kubelet was told."""
    endpoint: str = ""
    """The runtime's socket on the node; by default what the kubelet was told, else where runtimes usually listen."""
    request_timeout: Duration = "5s"
    """For all that the runtime is asked in one check."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """The warning comes before the problem; what can't be asked."""
        yield from order_faults(
            "podWarningThreshold",
            self.pod_warning_threshold,
            "podCriticalThreshold",
            self.pod_critical_threshold,
        )
        if self.max_pods < 0:
            yield "maxPods", f"found {self.max_pods}, allowed: 0 or more"
        yield from endpoint_faults(self.endpoint)
        if seconds(self.request_timeout) <= 0:
            yield "requestTimeout", f"found {self.request_timeout!r}, allowed: more than 0"


class Room(msgspec.Struct, frozen=True):
    """One of the kubelet's eviction signals: the share left, and at which it evicts. Ratios of the whole."""

    signal: str
    left: float
    limit: float


class CapacityMonitor(Monitor[CapacityOptions]):
    """Compares pods with what the kubelet takes, and the disks that it watches with where it evicts.

    Pods are counted by the runtime, as ready sandboxes (CRI v1, ListPodSandbox): that costs the API server nothing, and
    those that have ended are not among them. What is left of disks is reckoned as the kubelet does (Kubernetes,
    "Node-pressure Eviction", signals nodefs and imagefs), by statvfs(3), with its own thresholds, hard and soft.
    """

    kind, options_type = "capacity-health-check", CapacityOptions
    conditions = (PODS_LOW, STORAGE_LOW, IMAGES_LOW)
    metrics = (PODS, MOST_PODS, LEFT, LIMIT)
    interval = 60.0
    timeout = 15.0

    def check(self) -> Iterator[Observation]:
        """Look at the kubelet's disk, then ask the runtime for the rest."""
        kubelet = kubelet_here(self.host)
        yield from self.check_disk(STORAGE_LOW, kubelet, "nodefs", kubelet.root)
        try:
            runtime = self.runtime()
        except (Undetermined, PermissionError) as error:
            reason = error.reason if isinstance(error, Undetermined) else "PermissionDenied"
            yield PODS_LOW.unknown(str(error), reason)
            yield IMAGES_LOW.unknown(str(error), reason)
            return
        yield from self.asked(PODS_LOW, lambda: self.check_pods(kubelet, runtime))
        yield from self.asked(IMAGES_LOW, lambda: self.check_images(kubelet, runtime))

    def runtime(self) -> Runtime:
        """The runtime, with a deadline for all that it will be asked."""
        endpoint = find_endpoint(self.host, self.options.endpoint)
        if not endpoint:
            raise Undetermined("no container runtime's socket is on this machine", "NoRuntime")
        deadline = time.monotonic() + seconds(self.options.request_timeout)
        return Runtime(self.host.path(endpoint.path), deadline)

    def asked(
        self, condition: ConditionType, look: Callable[[], Iterator[Observation]]
    ) -> Iterator[Observation]:
        """What `look` finds; a runtime that fails is another monitor's problem and leaves this condition unknown."""
        try:
            yield from look()
        except PermissionError:
            text = (
                "the container runtime's socket is for root: run as root, or in the group that it belongs to"
            )
            yield condition.unknown(text, "PermissionDenied")
        except FAILURES as error:
            failure = explained(error, self.options.request_timeout)
            yield condition.unknown(f"the container runtime {failure.message}", failure.reason)

    def check_pods(self, kubelet: Kubelet, runtime: Runtime) -> Iterator[Observation]:
        """Compare the pods that run with those that the kubelet takes."""
        most = self.options.max_pods or kubelet.settings.pods(os.cpu_count() or 1)
        pods = runtime.ready_pods()
        yield PODS(pods)
        yield MOST_PODS(most)
        yield PODS_LOW.graded(
            100 * pods / most if most else 100.0,
            self.options.pod_warning_threshold,
            self.options.pod_critical_threshold,
            lambda limit: (
                f"pods: {limit:g} % of the {most} that the kubelet takes run, and soon none can start"
            ),
        )

    def check_images(self, kubelet: Kubelet, runtime: Runtime) -> Iterator[Observation]:
        """Look at the disks that hold images."""
        folders = runtime.image_folders()
        if not folders:
            yield IMAGES_LOW.unknown("the container runtime does not tell where its images are", "NotTold")
        for folder in folders:
            yield from self.check_disk(IMAGES_LOW, kubelet, "imagefs", folder)

    def check_disk(
        self, condition: ConditionType, kubelet: Kubelet, name: str, folder: str
    ) -> Iterator[Observation]:
        """Compare what is left of the disk with the node's `folder` with where the kubelet evicts."""
        try:
            disk = os.statvfs(self.host.path(folder))
        except OSError as error:
            reason = "PermissionDenied" if isinstance(error, PermissionError) else "NoFolder"
            yield condition.unknown(f"{folder} can't be looked at: {error.strerror}", reason)
            return
        for room in rooms(kubelet, name, disk):
            yield LEFT(room.left, signal=room.signal)
            yield LIMIT(room.limit, signal=room.signal)
            margin = self.options.eviction_margin
            text = f"{folder}: {room.signal} is "
            if room.left < room.limit:
                text += "below the threshold at which the kubelet evicts pods"
                yield condition.when(True, text, "BelowEvictionThreshold")
            else:
                text += f"within {margin:g} % of the threshold at which the kubelet evicts pods"
                close = room.limit > 0 and room.left <= room.limit + margin / 100
                yield condition.when(close, text)


def kubelet_here(host: Host) -> Kubelet:
    """This machine's kubelet.

    Raises:
        Undetermined: it has none, or one whose settings can't be understood.
    """
    try:
        kubelet = kubelet_of(host)
    except ValueError as error:
        raise Undetermined(
            f"the kubelet's settings can't be understood: {error}", "KubeletConfigInvalid"
        ) from error
    if not kubelet:
        raise Undetermined("no kubelet is on this machine", "NoKubelet")
    return kubelet


def rooms(kubelet: Kubelet, name: str, disk: os.statvfs_result) -> Iterator[Room]:
    """What is left of a disk by the signals that are called after `name`; file systems without inodes have one less."""
    size = disk.f_blocks * disk.f_frsize
    sides = (("available", disk.f_bavail * disk.f_frsize, size), ("inodesFree", disk.f_ffree, disk.f_files))
    for side, left, whole in sides:
        if whole:
            signal = f"{name}.{side}"
            limits = (share(amount, whole) for amount in kubelet.settings.thresholds(signal))
            yield Room(signal, left / whole, max(limits, default=0.0))


def share(amount: str, whole: int) -> float:
    """An amount as the kubelet is told it, such as 10% or 1Gi, as a share of `whole`.

    Raises:
        Undetermined: it is none.
    """
    found = AMOUNT.match(amount)
    if not found:
        raise Undetermined(
            f"the kubelet's eviction threshold {amount!r} can't be understood", "KubeletConfigInvalid"
        )
    number, unit = float(found[1]), found[2] or ""
    return number / 100 if unit == "%" else number * UNITS[unit] / whole
