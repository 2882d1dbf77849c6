"""Our client against a real third party's server: the C++ HTTP server in the engine's wheel. And the official client beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from gpt import (
    AsyncGpt,
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
    Gpt,
    Local,
    Message,
    SystemMessage,
    UnsupportedParameterError,
    UserMessage,
)

from places import EngineServer

RIVERS = "Name three rivers."


@pytest.fixture
def client(engine_server: EngineServer) -> Any:
    with Gpt(server_url=engine_server.url, api_key=engine_server.key) as client:
        yield client


def test_conversation(client: Gpt) -> None:
    """A whole conversation is held: each answer goes back as history."""
    said: list[Message] = [SystemMessage("Answer in one short sentence.")]
    prompts = 0
    for question in (RIVERS, "Which of them is the longest?", "Where does it end?"):
        said.append(UserMessage(question))
        answer = client.chat.complete(said, temperature=0, max_tokens=20)
        assert answer.text
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > prompts
        prompts = answer.usage.prompt_tokens
        said.append(answer.message)
    assert len(said) == 7


PARAMS: list[dict[str, Any]] = [
    {},
    {"max_completion_tokens": 8},
    {"stop": ["River"]},
    {"logit_bias": {"504": 100}},
    {"frequency_penalty": 1.5},
    {"logprobs": True, "top_logprobs": 2},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "items": {"type": "integer"}, "maxItems": 3}}}},
]  # fmt: skip


@pytest.mark.parametrize("params", PARAMS, ids=[next(iter(row), "plain") for row in PARAMS])
def test_same_text(client: Gpt, box: Local, params: dict[str, Any]) -> None:
    """The same request gives the same text through local: and through the server, at temperature 0; streamed too."""
    asked: dict[str, Any] = {"temperature": 0, "max_tokens": 24, **params}
    if "max_completion_tokens" in params:
        del asked["max_tokens"]
    over_http = client.chat.complete(RIVERS, **asked)
    in_process = Gpt(backend=box).chat.complete(RIVERS, **asked)
    assert over_http.text == in_process.text
    assert over_http.choices[0].finish_reason == in_process.choices[0].finish_reason
    if over_http.choices[0].logprobs:
        assert in_process.choices[0].logprobs is not None
        tokens = [
            [token.token for token in side.content or ()]
            for side in (over_http.choices[0].logprobs, in_process.choices[0].logprobs)
        ]
        assert tokens[0] == tokens[1]
    with client.chat.stream(RIVERS, **asked) as stream:
        assert over_http.text == "".join(stream.text_stream)


def test_info(client: Gpt) -> None:
    """The facts of the exchange are there, and what the server adds is kept."""
    answer = client.chat.complete(RIVERS, max_tokens=2)
    assert answer.info is not None
    assert answer.info.headers["server"] == "llama.cpp"
    assert 0 < answer.info.elapsed
    assert answer.timings is not None
    assert answer.timings["predicted_n"] == 2
    assert "system_fingerprint" in answer.to_dict()


FENCE = {"80": 100}
"""The token "`" of the model in the box, and nothing else."""

FENCED = "Answer with a JSON object in a ```json code fence."

RIVER = {"type": "object", "properties": {"river": {"type": "string"}}, "required": ["river"], "additionalProperties": False}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("schema", [None, {}, RIVER], ids=["alone", "any schema", "a schema"])
def test_json_object(client: Gpt, schema: Any, streamed: bool, temperature: float) -> None:
    """It holds the model to a json_object, whatever the model would rather say: a code fence, code, words, one token."""
    asked: dict[str, Any] = {"temperature": temperature, "seed": 1, "max_tokens": 16}
    form = {"type": "json_object"} if schema is None else {"type": "json_object", "schema": schema}

    def text(prompt: str, **params: Any) -> str:
        if not streamed:
            return client.chat.complete(prompt, **asked, **params).text
        with client.chat.stream(prompt, **asked, **params) as stream:
            return "".join(stream.text_stream)

    if temperature == 0:
        assert "```" in text(FENCED)
    for prompt in (FENCED, "Write Python code that prints hello, in a code fence.", "Say hello. Use plain words."):
        said = text(prompt, response_format=form)
        assert "{" == said[:1]
        assert '"river"' in said or schema is not RIVER
    before, _, key = text(FENCED, response_format=form, logit_bias=FENCE).partition('"')
    assert ("{", "`" in key) == (before.strip(), True)


IGNORED: list[dict[str, Any]] = [
    {"functions": [{"name": "f"}], "function_call": {"name": "f"}},
    {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
    {"web_search_options": {}},
]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_profile(engine_server: EngineServer, client: Gpt, asynchronous: bool) -> None:
    """What its profile says of it is so: these it ignores, and they are refused; the others it acts upon."""
    plain = client.chat.complete(RIVERS, temperature=0, max_tokens=8)
    for params in IGNORED:
        assert plain.text == client.chat.complete(RIVERS, temperature=0, max_tokens=8, **params).text

    async def on_asyncio(use: Any) -> Any:
        async with AsyncGpt(server_url=engine_server.url, api_key=engine_server.key, profile="llama.cpp") as other:
            return await use(other)

    def ask(use: Any) -> Any:
        if asynchronous:
            return asyncio.run(on_asyncio(use))
        return use(Gpt(server_url=engine_server.url, api_key=engine_server.key, profile="llama.cpp"))

    for params in IGNORED:
        with pytest.raises(UnsupportedParameterError, match=r"llama\.cpp takes it and does not act upon it"):
            ask(lambda one: one.chat.complete(RIVERS, max_tokens=8, **params))
    two = ask(lambda one: one.chat.complete(RIVERS, temperature=0, max_completion_tokens=4, n=2))
    assert (2, ["length", "length"]) == (len(two.choices), [choice.finish_reason for choice in two.choices])
    assert ask(lambda one: one.chat.stream(RIVERS, temperature=0, max_tokens=4).until_done()).usage.completion_tokens == 4
    held = ask(lambda one: one.chat.complete(FENCED, temperature=0, max_tokens=8, response_format={"type": "json_object"}))
    assert "{" == held.text[:1]
    assert isinstance(
        ask(lambda one: one.chat.parse("Two numbers.", into=tuple[bool, bool], temperature=0, max_tokens=80)).value, tuple
    )


def test_models(client: Gpt) -> None:
    """The list of models is read."""
    models = client.models.list()
    assert len(models) == 1
    assert models.data[0].owned_by == "llamacpp"


def test_failures(engine_server: EngineServer, client: Gpt) -> None:
    """The server's failures are our classes, with both numbers of too long a prompt."""
    with pytest.raises(AuthenticationError):
        Gpt(server_url=engine_server.url).chat.complete(RIVERS)
    with pytest.raises(ContextLengthError) as caught:
        client.chat.complete("river " * 6000)
    assert (4096, True) == (caught.value.limit, (caught.value.requested or 0) > 6000)
    with pytest.raises(BadRequestError, match="the base URL probably needs /v1"):
        Gpt(server_url=engine_server.url.removesuffix("/v1") + "/nowhere", api_key=engine_server.key).chat.complete(RIVERS)


def test_async(engine_server: EngineServer) -> None:
    """The async client does the same, several at a time."""

    async def run() -> None:
        async with AsyncGpt(server_url=engine_server.url, api_key=engine_server.key) as client:
            answers = await asyncio.gather(*(client.chat.complete(RIVERS, temperature=0, max_tokens=8) for _ in range(4)))
            assert all(answer.text for answer in answers)
            async with client.chat.stream(RIVERS, temperature=0, max_tokens=8) as stream:
                assert [piece async for piece in stream.text_stream]
            chunks = await client.chat.completions.create(messages=[UserMessage(RIVERS)], max_tokens=3, stream=True)
            assert [chunk async for chunk in chunks]

    asyncio.run(run())


@pytest.mark.parametrize("params", [{}, {"n": 2, "seed": 1}, {"logprobs": True, "top_logprobs": 2}, {"stop": ["River"]}])
def test_official_client(engine_server: EngineServer, client: Gpt, params: dict[str, Any]) -> None:
    """The official client gets the same from the same server for the same request."""
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": RIVERS}],
        "model": "m",
        "max_tokens": 12,
        "temperature": 0,
        **params,
    }
    with openai.OpenAI(base_url=engine_server.url, api_key=engine_server.key) as official:
        theirs = official.chat.completions.create(**asked)
    ours = client.chat.completions.create(**asked)
    assert [choice.message.content for choice in theirs.choices] == [choice.message.content for choice in ours.choices]
    assert theirs.usage is not None
    assert ours.usage is not None
    assert theirs.usage.total_tokens == ours.usage.total_tokens
