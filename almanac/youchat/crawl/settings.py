"""The dials of a crawl. Those that could trouble others (the delay, what is open besides the public web) have floors here, and are the
operator's: nothing that a user sends to an API becomes one of them."""

import math
from dataclasses import dataclass, field

from almanac.runtime.errors import UserError
from almanac.youchat.crawl.fetch import Limits

LEAST_DELAY = 1.0
"""s between two requests to a host that is not the operator's own."""


@dataclass(frozen=True)
class Settings:
    """How a crawl goes on, and where it ends."""

    pages: int = 100_000
    """Addresses that are ever asked for, in all; visiting one again does not count."""
    pages_per_host: int = 10_000
    """Addresses that are ever asked for, of one host."""
    depth: int = 20
    """Links from a seed; what lies deeper is left. Bounds calendars whose every page links to the next."""
    alike: int = 1_000
    """Addresses of a host that differ in their numbers only and are in no sitemap. Bounds calendars whose every page links to many."""
    wander: bool = False
    """Whether links to other hosts than the seeds' are followed."""
    sitemaps: bool = True
    """Whether the sitemaps that robots.txt names are read."""
    delay: float = LEAST_DELAY
    """s from the end of a response to the next request to its host, at least 1; a site's crawl-delay and twice the time that its last
    response took lengthen it."""
    own_delay: float = LEAST_DELAY
    """The same for hosts on the operator's list (`allow_hosts`), which are the operator's own: may be 0."""
    wait: float = 60.0
    """s ahead; what comes due later (a retry, the next visit) is left to the next run."""
    workers: int = 16
    """Hosts that are fetched from at the same time."""
    limits: Limits = field(default_factory=Limits)
    """What one response may cost."""
    contact: str = ""
    """Web or mail address that servers are told, so that they can complain."""

    def __post_init__(self) -> None:
        for name in ("delay", "own_delay"):
            if math.isinf(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}", "give seconds")
        if not self.delay >= LEAST_DELAY:
            raise UserError(
                f"a delay of {self.delay:g} s is too short for hosts of others",
                "give at least 1; `own_delay` is for your own hosts, which --allow-host names",
            )
        for name in ("pages", "pages_per_host", "alike", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}", "give at least 1")
        for name in ("own_delay", "wait", "depth"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}", "give 0 or more")
