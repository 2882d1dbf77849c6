"""What can be known of a server that it does otherwise than others. `servers.py` has what is known of which."""

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

    name: str = ""
    """What `profile=` calls it, and errors; "" for one without a name."""
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
    renames: tuple[tuple[str, str], ...] = ()
    """Parameters that go out under another name, because it does not know the first: (ours, its)."""
    roles: tuple[tuple[str, str], ...] = ()
    """Roles of messages that go out under another name: (ours, its)."""
    ignores: tuple[str, ...] = ()
    """Parameters that it takes without a word and does not act upon. They are refused before sending where they ask for
    something else than it does anyway. One that it ignores only with a certain value is written "name: value", where of an
    object its `type` is meant. Those whose loss changes no answer (`user`, `metadata`) are not listed."""
    key_header: str = "authorization"
    """The header that a key goes out in. In any other than this one it goes without "Bearer"."""
    paths: Literal["as given", "azure"] = "as given"
    """How base URLs are completed: not at all, or by `azure_path`."""

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


def azure_path(path: str, query: str) -> tuple[str, bool]:
    """The path of a base URL of Azure's, completed, and whether each model is asked below it, at /deployments/MODEL.

    That is where a dated `api-version` in the query belongs to; without one it is the v1 API. A path that names either is left
    as it is, so it may also be that of a gateway; so is /models, the inference endpoint of a Foundry resource, which is dated
    too. Source: learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle and .../foundry-models/concepts/endpoints;
    the official package's lib/azure.py, which leaves "preview" and "latest" to v1 too.
    """
    if path.endswith(("/v1", "/models")) or "/deployments/" in path:
        return path, False
    root = path if path.endswith("/openai") else f"{path}/openai"
    version = next((part[12:] for part in query.split("&") if part.startswith("api-version=")), "")
    return (root, True) if version[:1].isdigit() else (f"{root}/v1", False)
