"""OpenTelemetry: a span for each call and the four client metrics, by the names of the GenAI conventions. Extra `otel`.

    from gpt.otel import OpenTelemetry
    client = Gpt(on_event=OpenTelemetry())

A span has an event for each attempt that failed. What was said is left out unless `capture_content` is true. Source: the
semantic conventions for generative AI, spans and metrics of the client, release 1.41 (all at stability level "Development").
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from gpt.errors import GptError, ResponseError
from gpt.layers.watch import CallEvent
from gpt.protocol.codec import history
from gpt.types import UNSET, ChatCompletion, ChatRequest
from gpt.version import __version__

try:
    from opentelemetry import metrics, trace
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode
except ImportError as error:
    raise ImportError('OpenTelemetry is not installed: pip install "gpt-in-the-box[otel]"') from error

PROVIDERS = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
"""Hosts, or what they end with, and the conventions' names of who answers there. Another is named by its host."""

SECONDS = [0.01 * 2**power for power in range(14)]
TOKENS = [4**power for power in range(14)]
"""Bounds of the histograms, as the conventions advise."""

_REQUEST = {
    "temperature": "temperature",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
}
"""Attributes below gen_ai.request, and the parameters that they come from."""


class OpenTelemetry:
    """A hook for `on_event`. Without arguments it uses the global providers. May be shared by clients and threads."""

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None, *, capture_content: bool = False) -> None:
        self._tracer = trace.get_tracer("gpt", __version__, tracer_provider)
        meter = metrics.get_meter("gpt", __version__, meter_provider)
        self._capture = capture_content
        self._spans: dict[int, _Open] = {}
        self._lock = threading.Lock()

        def histogram(name: str, unit: str, text: str, bounds: list[Any]) -> Any:
            return meter.create_histogram(f"gen_ai.client.{name}", unit, text, explicit_bucket_boundaries_advisory=bounds)

        self._duration = histogram("operation.duration", "s", "How long a call took.", SECONDS)
        self._tokens = histogram("token.usage", "{token}", "Tokens that a call took.", TOKENS)
        self._first_chunk = histogram("operation.time_to_first_chunk", "s", "Time to the first content of a stream.", SECONDS)
        self._each_chunk = histogram("operation.time_per_output_chunk", "s", "Time between two chunks of a stream.", SECONDS)

    def __call__(self, event: CallEvent) -> None:
        """Take in what happened."""
        if event.kind == "request":
            self._begin(event)
            return
        with self._lock:
            call = self._spans.get(event.call)
            if call is not None and event.kind in ("done", "error", "closed"):
                del self._spans[event.call]
        if call is None:
            return
        span = call.span
        match event.kind:
            case "retry":
                assert event.attempt is not None
                failed = event.attempt
                about: dict[str, Any] = {"gpt.reason": failed.reason, "gpt.wait": event.wait, "gpt.elapsed": failed.elapsed}
                if failed.status is not None:
                    about["http.response.status_code"] = failed.status
                span.add_event("gpt.retry", about)
            case "first_token":
                call.chunk_at = event.elapsed
                span.set_attribute("gen_ai.response.time_to_first_chunk", event.elapsed)
                self._first_chunk.record(event.elapsed, call.labels)
            case "chunk":
                if call.chunk_at is not None and event.elapsed > call.chunk_at:
                    self._each_chunk.record(event.elapsed - call.chunk_at, call.labels)
                    call.chunk_at = event.elapsed
            case _:
                self._end(call, event)

    def _begin(self, event: CallEvent) -> None:
        labels = _labels(event)
        kind = SpanKind.CLIENT if "server.address" in labels else SpanKind.INTERNAL
        model = labels.get("gen_ai.request.model")
        attributes = {**labels, **_asked(event.request), "gen_ai.request.stream": event.streamed}
        if self._capture:
            attributes["gen_ai.input.messages"] = _input(event.request)
        span = self._tracer.start_span(f"chat {model}" if model else "chat", kind=kind, attributes=attributes)
        with self._lock:
            self._spans[event.call] = _Open(span, labels)

    def _end(self, call: _Open, event: CallEvent) -> None:
        span, labels = call.span, dict(call.labels)
        if event.error is not None:
            labels["error.type"] = type(event.error).__name__
            span.set_attributes(_failed(event.error))
            span.set_status(Status(StatusCode.ERROR, event.error.message))
        completion = event.completion or (event.error.partial if event.error is not None else None)
        if completion is not None:
            if completion.model:
                labels["gen_ai.response.model"] = completion.model
            span.set_attributes(_answered(completion))
            if self._capture:
                span.set_attribute("gen_ai.output.messages", _output(completion))
            if completion.usage is not None:
                for kind, count in (("input", completion.usage.prompt_tokens), ("output", completion.usage.completion_tokens)):
                    self._tokens.record(count, {**labels, "gen_ai.token.type": kind})
        self._duration.record(event.elapsed, labels)
        span.end()


class _Open:
    """A call that has begun: its span, what its metrics are labelled with, and when its last chunk came."""

    def __init__(self, span: Span, labels: dict[str, Any]) -> None:
        self.span = span
        self.labels = labels
        self.chunk_at: float | None = None


def _labels(event: CallEvent) -> dict[str, Any]:
    """The attributes that spans and metrics share."""
    labels: dict[str, Any] = {"gen_ai.operation.name": "chat"}
    endpoint = getattr(event.backend, "endpoint", None)
    if endpoint is None:
        labels["gen_ai.provider.name"] = "gpt"  # this process
    else:
        host = endpoint.origin.host
        named = (name for end, name in PROVIDERS.items() if host == end or host.endswith(f".{end}"))
        labels["gen_ai.provider.name"] = next(named, host)
        labels["server.address"] = host
        labels["server.port"] = endpoint.origin.port
    if isinstance(event.request.model, str):
        labels["gen_ai.request.model"] = event.request.model
    return labels


def _asked(request: ChatRequest) -> dict[str, Any]:
    """What was asked, as far as it was given."""
    asked: dict[str, Any] = {}
    for name, parameter in _REQUEST.items():
        value = getattr(request, parameter)
        if isinstance(value, (int, float)):
            asked[f"gen_ai.request.{name}"] = value
    limit = request.max_tokens if request.max_completion_tokens in (UNSET, None) else request.max_completion_tokens
    if isinstance(limit, int):
        asked["gen_ai.request.max_tokens"] = limit
    if isinstance(request.n, int) and request.n != 1:
        asked["gen_ai.request.choice.count"] = request.n
    if request.stop is not UNSET and request.stop is not None:
        asked["gen_ai.request.stop_sequences"] = [request.stop] if isinstance(request.stop, str) else list(request.stop)
    format_ = request.response_format
    kind: Any = format_.get("type") if isinstance(format_, dict) else getattr(format_, "type", None)
    if isinstance(kind, str):
        asked["gen_ai.output.type"] = "json" if kind.startswith("json") else kind
    return asked


def _answered(completion: ChatCompletion) -> dict[str, Any]:
    """What came, as far as the server says it."""
    told: dict[str, Any] = {
        "gen_ai.response.id": completion.id,
        "gen_ai.response.model": completion.model,
        "gen_ai.response.finish_reasons": [choice.finish_reason for choice in completion.choices if choice.finish_reason],
    }
    usage = completion.usage
    if usage is not None:
        told["gen_ai.usage.input_tokens"] = usage.prompt_tokens
        told["gen_ai.usage.output_tokens"] = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            told["gen_ai.usage.cache_read.input_tokens"] = usage.prompt_tokens_details.cached_tokens
            told["gen_ai.usage.cache_creation.input_tokens"] = usage.prompt_tokens_details.cache_write_tokens
        if usage.completion_tokens_details is not None:
            told["gen_ai.usage.reasoning.output_tokens"] = usage.completion_tokens_details.reasoning_tokens
    return {name: value for name, value in told.items() if value not in (None, "", [])}


def _failed(error: GptError) -> dict[str, Any]:
    told: dict[str, Any] = {"error.type": type(error).__name__}
    if isinstance(error, ResponseError) and error.status_code:
        told["http.response.status_code"] = error.status_code
    return told


def _input(request: ChatRequest) -> str:
    """The messages, as the conventions have them: a role and parts each."""
    messages = []
    for message in history(request.messages):
        plain = msgspec.to_builtins(message)
        messages.append({"role": plain.get("role", "user"), "parts": _parts(plain)})
    return msgspec.json.encode(messages).decode()


def _output(completion: ChatCompletion) -> str:
    messages = [
        {
            "role": choice.message.role,
            "parts": _parts(msgspec.to_builtins(choice.message)),
            "finish_reason": choice.finish_reason,
        }
        for choice in completion.choices
    ]
    return msgspec.json.encode(messages).decode()


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a message: its texts, what it calls, and of another kind only the kind."""
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    result = message.get("role") == "tool"
    parts: list[dict[str, Any]] = []
    for part in content or ():
        if part.get("type") != "text":
            parts.append({"type": str(part.get("type"))})
        elif result:
            parts.append({"type": "tool_call_response", "id": message.get("tool_call_id"), "response": part["text"]})
        else:
            parts.append({"type": "text", "content": part["text"]})
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {"name": call["custom"]["name"], "arguments": call["custom"]["input"]}
        parts.append({"type": "tool_call", "id": call.get("id"), **function})
    return parts
