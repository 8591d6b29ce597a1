"""What the API server's monitor can be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from nodedoctor.duration import Duration, seconds
from nodedoctor.monitor import Options


class APIServerOptions(Options, frozen=True):
    """Which API server to ask, and what of it is good enough."""

    url: str = ""
    """https://HOST[:PORT]; empty: the pod's service account, else settings.kubeconfig, else $KUBECONFIG."""
    ca_file: str = ""
    """With `url`: certificates to trust instead of the system's."""
    token_file: str = ""
    """With `url`: a file with a bearer token, read anew for each request; without one it asks as nobody."""
    request_timeout: Duration = "5s"
    """For a whole request and its answer."""
    slow_at: Duration = "1s"
    """Half of the last answers taking longer is warned of."""
    latency_window: Annotated[int, Meta(ge=5, le=1000)] = 20
    """Answers from which percentiles are taken; below 5 nothing is called slow."""
    skew_threshold: Duration = "5s"
    """Clocks of this node and of the API server that differ by more are warned of."""
    certificate_warning: Duration = "7d"
    """The API server's certificate is warned of so long before it expires."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """Durations that are none, an address that can't be, files without the address that they are for."""
        for option, value in (
            ("requestTimeout", self.request_timeout),
            ("slowAt", self.slow_at),
            ("skewThreshold", self.skew_threshold),
            ("certificateWarning", self.certificate_warning),
        ):
            if seconds(value) <= 0:
                yield option, f"found {value!r}, allowed: more than 0"
        if self.url and not usable(self.url):
            yield "url", f"found {self.url!r}, allowed: https://HOST[:PORT], without credentials"
        for option, value in (("caFile", self.ca_file), ("tokenFile", self.token_file)):
            if value and not self.url:
                yield option, "is used with url alone, which is empty"


def usable(url: str) -> bool:
    """Whether `url` is an address that a token may be sent to."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        return False
