"""Counts of prompts' tokens that are not exact, and a Backend over a Backend that learns from answers how far they are off.

A client has the layer once it has been asked for an estimate, and not before: nobody else pays for it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gpt.backend import DEFAULT_OPTIONS, AsyncBackend, AsyncChunkStream, Backend, CallOptions, ChunkStream
from gpt.errors import InvalidRequestError
from gpt.layers.meter import AsyncToldStream, Told, ToldStream
from gpt.protocol import tokens
from gpt.protocol.codec import encode_request
from gpt.protocol.profiles import Profile
from gpt.protocol.tokens import Correction, TokenCount
from gpt.types import ChatCompletion, ChatRequest, ModelList, Usage


class Estimates:
    """The counts of a client, and what its answers taught of each model. Shared by the client's copies and by threads.

    There is no lock: of two answers that come in one instant, one may teach nothing; and a stream may be dropped anywhere.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._corrections: dict[str, Correction] = {}

    def count(self, request: ChatRequest) -> TokenCount:
        """By the model's tokenizer where that is there, else an estimate. Raises InvalidRequestError, as a call does."""
        from gpt.tokenizer import tokenizer

        plain = self._plain(request)
        model = _model(plain)
        found = tokenizer(model)
        if found is not None:
            name, tokens_of = found
            counted, uncounted = tokens.count(plain, tokens_of)
            return TokenCount(counted, "tokenizer", name, uncounted=uncounted)
        counted, uncounted = tokens.count(plain, tokens.estimate)
        learnt = self._corrections.get(model, Correction())
        return TokenCount(learnt.apply(counted), "estimate", answers=learnt.answers, uncounted=uncounted)

    def learn(self, request: ChatRequest, usage: Usage | None) -> None:
        """Learn from the usage of an answer. A prompt with parts that nobody can count teaches nothing.

        Raises nothing: one that only its backend can read has been answered all the same.
        """
        if usage is None or usage.prompt_tokens <= 0:
            return
        try:
            plain = self._plain(request)
        except InvalidRequestError:
            return
        counted, uncounted = tokens.count(plain, tokens.estimate)
        if not uncounted:
            model = _model(plain)
            learnt = self._corrections.get(model, Correction())
            self._corrections[model] = learnt.learn(counted, usage.prompt_tokens)

    def told(self, request: ChatRequest) -> Told:
        """What learns from the end of a stream."""
        return lambda last, _: self.learn(request, last.usage if last is not None else None)

    def _plain(self, request: ChatRequest) -> dict[str, Any]:
        """The request as it is sent."""
        profile = self._profile
        body = encode_request(request, echoes=profile.echoes, tags=profile.think_tags)
        plain: dict[str, Any] = msgspec.json.decode(body)
        return plain


def _model(plain: dict[str, Any]) -> str:
    return str(plain.get("model") or "")


class Learning:
    """`backend`, whose answers teach `estimates`."""

    def __init__(self, backend: Backend, estimates: Estimates) -> None:
        self._backend = backend
        self._estimates = estimates

    def __repr__(self) -> str:
        return f"Learning({self._backend!r})"

    @property
    def profile(self) -> Profile | None:
        return getattr(self._backend, "profile", None)

    def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        answer = self._backend.complete(request, options)
        self._estimates.learn(request, answer.usage)
        return answer

    def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChunkStream:
        return ToldStream(self._backend.stream(request, options), self._estimates.told(request))

    def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return self._backend.models(options)

    def close(self) -> None:
        self._backend.close()


class AsyncLearning:
    """Learning for asyncio."""

    def __init__(self, backend: AsyncBackend, estimates: Estimates) -> None:
        self._backend = backend
        self._estimates = estimates

    def __repr__(self) -> str:
        return f"AsyncLearning({self._backend!r})"

    @property
    def profile(self) -> Profile | None:
        return getattr(self._backend, "profile", None)

    async def complete(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> ChatCompletion:
        answer = await self._backend.complete(request, options)
        self._estimates.learn(request, answer.usage)
        return answer

    async def stream(self, request: ChatRequest, options: CallOptions = DEFAULT_OPTIONS) -> AsyncChunkStream:
        return AsyncToldStream(await self._backend.stream(request, options), self._estimates.told(request))

    async def models(self, options: CallOptions = DEFAULT_OPTIONS) -> ModelList:
        return await self._backend.models(options)

    async def close(self) -> None:
        await self._backend.close()
