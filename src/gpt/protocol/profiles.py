"""What a server is known to do otherwise than others: data, not code.

One that is not known gets what is safe with every server.
"""

from __future__ import annotations

import msgspec

from gpt.protocol.wire import Origin


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server."""

    streams_usage: bool = False
    """It takes `stream_options`, so `chat.stream` asks for the tokens used; some servers refuse what they do not know."""
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
