"""The seed's envelope."""

from __future__ import annotations

from typing import Any

import msgspec

from gpt.types import ChatCompletion

__all__ = ["CreateChatCompletionResponse"]


class CreateChatCompletionResponse(msgspec.Struct):
    """What `chat.create_chat_completion` gives: the completion with the facts of the exchange round it.

    `raw_response` is the whole HTTP answer; None where no HTTP was spoken.
    """

    content_type: str
    status_code: int
    create_chat_completion_response: ChatCompletion | None = None
    raw_response: Any = None

    def __repr__(self) -> str:
        return f"CreateChatCompletionResponse(content_type={self.content_type!r}, status_code={self.status_code})"
