"""What the server counts, as Prometheus text.

What the conventions for generative AI have a name for goes under it, with underscores and the unit as Prometheus writes them:
`gen_ai.server.request.duration` is `gen_ai_server_request_duration_seconds`. The bounds of the histograms are the conventions'
own. What the engine counts is passed through as it is (`llamacpp:...`). Labels are few and bounded: a name that a caller makes
up is none. Source: OpenTelemetry semantic conventions, "Generative AI metrics", model server metrics.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpt.server.line import Line

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**power) for power in range(14))

_LABELS = ("gen_ai_operation_name", "gen_ai_response_model")
_CHAT = "chat"


class Metrics:
    """The counts of one application."""

    def __init__(self, line: Line) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds", "Time to the end of an answer.", (*_LABELS, "error_type"),
            buckets=DURATIONS, registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds", "Time to the first content of a stream, waiting included.", _LABELS,
            buckets=FIRST, registry=registry,
        )  # fmt: skip
        self._each = Histogram(
            "gen_ai_server_time_per_output_token_seconds", "Time for each token after the first.", _LABELS,
            buckets=EACH, registry=registry,
        )  # fmt: skip
        self._tokens = Histogram(
            "gen_ai_client_token_usage", "Tokens that a call took.", (*_LABELS, "gen_ai_token_type"),
            buckets=TOKENS, registry=registry,
        )  # fmt: skip
        self._requests = Counter(
            "gpt_http_requests",
            "Answers by status; those whose caller left before one have 499.",
            ("status",),
            registry=registry,
        )
        running = Gauge("gpt_slots_running", "Slots that are taken.", registry=registry)
        running.set_function(lambda: line.running)
        slots = Gauge("gpt_slots", "Slots that there are.", registry=registry)
        slots.set_function(lambda: line.slots)
        waiting = Gauge("gpt_calls_waiting", "Calls in the queue.", registry=registry)
        waiting.set_function(lambda: line.waiting)
        self.open = Gauge("gpt_streams_open", "Streams that are being sent.", registry=registry)

    def answered(self, status: int) -> None:
        """Count an answer."""
        self._requests.labels(str(status)).inc()

    def called(
        self,
        model: str,
        elapsed: float,
        *,
        error: str = "",
        first: float | None = None,
        prompt: int | None = None,
        completion: int | None = None,
    ) -> None:
        """Count a call of the model: seconds to its end and to its first content, and its tokens, where they are known."""
        self._duration.labels(_CHAT, model, error).observe(elapsed)
        if first is not None:
            self._first.labels(_CHAT, model).observe(first)
            if completion is not None and completion > 1:
                self._each.labels(_CHAT, model).observe((elapsed - first) / (completion - 1))
        for kind, count in (("input", prompt), ("output", completion)):
            if count is not None:
                self._tokens.labels(_CHAT, model, kind).observe(count)

    def text(self) -> bytes:
        """All of it, in the text format 0.0.4."""
        return generate_latest(self._registry)
