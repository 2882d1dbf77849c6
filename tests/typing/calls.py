"""What calls take and give, to a type checker."""

from dataclasses import dataclass
from typing import Any, assert_type

import gpt.check
from gpt import (
    AsyncCache,
    AsyncFallback,
    AsyncGpt,
    AsyncLimit,
    AsyncListing,
    AsyncPage,
    AsyncParsedStream,
    AsyncRecord,
    AsyncReplay,
    AsyncToolStream,
    Cache,
    CacheStats,
    CallStep,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionDeleted,
    ChatRequest,
    ContentEvent,
    Cost,
    CustomToolCall,
    Fallback,
    FunctionDefinition,
    FunctionTool,
    Gpt,
    Limit,
    Local,
    Message,
    ModelList,
    Pace,
    Page,
    Parsed,
    ParsedStream,
    ParseError,
    Price,
    Prices,
    Record,
    Replay,
    ResultStep,
    StoredMessage,
    SystemMessage,
    Timeout,
    TokenCount,
    ToolCall,
    ToolRun,
    ToolStep,
    ToolStream,
    UsageTotals,
    UserMessage,
    parts,
    repeatable,
    tool,
)
from gpt.batch.jobs import Output, Task, read_output
from gpt.testing import AsyncScripted, Fault, FaultServer, Pause, Scripted, Stall, no_waiting, serve, tool_call
from gpt.testing import chunk as scripted_chunk

client = Gpt(server_url="http://h/v1", model="m", timeout=Timeout(connect=1), max_retries=2)
boxed = Gpt(backend=Local("x.gguf", context=8192, slots=4))
fitted = Gpt(server_url="http://h/v1", profile="vllm", adapt=True)
several = Gpt(backend=Fallback([client, (boxed, "m"), "local:", Local()], cool_down=5))

answer = client.chat.complete("hi", temperature=0, stop=["a"], body={"top_k": 4}, timeout=3)
assert_type(answer, ChatCompletion)
assert_type(answer.text, str)
assert_type(answer.message.content, str | None)
assert_type(answer.message.reasoning, str | None)
assert_type(client.models.list(), ModelList)
if answer.info is not None:
    assert_type(answer.info.adapted, tuple[str, ...])
    assert_type([entry.reason for entry in answer.info.entries], list[str])
    assert_type([entry.host for entry in answer.info.entries], list[str | None])
    assert_type([attempt.failed for attempt in answer.info.attempts], list[bool])

# Lists of one class, of several, and of dicts are all conversations; an answer's message goes back in.
users = [UserMessage("a"), UserMessage("b")]
client.chat.complete(users)
client.chat.complete([SystemMessage("s"), UserMessage("u"), {"role": "user", "content": "x"}, answer.message])
said: list[Message] = [UserMessage("a")]
said.append(answer.message)
client.chat.complete(said, tools=[FunctionTool(FunctionDefinition("f")), {"type": "web_search"}], tool_choice="auto")
client.chat.complete({"messages": said})

# Values that are not among the known ones pass.
client.chat.complete("hi", reasoning_effort="extreme", service_tier="platinum")

assert_type(client.chat.completions.create(messages=said), ChatCompletion)
for chunk in client.chat.completions.create(messages=said, stream=True):
    assert_type(chunk, ChatCompletionChunk)
    assert_type(chunk.text, str)

with client.chat.stream("hi") as stream:
    for text in stream.text_stream:
        assert_type(text, str)
    for event in stream:
        if event.type == "content":
            assert_type(event, ContentEvent)
            assert_type(event.snapshot, str)
        elif event.type == "tool_call":
            assert_type(event.snapshot, ToolCall | CustomToolCall)
        elif event.type == "done":
            assert_type(event.completion, ChatCompletion)
    assert_type(stream.completion, ChatCompletion)


@dataclass
class City:
    name: str


parsed = client.chat.parse("hi", into=City, reasks=1)
assert_type(parsed, Parsed[City])
assert_type(parsed.value.name, str)
assert_type(client.chat.parse("hi", into=list[int]).value, list[int])
assert_type(client.chat.parse("hi", into=int | str), Parsed[Any])
assert_type(client.chat.parse("hi", into={"type": "object"}), Parsed[Any])
with client.chat.stream("hi", into=City, partial="growing") as values:
    assert_type(values, ParsedStream[City])
    assert_type(values.parsed.value, City)

for call in answer.message.tool_calls or ():
    if isinstance(call, ToolCall):
        assert_type(call.function.arguments, str)


def double(x: int) -> int:
    return 2 * x


@tool(name="half", strict=True)
async def half(x: int) -> float:
    return x / 2


tools_run = client.chat.run_tools("hi", tools=[double, half, {"type": "function"}], max_turns=3, temperature=0)
assert_type(tools_run, ToolRun)
assert_type(tools_run.text, str)


def note(step: ToolStep) -> None:
    if step.type == "result":
        assert_type(step, ResultStep)


with client.chat.stream_tools("hi", tools=[double, half], max_total_tokens=100, on_step=note, temperature=0) as tool_stream:
    assert_type(tool_stream, ToolStream)
    for tool_event in tool_stream:
        if tool_event.type == "content":
            assert_type(tool_event, ContentEvent)
        elif tool_event.type == "answer":
            assert_type(tool_event.completion, ChatCompletion)
        elif tool_event.type == "call":
            assert_type(tool_event, CallStep)
            assert_type(tool_event.call, ToolCall | CustomToolCall)
        elif tool_event.type == "result":
            assert_type(tool_event, ResultStep)
        elif tool_event.type == "done":
            assert_type(tool_event.run, ToolRun)
    for text in tool_stream.text_stream:
        assert_type(text, str)
    assert_type(tool_stream.run, ToolRun)
    assert_type(tool_stream.messages, list[Any])
    assert_type(tool_stream.snapshot, ChatCompletion)
    assert_type(tool_stream.until_done(), ToolRun)
client.chat.run_tools([UserMessage([parts.image("a.png")])], tools=[])


count = client.chat.count_tokens("hi", model="m")
assert_type(count, TokenCount)
assert_type(client.usage, UsageTotals)
assert_type(client.cost_of(answer), Cost | None)
assert_type(client.cost_of(tools_run, parsed, answer), Cost | None)
assert_type(parsed.completions, tuple[ChatCompletion, ...])
client.cost_of("hi")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
try:
    client.chat.parse("hi", into=City)
except ParseError as no_value:
    assert_type(client.cost_of(no_value), Cost | None)
Gpt(prices=Prices({"m": Price(input=1, output="2.50")}))
cache = Cache(client.backend, "answers.sqlite", max_age=60, max_bytes=1 << 20, when=repeatable)
assert_type(cache.stats(), CacheStats)
cached = Gpt(backend=cache).chat.complete("hi")
if cached.info is not None:
    assert_type(cached.info.cached, bool)
pace = Pace(requests_per_minute=10, burst=60)
assert_type(pace.max_concurrent, int | None)
limited = Gpt(backend=Limit(Limit(client.backend, pace), requests_per_minute=10, tokens_per_minute=1e5, max_concurrent=3))
apart = Pace(input_tokens_per_minute=1e5, output_tokens_per_minute=0.5, max_concurrent=256, adapt_concurrency=True)
assert_type(apart.output_tokens_per_minute, float | None)
apart.change(output_tokens_per_minute=2e4, share=0.05)
Limit(client.backend, input_tokens_per_minute=10, adapt_concurrency=True)
Pace(share=0.05)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Limit(client.backend, requests=10)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
recorded = Gpt(backend=Record(cache, "talk.jsonl"))
replayed = Replay("talk.jsonl", strict=False, paced=True, recut=3)
assert_type(replayed.left, int)
assert_type(Gpt(backend=replayed).chat.complete("hi"), ChatCompletion)
assert_type(Replay.from_url("replay:talk.jsonl?recut=8&seed=7"), Replay)
AsyncReplay("talk.jsonl", recut=8, seed=7)
AsyncReplay("talk.jsonl", seeds=7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
script = Scripted(
    "a", tool_call("f", x=1), ["b", Pause(0.5), scripted_chunk("c", "stop")], ("d", Stall()), lambda asked: asked.model or ""
)
assert_type(script.asked, list[ChatRequest])
assert_type(tool_call("f", x=1), ToolCall)
AsyncGpt(backend=AsyncScripted("a"))
AsyncGpt(backend=script)
Scripted(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
with serve(script, faults=[Fault(slices=7, uneven=True, jitter=0.1, duplicate=0)], seed=1) as fault_server, no_waiting():
    assert_type(fault_server, FaultServer)
    fault_server.reply = replayed
serve(AsyncScripted("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


completions = client.chat.completions
listed = completions.list(after="c", limit=5, metadata={"a": "b"}, model="m", order="desc", timeout=5, extra_query={"x": "1"})
assert_type(listed, Page[ChatCompletion])
assert_type([one.text for one in listed], list[str])
assert_type(listed.data, list[ChatCompletion])
assert_type(listed.get_next_page(), Page[ChatCompletion])
assert_type([page.has_next_page() for page in listed.iter_pages()], list[bool])
assert_type(completions.retrieve("c"), ChatCompletion)
assert_type(completions.update("c", metadata=None, deadline=5), ChatCompletion)
assert_type(completions.delete("c"), ChatCompletionDeleted)
stored_messages = completions.messages.list("c", order="asc")
assert_type(stored_messages, Page[StoredMessage])
client.chat.complete([*stored_messages, UserMessage("why?")])
client.chat.complete(stored_messages)
completions.list(limti=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
completions.update("c")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

checked = gpt.check.check("http://127.0.0.1:9/v1", only=["models"], timeout=5, burst=2, report=gpt.check.Report())
assert_type(checked, gpt.check.Report)
assert_type(checked.findings[0].verdict, gpt.check.Verdict)
gpt.check.check("http://127.0.0.1:9/v1", patience=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def on_asyncio() -> None:
    assert_type(await gpt.check.acheck("http://127.0.0.1:9/v1"), gpt.check.Report)
    assert_type(await AsyncGpt().chat.run_tools("hi", tools=[double]), ToolRun)
    listing = AsyncGpt().chat.completions.list(limit=5)
    assert_type(listing, AsyncListing[ChatCompletion])
    assert_type(await listing, AsyncPage[ChatCompletion])
    assert_type([one async for one in listing], list[ChatCompletion])
    assert_type([one async for one in AsyncGpt().chat.completions.messages.list("c")], list[StoredMessage])
    assert_type(await AsyncGpt().chat.completions.delete("c"), ChatCompletionDeleted)
    async with AsyncGpt().chat.stream_tools("hi", tools=[double], on_step=note) as run:
        assert_type(run, AsyncToolStream)
        async for happening in run:
            if happening.type == "done":
                assert_type(happening.run, ToolRun)
        async for said_piece in run.text_stream:
            assert_type(said_piece, str)
        assert_type(await run.until_done(), ToolRun)
    AsyncGpt(backend=AsyncFallback([AsyncGpt(), client, "local:"]))
    AsyncGpt(backend=AsyncLimit(AsyncGpt().backend, pace))
    kept = AsyncCache(AsyncGpt().backend, "answers.sqlite")
    assert_type(await kept.stats(), CacheStats)
    assert_type(await AsyncGpt(backend=AsyncRecord(kept, "talk.jsonl")).chat.complete("hi"), ChatCompletion)
    assert_type(await AsyncGpt(backend=AsyncReplay("talk.jsonl")).chat.complete("hi"), ChatCompletion)
    async with AsyncGpt(backend=Local()) as other:
        assert_type(await other.chat.complete("hi"), ChatCompletion)
        assert_type(await other.chat.parse("hi", into=City), Parsed[City])
        assert_type(other.chat.stream("hi", into=City), AsyncParsedStream[City])
        async with other.chat.stream("hi") as events:
            async for piece in events.text_stream:
                assert_type(piece, str)
        async for one in await other.chat.completions.create(messages=said, stream=True):
            assert_type(one, ChatCompletionChunk)


Task(prompt="{question}", system="Be brief.", params={"temperature": 0}, keep=("id",), output="completions")
Task(prompt=lambda row: [UserMessage(row["question"])], into=City, reasks=1)
assert_type(read_output(b"{}"), Output)
assert_type(read_output("{}").error, dict[str, Any] | None)
assert_type(read_output("{}").ok, bool)
Task(output="csv")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Task(prompt=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

Replay("talk.jsonl", strickt=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
client.chat.complete("hi", temprature=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
client.chat.stream_tools("hi")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
client.chat.complete(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
extra: dict[str, Any] = {"anything": 1}
client.chat.complete("hi", body=extra)
