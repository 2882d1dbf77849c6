"""The application's tests, as its authors wrote them: against whatever server OPENAI_BASE_URL names. Nothing here is of gpt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from application import Desk, Place, ask_many


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(max_retries=2, timeout=10) as made:
        yield made


@pytest.fixture
def desk(client: openai.OpenAI) -> Desk:
    return Desk(client)


def test_answers(desk: Desk) -> None:
    assert desk.ask("Name a river.") == "The Nile is a river."


def test_remembers(desk: Desk) -> None:
    desk.ask("Name a river.")
    assert desk.ask("Which one did you name?") == "The Nile is a river."
    assert [message["role"] for message in desk.history] == ["system", "user", "assistant", "user", "assistant"]


def test_looks_up_lengths(desk: Desk) -> None:
    assert desk.ask("How long is the Rhine?") == "It is 1233 km long."
    assert [message["role"] for message in desk.history] == ["system", "user", "assistant", "tool", "assistant"]


def test_tells_while_it_thinks(desk: Desk) -> None:
    pieces = list(desk.tell("Name a river."))
    assert len(pieces) > 1
    assert "".join(pieces) == "The Nile is a river."


def test_streams_by_the_helper(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "Name a river."}]
    with client.chat.completions.stream(model="some-model", messages=asked) as stream:  # type: ignore[arg-type]
        kinds = {event.type for event in stream}
        whole = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert whole.choices[0].message.content == "The Nile is a river."


def test_places(desk: Desk) -> None:
    assert desk.place("Nile") == Place(country="Egypt", continent="Africa")


@pytest.mark.parametrize(("what", "answer"), [("busy", "Too many ask at the moment."), ("gone", "Nobody is there.")])
def test_trouble(desk: Desk, what: str, answer: str) -> None:
    assert desk.try_to_ask(f"[{what}]") == answer


def test_is_asked_again(desk: Desk) -> None:
    assert desk.ask("[once] Name a river.") == "The Nile is a river."


def test_wrong_requests(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="some-model", messages=[])


def test_usage(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="some-model", messages=[{"role": "user", "content": "Count tokens."}])
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens


def test_raw_responses(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "Name a river."}]
    raw = client.chat.completions.with_raw_response.create(model="some-model", messages=asked)  # type: ignore[arg-type]
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.role == "assistant"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()]


def test_many_at_once() -> None:
    async def run() -> list[str]:
        async with openai.AsyncOpenAI() as client:
            return await ask_many(client, ["Name a river."] * 20)

    assert asyncio.run(run()) == ["The Nile is a river."] * 20


def test_async_stream() -> None:
    async def run() -> str:
        async with openai.AsyncOpenAI() as client:
            stream = await client.chat.completions.create(
                model="some-model", messages=[{"role": "user", "content": "Name a river."}], stream=True
            )
            return "".join([part.choices[0].delta.content or "" async for part in stream])

    assert asyncio.run(run()) == "The Nile is a river."
