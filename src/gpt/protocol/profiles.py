"""What a server is known to do otherwise than others: data, not code.

One that is not known gets what is safe with every server.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gpt.protocol.wire import Origin

Rung = Literal["json_schema", "tool", "json_object", "prompt"]
"""A way to ask for an answer of a certain form: a schema, a tool that must be called, any JSON object, or the prompt alone."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server."""

    streams_usage: bool = False
    """It takes `stream_options`, so `chat.stream` asks for the tokens used; some servers refuse what they do not know."""
    dialect: Literal["strict", "azure", "grammar", "plain"] = "strict"
    """What the schemas of `into=` are written in: the hosted service's strict mode, Azure's lower limits, what the engine makes
    a grammar of, or the schema as it is."""
    rungs: tuple[Rung, ...] = ("json_schema", "tool", "json_object", "prompt")
    """The ways to ask for a form that are tried, the next where the server refuses one."""
    may_break_off: bool = False
    """Its streams end without a finish reason and without `[DONE]`, so an end is taken for the answer's. What was cut short
    cannot be told from that: `info.ended` says "truncated" of both."""


HOSTED = Origin("https", "api.openai.com", 443)
"""The hosted service's own origin. "Hosted" means exactly this one, by https."""

PROFILES: dict[Origin, Profile] = {
    HOSTED: Profile(streams_usage=True),  # its API reference, "stream_options"
}


def profile_of(origin: Origin) -> Profile:
    """The profile of the server at `origin`."""
    return PROFILES.get(origin) or Profile()
