"""Forced calls: how many of them are valid through `local:`, whole and streamed, and through the engine's own HTTP server.

The same forms as the tests', with the model's own template and behind one that knows tools. `valid` means one call of the tool
whose arguments keep to the schema. Beside them what the first call of a new schema costs more than the second.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bench.measure import rounds

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

COUNT = 40
TOKENS = 300


def _is_valid(ask: Callable[[], Any], schema: dict[str, Any]) -> bool:
    """Whether what is asked for comes, and keeps to the schema; a refusal is no call."""
    import jsonschema

    from gpt import GptError

    try:
        calls = ask().message.tool_calls or []
        jsonschema.Draft202012Validator(schema).validate(json.loads(calls[0].function.arguments))
    except (GptError, IndexError, ValueError, jsonschema.ValidationError):
        return False
    return len(calls) == 1 and calls[0].function.name == "fill"


def run(count: int = COUNT) -> list[str]:
    """Lines of figures; `count` forms each."""
    from gpt import Gpt, Local

    from forms import form, tool
    from templates import TEMPLATES

    def asked(number: int) -> dict[str, Any]:
        return {
            "tools": [tool(number)],
            "tool_choice": "required",
            "seed": number,
            "temperature": number % 4 / 2,
            "max_tokens": TOKENS,
        }

    lines = []
    for name, template in (("its own template", None), ("a template that knows tools", TEMPLATES["tags"])):
        with Local(chat_template=template) as backend:
            engine = backend.load()
            ours = Gpt(backend=backend)
            theirs = Gpt(server_url=f"{engine.address}/v1", api_key=engine._key)

            def whole(client: Gpt, number: int) -> Any:
                return client.chat.complete(f"Fill in form {number}.", **asked(number))

            def streamed(client: Gpt, number: int) -> Any:
                with client.chat.stream(f"Fill in form {number}.", **asked(number)) as stream:
                    return stream.until_done()

            for place, client in (("local:", ours), ("engine's server", theirs)):
                for way, ask in (("whole", whole), ("streamed", streamed)):
                    valid = sum(_is_valid(partial(ask, client, number), form(number)) for number in range(count))
                    lines.append(f"{f'{name}, {place}, {way}':<60} {valid:>4} of {count} valid")
    return [*lines, *_trials()]


def _trials() -> list[str]:
    """What trying a schema costs."""
    from gpt import Gpt, Local

    with Local() as backend:
        client = Gpt(backend=backend)
        fresh = iter(range(10_000))

        def call(number: int) -> float:
            schema = {"type": "object", "properties": {"a": {"const": number}}, "required": ["a"]}
            one = {"type": "function", "function": {"name": "f", "parameters": schema}}
            started = time.perf_counter()
            client.chat.complete("x", tools=[one], tool_choice="required", max_tokens=30, temperature=0)
            return 1000 * (time.perf_counter() - started)

        def new() -> float:
            return call(next(fresh))

        call(-1)
        found = rounds({"a schema seen before": lambda: call(-1), "a new schema": new}, 9, "ms")
    return [str(figure) for figure in found.values()]
