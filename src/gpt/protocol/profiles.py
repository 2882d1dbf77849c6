"""What a server is known to do otherwise than others: data, not code.

One that is not known gets what is safe with every server.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gpt.errors import InvalidRequestError
from gpt.protocol.wire import Origin

Rung = Literal["json_schema", "tool", "json_object", "prompt"]
"""A way to ask for an answer of a certain form: a schema, a tool that must be called, any JSON object, or the prompt alone."""

Echoes = Literal["never", "tools", "always"]
"""With which messages of the history their thinking goes back: none, those that call tools, or all."""

Tags = tuple[str, str]
"""What begins a block of thinking, and what ends it."""

THINK: Tags = ("<think>", "</think>")
"""The tags of most open models."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a server. Raises InvalidRequestError for tags that are no two texts."""

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
    echoes: Echoes = "never"
    """With which messages of the history their thinking goes back to it: some servers refuse it, others refuse a history
    without it. It goes under the names that it came under; with `think_tags`, between them."""
    think_tags: Tags | None = None
    """What the thinking stands between where it leads the content, as in ("<think>", "</think>"). It is then told apart."""
    think_opened: bool = False
    """Its chat template opens the block, so that only the closing tag comes. Until that comes, all is thinking: only for
    servers that think in every answer."""

    def __post_init__(self) -> None:
        tags = self.think_tags
        if tags is None:
            if self.think_opened:
                raise InvalidRequestError("think_opened: needs think_tags, which say what ends the block", param="think_opened")
        elif len(tags) != 2 or not all(isinstance(tag, str) and tag.strip() == tag != "" for tag in tags):
            raise InvalidRequestError(
                f"think_tags: expected an opening and a closing tag without space round them, got {tags!r}", param="think_tags"
            )


HOSTED = Origin("https", "api.openai.com", 443)
"""The hosted service's own origin. "Hosted" means exactly this one, by https."""


def _by_https(*hosts: str) -> list[Origin]:
    return [Origin("https", host, 443) for host in hosts]


_ROWS: list[tuple[list[Origin], Profile]] = [
    # Its API reference, "stream_options".
    ([HOSTED], Profile(streams_usage=True)),
    # api-docs.deepseek.com/guides/thinking_mode: 400 if thinking is missing in a turn with tool calls, whose last message has
    # none itself; elsewhere what comes back is ignored. So all of it (rikkahub#1587, command-code#840).
    (_by_https("api.deepseek.com"), Profile(echoes="always")),
    # openrouter.ai/docs/use-cases/reasoning-tokens, "Preserving reasoning": all of it, unchanged. Usage always comes:
    # openrouter.ai/docs/use-cases/usage-accounting.
    (_by_https("openrouter.ai"), Profile(echoes="always")),
    # platform.kimi.ai/docs/guide/use-kimi-k2-thinking-model: keep all of it; what it does not want it ignores. "thinking is
    # enabled but reasoning_content is missing in assistant tool call message": mastra#12592, continue#11600.
    (_by_https("api.moonshot.ai", "api.moonshot.cn"), Profile(echoes="always")),
    # platform.minimax.io/docs/api-reference/text-openai-api: "the content field will contain <think> tag content, which must be
    # preserved completely".
    (_by_https("api.minimax.io", "api.minimaxi.com"), Profile(echoes="always", think_tags=THINK)),
    # Refuse what they do not know, thinking in the history too: mistralai/platform-docs-public#7, crush#1590 and, of
    # stream_options, openai-agents-python#442; freellmapi#1070; kilocode#10375.
    (_by_https("api.mistral.ai", "api.groq.com", "api.cerebras.ai"), Profile(echoes="never")),
]

PROFILES: dict[Origin, Profile] = {origin: profile for origins, profile in _ROWS for origin in origins}


def profile_of(origin: Origin) -> Profile:
    """The profile of the server at `origin`."""
    return PROFILES.get(origin) or Profile()
