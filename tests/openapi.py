"""Values held against the protocol's published description."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema

from places import published_schemas

CORRECTIONS: dict[str, dict[str, Any]] = {
    # The messages of a stored completion are those of its request, yet the description has each as an answer's message, of the
    # role "assistant" alone. Its own example is a user's.
    "ChatCompletionResponseMessage in ChatCompletionMessageList": {
        "properties": {"role": {"enum": ["developer", "system", "user", "assistant", "tool", "function"]}}
    },
}
"""Where the description contradicts itself, and what is taken for it here."""


@cache
def _schemas() -> dict[str, Any]:
    schemas = published_schemas()
    listed = dict(schemas["ChatCompletionResponseMessage"])
    (role,) = CORRECTIONS["ChatCompletionResponseMessage in ChatCompletionMessageList"].values()
    listed["properties"] = listed["properties"] | role
    item, identified = schemas["ChatCompletionMessageList"]["properties"]["data"]["items"]["allOf"]
    assert {"$ref": "#/components/schemas/ChatCompletionResponseMessage"} == item
    item.clear()
    item["allOf"] = [listed]
    assert "id" in identified["properties"]
    return {name: _with_null(schema) for name, schema in schemas.items()}


def _with_null(schema: Any) -> Any:
    """The schema with each `nullable` as JSON Schema says it: the description is of version 3.1, which has no such word any more,
    yet keeps it from 3.0. Without it a chunk's `finish_reason` could not be null.
    """
    if isinstance(schema, list):
        return [_with_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _with_null(item) for name, item in schema.items()}
    return {"anyOf": [made, {"type": "null"}]} if made.pop("nullable", None) is True else made


@cache
def _validator(name: str) -> Any:
    components = {"components": {"schemas": _schemas()}}
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}"} | components)


def errors_of(value: Any, name: str) -> list[str]:
    """What is wrong with a value by the published schema of this name, such as "CreateChatCompletionResponse".

    `value` is plain: what JSON decodes to. Skips the test where the description is not here.
    """
    found = sorted(_validator(name).iter_errors(value), key=lambda error: error.json_path)
    return [f"{error.json_path}: {_why(error)}" for error in found]


def _why(error: Any) -> str:
    """The error itself; of alternatives, those of each."""
    if not error.context:
        return str(error.message)[:300]
    return " | ".join(f"{inner.json_path}: {str(inner.message)[:200]}" for inner in error.context)
