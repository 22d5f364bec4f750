"""What a server tells of itself to Prometheus."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from almanac.chat.engine.engine import Engine, Part, Ticket

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Meters(Collector):
    """A server's.

    Args:
        engine: whose pages, texts and tokens are counted.
    """

    def __init__(self, engine: Engine):
        self._engine = engine
        self._registry = CollectorRegistry()
        self._registry.register(self)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"almanac_chat_{name}_seconds", text, buckets=_SECONDS, registry=self._registry)

        self._first = seconds("time_to_first_token", "From asking to the first token.")
        self._between = seconds("inter_token", "Between tokens of an answer.")
        self._waited = seconds("queue", "From asking until a text begins to be computed.")
        self._whole = seconds("request", "From asking to the end of all answers.")
        self.answered = Counter(
            "almanac_chat_requests", "Requests by how they ended.", ["status"], registry=self._registry
        )

    def watch(self) -> "Watch":
        """Of one request."""
        return Watch(self._first, self._between, self._waited, self._whole)

    def text(self) -> bytes:
        """In Prometheus's form."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the engine knows itself."""
        counts, pool = self._engine.counts, self._engine.core.pool
        gauges = {
            "running": ("Texts that are being answered.", self._engine.running),
            "waiting": ("Texts that have not begun.", self._engine.waiting),
            "pages": ("Pages of keys and values.", pool.pages),
            "free_pages": ("Those that nobody uses.", pool.free),
            "cached_pages": ("Those that can be found again.", pool.cached),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"almanac_chat_{name}", text, value)
        counters = {
            "prompt_tokens": ("Tokens of prompts that were computed.", counts.prompt_tokens),
            "cached_tokens": ("Tokens of prompts that were found.", counts.cached_tokens),
            "drawn_tokens": ("Tokens of answers.", counts.drawn_tokens),
            "guessed_tokens": ("Tokens that were guessed.", counts.guessed),
            "right_guesses": ("Those that were taken.", counts.right),
            "steps": ("Steps.", counts.steps),
            "preemptions": ("Texts that gave their pages back.", self._engine.core.scheduler.preemptions),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(f"almanac_chat_{name}", text, value)


class Watch:
    """The times of one request.

    Args:
        first: histograms: of the time to the first token.
        between: of that between tokens.
        waited: of that in the queue.
        whole: of all.
    """

    def __init__(self, first: Histogram, between: Histogram, waited: Histogram, whole: Histogram):
        self._first, self._between, self._waited, self._whole = first, between, waited, whole
        self._last: dict[int, float] = {}

    def saw(self, ticket: Ticket, part: Part) -> None:
        """A piece of an answer came."""
        now = time.monotonic()
        if part.tokens:
            if part.answer in self._last:
                self._between.observe((now - self._last[part.answer]) / len(part.tokens))
            else:
                self._first.observe(now - ticket.asked)
                begun = ticket.sequences[part.answer].begun
                if begun is not None and part.answer == 0:
                    self._waited.observe(begun - ticket.asked)
            self._last[part.answer] = now

    def done(self, ticket: Ticket) -> None:
        """All answers ended."""
        self._whole.observe(time.monotonic() - ticket.asked)
