"""How many tokens a prompt takes, by the engine that will read it: its chat template applied, its own tokenizer.

Both are asked of the engine's own HTTP server, on loopback, with the very request that a call would make; so what is put in the
prompt for tools is counted too. The engine tokenizes a prompt with its special tokens read and the beginning of the text added
(llama.cpp, `tools/server`: `tokenize_input_prompts(..., true, true)`), and so does this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gpt.protocol.failures import engine_failure
from gpt.protocol.tokens import TokenCount

Ask = Callable[[str, dict[str, Any]], Any]
"""Posts an object to a path of the engine's server, and gives what it answers."""


def counted(ask: Ask, request: dict[str, Any], model: str) -> TokenCount:
    """The tokens of the prompt that the engine makes of `request`, which is as it would be asked. Raises GptError."""
    prompt = _answer(ask("/apply-template", request), model)["prompt"]
    body = {"content": prompt, "add_special": True, "parse_special": True}
    return TokenCount(len(_answer(ask("/tokenize", body), model)["tokens"]), "exact", model)


def _answer(said: Any, model: str) -> Any:
    if "error" in said:
        raise engine_failure(int(said["error"].get("code") or 500), msgspec.json.encode(said), f"model {model}")
    return said
