"""`/openapi.json`: what is served, made of the very types that requests are checked by and answers are made of.

It says what this server does, not what the protocol knows: the endpoints of stored completions are there where a store is, a
key where one is needed, and without the parameters that the model in this process refuses.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from gpt.types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Model,
    ModelList,
    Received,
    UnionMeta,
)
from gpt.version import __version__

_NAMES: dict[type[msgspec.Struct], str] = {
    ChatRequest: "CreateChatCompletionRequest",
    ChatCompletion: "CreateChatCompletionResponse",
    ChatCompletionChunk: "CreateChatCompletionStreamResponse",
}
"""Types that the protocol as published has another name for."""

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    types.NoneType: {"type": "null"},
}

_LEFT_OUT = frozenset({"extra", "raw_reasoning", "error"})
"""Fields that are no part of an answer of ours."""


def document(*, stores: bool, needs_key: bool, refuses: Collection[str] = ()) -> bytes:
    """The OpenAPI document, version 3.1, as JSON. `refuses` are parameters that no call may have."""
    schemas = _Schemas(refuses)
    paths = _paths(schemas, stores=stores)
    schemas.add("ErrorResponse", _ERROR)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "gpt serve",
            "version": __version__,
            "description": "Given a list of messages comprising a conversation, the model returns a response.",
        },
        "paths": paths,
        "components": {"schemas": schemas.made},
    }
    if needs_key:
        made["components"]["securitySchemes"] = {"ApiKeyAuth": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"ApiKeyAuth": []}]
        for path in ("/health", "/ready", "/"):
            paths[path]["get"]["security"] = []
    return msgspec.json.encode(made)


class _Schemas:
    """Types as JSON Schemas, each under its name, made when something refers to it."""

    def __init__(self, refuses: Collection[str]) -> None:
        self.made: dict[str, Any] = {}
        self._refuses = refuses

    def add(self, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        self.made[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def of(self, hint: Any) -> dict[str, Any]:
        """The schema of an annotation."""
        if hint in _PLAIN:
            return dict(_PLAIN[hint])
        if isinstance(hint, UnionMeta):
            options = [self._struct(member, hint.tag, value) for value, member in hint.members.items()]
            # Of a kind that is not declared: whether there is such a one is for the model to say (`codec.check_request`).
            other = {"type": "string", "not": {"enum": [*hint.members]}}
            options.append({"type": "object", "required": [hint.tag], "properties": {hint.tag: other}})
            return {"anyOf": [*options, *([{"type": "string"}] if hint.texts else [])]}
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return self._struct(hint)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            options = [self.of(option) for option in arguments if option is not msgspec.UnsetType]
            return options[0] if len(options) == 1 else {"anyOf": options}
        if origin is not None and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if origin is not None and arguments:
            return {"type": "array", "items": self.of(arguments[0])}
        return {}  # anything

    def _struct(self, declared: type[msgspec.Struct], tag: str = "", value: str = "") -> dict[str, Any]:
        name = _NAMES.get(declared, declared.__name__)
        if name not in self.made:
            self.made[name] = {}  # it may refer to itself
            hints = typing.get_type_hints(declared)
            fields = [
                item
                for item in msgspec.structs.fields(declared)
                if item.name not in _LEFT_OUT and not (declared is ChatRequest and item.name in self._refuses)
            ]
            properties = {item.encode_name: self.of(hints[item.name]) for item in fields}
            if declared is ChatRequest:
                properties["messages"]["minItems"] = 1  # an empty list is refused by `Chat`, not by the types
            # A default that has to be made is one that is written out: see `types.written`.
            always = issubclass(declared, Received)
            required = [
                item.encode_name
                for item in fields
                if item.required or (always and item.default_factory is not msgspec.NODEFAULT)
            ]
            if tag:
                properties[tag] = {"type": "string", "const": value}
                required = list(dict.fromkeys([*required, tag]))
            schema: dict[str, Any] = {"type": "object", "properties": properties}
            if required:
                schema["required"] = required
            self.made[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}


_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

_REFUSALS = {
    400: "The request is wrong; `param` and `code` say where and how.",
    401: "The key is missing or not known.",
    403: "A page of another origin asked.",
    404: "There is no such model, path or completion.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The model failed.",
    502: "The service behind this server could not be reached, or failed.",
    503: "The model is being loaded, or the server is stopping.",
    504: "The service behind this server did not answer in time.",
}


def _json(schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _answers(schema: dict[str, Any], text: str, *refusals: int) -> dict[str, Any]:
    error = {"$ref": "#/components/schemas/ErrorResponse"}
    return {"200": _json(schema, text)} | {str(status): _json(error, _REFUSALS[status]) for status in refusals}


def _text(kind: str) -> dict[str, Any]:
    return {"200": {"description": "Text.", "content": {kind: {"schema": {"type": "string"}}}}}


def _get(summary: str, responses: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        made["parameters"] = list(parameters)
    return made


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    style = {"style": "deepObject", "explode": True} if schema.get("type") == "object" else {}
    return {"name": name, "in": "query", "required": False, "schema": schema, **style}


def _paths(schemas: _Schemas, *, stores: bool) -> dict[str, Any]:
    request, completion, chunk = (schemas.of(kind) for kind in (ChatRequest, ChatCompletion, ChatCompletionChunk))
    schemas.made["CreateChatCompletionRequest"]["properties"]["stream"]["description"] = (
        "With true the answer comes as server-sent events: chunks, then `[DONE]`; what goes wrong after the first is an event "
        "with an `error`."
    )
    created = _answers(completion, "The answer.", 400, 401, 403, 404, 413, 415, 429, 500, 502, 503, 504)
    created["200"]["content"]["text/event-stream"] = {"schema": chunk}
    created["200"]["headers"] = {
        "x-request-id": {"schema": {"type": "string"}, "description": "The answer's name in the server's log."},
        "x-ignored-params": {"schema": {"type": "string"}, "description": "Parameters that changed nothing, by their paths."},
    }
    post = {
        "summary": "Answer a conversation.",
        "operationId": "createChatCompletion",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": created,
    }
    plain = {"type": "string"}
    state = {"type": "object", "required": ["status"], "properties": {"status": plain}}
    version = {"type": "object", "required": ["version"], "properties": {"version": plain}}
    model = schemas.of(Model)
    paths: dict[str, Any] = {
        "/v1/chat/completions": {"post": post},
        "/v1/models": {"get": _get("The models.", _answers(schemas.of(ModelList), "All of them.", 401))},
        "/v1/models/{id}": {"get": _get("A model.", _answers(model, "The model.", 401, 404), _in_path("id"))},
        "/health": {"get": _get("Whether the process answers.", _answers(state, "It does."))},
        "/ready": {"get": _get("Whether calls are taken.", _answers(state, "They are.") | {"503": _json(state, "Not now.")})},
        "/metrics": {"get": _get("Counts, for Prometheus.", _text("text/plain"))},
        "/version": {"get": _get("The release.", _answers(version, "It."))},
        "/openapi.json": {"get": _get("This document.", _answers({"type": "object"}, "It."))},
        "/": {"get": _get("A page to chat on.", _text("text/html"))},
    }  # fmt: skip
    if stores:
        _stored_paths(schemas, paths, completion)
    return paths


def _stored_paths(schemas: _Schemas, paths: dict[str, Any], completion: dict[str, Any]) -> None:
    """The endpoints of stored completions."""
    text = {"type": "string"}
    metadata = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 512}, "maxProperties": 16}
    cursors = (
        _in_query("after", text),
        _in_query("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
        _in_query("order", {"type": "string", "enum": ["asc", "desc"], "default": "asc"}),
    )

    def pages(name: str, item: dict[str, Any]) -> dict[str, Any]:
        cursor = {"type": ["string", "null"]}
        properties = {
            "object": {"const": "list"},
            "data": {"type": "array", "items": item},
            "first_id": cursor,
            "last_id": cursor,
            "has_more": {"type": "boolean"},
        }
        return schemas.add(name, {"type": "object", "properties": properties, "required": list(properties)})

    message = schemas.add(
        "ChatCompletionStoredMessage",
        {
            "type": "object",
            "required": ["id", "role"],
            "properties": {
                "id": text,
                "role": text,
                "content": {"type": ["string", "null"]},
                "content_parts": {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
            },
        },
    )
    deleted = schemas.add(
        "ChatCompletionDeleted",
        {
            "type": "object",
            "required": ["object", "id", "deleted"],
            "properties": {"object": {"const": "chat.completion.deleted"}, "id": text, "deleted": {"type": "boolean"}},
        },
    )
    update = {"type": "object", "required": ["metadata"], "properties": {"metadata": {"anyOf": [metadata, {"type": "null"}]}}}
    here = _in_path("completion_id")
    listed = _get(
        "Stored completions.", _answers(pages("ChatCompletionList", completion), "A page of them.", 400, 401),
        _in_query("model", text), _in_query("metadata", metadata), *cursors,
    )  # fmt: skip
    paths["/v1/chat/completions"]["get"] = {**listed, "operationId": "listChatCompletions"}
    paths["/v1/chat/completions/{completion_id}"] = {
        "get": _get("A stored completion.", _answers(completion, "It.", 401, 404), here),
        "post": {
            **_get("Change its metadata.", _answers(completion, "As it is now.", 400, 401, 404, 415), here),
            "requestBody": {"required": True, "content": {"application/json": {"schema": update}}},
        },
        "delete": _get("Delete it.", _answers(deleted, "It is gone.", 401, 404), here),
    }
    messages = _answers(pages("ChatCompletionMessageList", message), "A page of them.", 400, 401, 404)
    paths["/v1/chat/completions/{completion_id}/messages"] = {"get": _get("Its messages.", messages, here, *cursors)}
