"""OpenTelemetry: names, values, retries, errors; nothing of what was said unless asked for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from gpt import Gpt, ServerError, ToolMessage, UserMessage
from gpt.otel import PROVIDERS, OpenTelemetry
from gpt.protocol.codec import decode_chunk
from gpt.testing import Fault, Scripted, no_waiting, serve
from gpt.testing.loopback import completion
from gpt.testing.scripted import chunk

# The names of the published list (spans and metrics of the client, release 1.41), as far as they are used here.
SPAN_NAMES = {
    "error.type", "gen_ai.operation.name", "gen_ai.output.type", "gen_ai.provider.name", "gen_ai.request.choice.count",
    "gen_ai.request.frequency_penalty", "gen_ai.request.max_tokens", "gen_ai.request.model", "gen_ai.request.presence_penalty",
    "gen_ai.request.seed", "gen_ai.request.stop_sequences", "gen_ai.request.stream", "gen_ai.request.temperature",
    "gen_ai.request.top_p", "gen_ai.response.finish_reasons", "gen_ai.response.id", "gen_ai.response.model",
    "gen_ai.response.time_to_first_chunk", "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_read.input_tokens",
    "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.usage.reasoning.output_tokens",
    "http.response.status_code", "server.address", "server.port",
}  # fmt: skip
CONTENT_NAMES = {"gen_ai.input.messages", "gen_ai.output.messages"}
METRIC_NAMES = {
    "gen_ai.client.operation.duration": "s",
    "gen_ai.client.token.usage": "{token}",
    "gen_ai.client.operation.time_to_first_chunk": "s",
    "gen_ai.client.operation.time_per_output_chunk": "s",
}


class Refusing(httpx.Client):
    """A client that answers 500 to everything, wherever it is sent."""

    def __init__(self) -> None:
        super().__init__(transport=httpx.MockTransport(lambda _: httpx.Response(500)))


class Collected:
    """What an OpenTelemetry hook gave."""

    def __init__(self, **settings: Any) -> None:
        self.spans_given = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans_given))
        self.hook = OpenTelemetry(tracers, MeterProvider([self.reader]), **settings)

    @property
    def spans(self) -> list[Any]:
        return list(self.spans_given.get_finished_spans())

    def metrics(self) -> dict[str, Any]:
        data: Any = self.reader.get_metrics_data()
        return {
            one.name: one for resource in data.resource_metrics for scope in resource.scope_metrics for one in scope.metrics
        }


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 20,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def test_span() -> None:
    """A call is one span with what was asked, where, and what came; each failed attempt is an event in it."""
    seen = Collected()
    with serve(
        completion("the Nile", usage=USAGE), faults=[Fault(reset="head", times=1), Fault(status=503, times=1)]
    ) as server:
        client = Gpt(server_url=server.url, on_event=seen.hook)
        with no_waiting():
            client.chat.complete(
                "secret question",
                model="m", temperature=0.5, top_p=0.9, frequency_penalty=0.1, presence_penalty=0.2, seed=7, n=2,
                max_tokens=9, stop=["x"], response_format={"type": "json_object"},
            )  # fmt: skip
    (span,) = seen.spans
    assert ("chat m", SpanKind.CLIENT) == (span.name, span.kind)
    assert span.attributes.keys() <= SPAN_NAMES
    assert {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "127.0.0.1", "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5, "gen_ai.request.top_p": 0.9, "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.presence_penalty": 0.2, "gen_ai.request.seed": 7, "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 9, "gen_ai.request.stop_sequences": ("x",), "gen_ai.output.type": "json",
        "gen_ai.request.stream": False, "gen_ai.response.id": "chatcmpl-1", "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",), "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 3, "gen_ai.usage.cache_creation.input_tokens": 1,
        "gen_ai.usage.reasoning.output_tokens": 5, "server.address": "127.0.0.1", "server.port": server.port,
    } == dict(span.attributes)  # fmt: skip
    assert [None, 503] == [event.attributes.get("http.response.status_code") for event in span.events]
    assert all(event.name == "gpt.retry" for event in span.events)
    assert "secret" not in span.to_json()


def test_stream() -> None:
    """A stream has its time to first chunk; the metrics have the names, units and labels of the list."""
    seen = Collected()
    usage = decode_chunk(json.dumps({"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}).encode())
    client = Gpt(backend=Scripted([chunk(""), chunk("a"), chunk("b"), chunk(None, "stop"), usage]), on_event=seen.hook)
    client.chat.stream("a", stop="x", max_completion_tokens=5).until_done()
    (span,) = seen.spans
    assert ("chat", SpanKind.INTERNAL, True) == (span.name, span.kind, span.attributes["gen_ai.request.stream"])
    assert "gpt" == span.attributes["gen_ai.provider.name"]
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"]
    metrics = seen.metrics()
    assert METRIC_NAMES == {name: one.unit for name, one in metrics.items()}
    tokens = {
        point.attributes["gen_ai.token.type"]: point.sum for point in metrics["gen_ai.client.token.usage"].data.data_points
    }
    assert {"input": 4, "output": 2} == tokens
    (point,) = metrics["gen_ai.client.operation.duration"].data.data_points
    assert (1, "chat") == (point.count, point.attributes["gen_ai.operation.name"])
    assert (0.01, 0.02) == point.explicit_bounds[:2]
    assert 81.92 == point.explicit_bounds[-1]


def test_error() -> None:
    """A failure is the span's status and type, and the duration's label; what had come of a stream is told too."""
    seen = Collected()
    client = Gpt(backend=Scripted(ServerError("no", 500)), on_event=seen.hook)
    with pytest.raises(ServerError):
        client.chat.complete("a")
    (span,) = seen.spans
    assert (StatusCode.ERROR, "no") == (span.status.status_code, span.status.description)
    assert ("ServerError", 500) == (span.attributes["error.type"], span.attributes["http.response.status_code"])
    (point,) = seen.metrics()["gen_ai.client.operation.duration"].data.data_points
    assert "ServerError" == point.attributes["error.type"]


def test_left() -> None:
    """A stream that is left ends its span."""
    seen = Collected()
    with Gpt(backend=Scripted("a b c"), on_event=seen.hook).chat.stream("a") as stream:
        next(stream)
    assert ["chat"] == [span.name for span in seen.spans]
    assert {} == seen.hook._spans


def test_content() -> None:
    """What was said is there only when asked for, as parts."""
    seen = Collected(capture_content=True)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    custom = {"id": "2", "type": "custom", "custom": {"name": "c", "input": "x"}}
    said: list[Any] = [
        UserMessage([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
        {"role": "assistant", "content": None, "tool_calls": [call, custom]},
        ToolMessage("5", "1"),
    ]
    Gpt(backend=Scripted("yes"), on_event=seen.hook).chat.complete(said)
    (span,) = seen.spans
    assert [
        {"role": "user", "parts": [{"type": "text", "content": "hi"}, {"type": "image_url"}]},
        {"role": "assistant", "parts": [
            {"type": "tool_call", "id": "1", "name": "f", "arguments": "{}"},
            {"type": "tool_call", "id": "2", "name": "c", "arguments": "x"}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "5"}]},
    ] == json.loads(span.attributes["gen_ai.input.messages"])  # fmt: skip
    answered = [{"role": "assistant", "parts": [{"type": "text", "content": "yes"}], "finish_reason": "stop"}]
    assert answered == json.loads(span.attributes["gen_ai.output.messages"])
    assert span.attributes.keys() <= SPAN_NAMES | CONTENT_NAMES


@pytest.mark.parametrize(("host", "expected"), [*PROVIDERS.items(), ("x.openai.azure.com", "azure.ai.openai"), ("h", "h")])
def test_providers(host: str, expected: str) -> None:
    """Who answers is named as the conventions name them, else by the host."""
    seen = Collected()
    client = Gpt(server_url=f"http://{host}:1/v1", client=Refusing(), api_key="k", on_event=seen.hook, max_retries=0)
    with pytest.raises(ServerError):
        client.chat.complete("a", model="m")
    assert expected == seen.spans[0].attributes["gen_ai.provider.name"]
