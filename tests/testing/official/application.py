"""An application that was written for the official client and knows nothing of this project: a help desk for rivers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic

LENGTHS = {"Nile": 6650, "Rhine": 1233}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "length_of",
        "description": "The length of a river in kilometres.",
        "parameters": {"type": "object", "properties": {"river": {"type": "string"}}, "required": ["river"]},
    },
}


class Place(pydantic.BaseModel):
    country: str
    continent: str


class Desk:
    """Answers questions. The client finds its server and its key in the environment."""

    def __init__(self, client: openai.OpenAI, model: str = "some-model") -> None:
        self.client = client
        self.model = model
        self.history: list[Any] = [{"role": "system", "content": "You know rivers. Answer in one sentence."}]

    def ask(self, question: str) -> str:
        """One turn of a conversation, with calls of tools."""
        self.history.append({"role": "user", "content": question})
        while True:
            made = self.client.chat.completions.create(model=self.model, messages=self.history, tools=[TOOL])
            message = made.choices[0].message
            self.history.append(message.model_dump(exclude_none=True))
            if not message.tool_calls:
                return message.content or ""
            for call in message.tool_calls:
                assert call.type == "function"
                river = json.loads(call.function.arguments)["river"]
                found = json.dumps({"km": LENGTHS.get(river)})
                self.history.append({"role": "tool", "tool_call_id": call.id, "content": found})

    def tell(self, question: str) -> Iterator[str]:
        """The answer while it is made."""
        stream = self.client.chat.completions.create(
            model=self.model,
            messages=[{"role": "user", "content": question}],
            stream=True,
            stream_options={"include_usage": True},
        )
        for part in stream:
            if part.choices and part.choices[0].delta.content:
                yield part.choices[0].delta.content

    def place(self, river: str) -> Place:
        """A value as an answer."""
        made = self.client.chat.completions.parse(
            model=self.model, messages=[{"role": "user", "content": f"Where is the {river}?"}], response_format=Place
        )
        found = made.choices[0].message.parsed
        if found is None:
            raise LookupError(river)
        return found

    def try_to_ask(self, question: str) -> str:
        """An answer, or what the desk says when there is none."""
        try:
            return self.ask(question)
        except openai.RateLimitError:
            return "Too many ask at the moment."
        except openai.APIConnectionError:
            return "Nobody is there."


async def ask_many(client: openai.AsyncOpenAI, questions: list[str]) -> list[str]:
    """The answers to many questions, asked at the same time."""

    async def ask(question: str) -> str:
        made = await client.chat.completions.create(model="some-model", messages=[{"role": "user", "content": question}])
        return made.choices[0].message.content or ""

    return list(await asyncio.gather(*(ask(question) for question in questions)))
