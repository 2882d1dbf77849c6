"""A server for `gpt check` whose behaviour is chosen thing by thing: it honours each, unless told otherwise.

"ignore" is to ignore a parameter, "say" to ignore it and say so, "refuse" to refuse it; other words are breakages of one thing.

Its model says words of its own, the same for the same request at temperature 0 and by the seed otherwise; a token is a word.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Mapping
from typing import Any

from gpt.testing.loopback import Gone, Loopback, Peer

WORDS = "river lake sea stream brook pond wave tide shore delta bank ford isle reef bay cape".split()
SAID = "x-ignored-params"


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, param: str | None, message: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.message = message or f"{param}: not here"


class Behaving(Loopback):
    """The server. `doing` says by the name of a thing what comes of it; what it does not name is honoured."""

    def __init__(self, secret: str = "", **doing: str) -> None:
        super().__init__(self._play)
        self.secret = secret
        self.doing = doing
        self.stored: dict[str, Any] = {}
        self.running: list[Peer] = []
        self.count = 0
        self.lock = threading.Lock()
        self.changed = threading.Condition()
        self.longs = self.quicks = 0

    def does(self, name: str) -> str:
        return self.doing.get(name, "honour")

    # The connection

    def _play(self, peer: Peer) -> None:
        while True:
            head, body = peer.read_request()
            line, *fields = head.split("\r\n")
            method, path, _ = line.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            if self.does("everything") == "hang":
                peer.wait_for_close()
                return
            try:
                status, extra, document = self._answer(peer, method, path, headers, body)
            except Refusal as error:
                status, extra = error.status, {}
                document = {
                    "error": {
                        "message": error.message,
                        "type": "invalid_request_error",
                        "param": error.param,
                        "code": error.code,
                    }
                }
                if self.does("errors") == "break":
                    document = {"error": error.message}
                if status == 429 and self.does("overload") == "honour":
                    extra = {"retry-after": "1"}
            if status:
                said = document if isinstance(document, bytes) else json.dumps(document).encode()
                lines = {"content-type": "application/json", "content-length": str(len(said)), **extra}
                peer.send(_head(status, lines) + said)

    def _answer(
        self, peer: Peer, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, dict[str, str], Any]:
        if path == "/metrics":
            if self.does("gauge") == "honour":
                said = f'# HELP x\nvllm:num_requests_running{{a="b c"}} {self._load()}\n'
                return 200, {"content-type": "text/plain"}, said.encode()
            raise Refusal(404, None, "nothing here")
        if self.secret and headers.get("authorization") != f"Bearer {self.secret}" and self.does("key") == "honour":
            raise Refusal(401, None, f"Incorrect key {headers.get('authorization')}", "invalid_api_key")
        model = {"id": "words", "object": "model", "created": 1, "owned_by": "us", "context_length": 100}
        if self.does("models") == "break":
            del model["created"]
        match method, path.removeprefix("/v1").split("/")[1:]:
            case "GET", ["models"]:
                return 200, {}, {"object": "list", "data": [model]}
            case "GET", ["models", "words"]:
                return 200, {}, model
            case "GET", ["chat", "completions", name] if name in self.stored:
                return 200, {}, self.stored[name]
            case "DELETE", ["chat", "completions", name]:
                return 200, {}, {"id": name, "object": "chat.completion.deleted", "deleted": bool(self.stored.pop(name))}
            case "POST", ["chat", "completions"]:
                return self._chat(peer, headers, body)
            case _, ["chat", "completions"] if self.does("methods") == "honour":
                raise Refusal(405, None, "not allowed")
            case _:
                raise Refusal(404, None, "nothing here")

    # A call

    def _chat(self, peer: Peer, headers: Mapping[str, str], data: bytes) -> tuple[int, dict[str, str], Any]:
        if headers.get("content-type") != "application/json" and self.does("content type") == "honour":
            raise Refusal(415, None, "JSON, please")
        try:
            body = json.loads(data)
        except ValueError:
            raise Refusal(400, None, "no JSON") from None
        if not isinstance(body, dict):
            raise Refusal(400, None, "no object")
        extra: dict[str, str] = {}
        for name in list(body):
            match self.does(name):
                case "refuse":
                    raise Refusal(400, name, code="unsupported_parameter")
                case "refuse badly":
                    raise Refusal(400, None, "no")
                case "fail":
                    raise Refusal(500, None, "oops")
                case "ignore":
                    body.pop(name)
                case "say":
                    body.pop(name)
                    extra[SAID] = ", ".join(filter(None, [extra.get(SAID), name]))
        self._check(body)
        if self.does("burst") != "honour" and body.get("n") is None:
            raise Refusal(429, None, "later")
        if self.does("slots") == "one" and body.get("max_tokens") == 1:
            self._wait()
        document = self._completion(body)
        if body.get("store"):
            self.stored[document["id"]] = {**document, "metadata": body.get("metadata")}
        if body.get("stream"):
            self._stream(peer, body, document, extra)
            return 0, {}, None
        if body.get("max_tokens", 0) > 1000 and self._goes_on(body):
            self._long(peer)
        return 200, extra, document

    def _check(self, body: dict[str, Any]) -> None:
        messages = body.get("messages")
        if self.does("checks") == "ignore":
            body["messages"] = messages if isinstance(messages, list) else []
            return
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "messages", "messages: a list, please")
        for place, message in enumerate(messages):
            if message.get("role") not in ("user", "assistant", "tool", "system"):
                raise Refusal(400, f"messages[{place}].role")
            if "content" not in message or isinstance(message["content"], int):
                raise Refusal(400, f"messages[{place}].content")
        if body.get("model") not in (None, "words"):
            raise Refusal(404, "model", "no such model", "model_not_found")
        if len(str(messages[0]["content"]).split()) > 100:
            if self.does("context") == "cut":
                messages[0]["content"] = "cut"
            elif self.does("context") == "mumble":
                raise Refusal(400, None, "too much")
            else:
                raise Refusal(400, "messages", "longer than the context", "context_length_exceeded")
        if "no_such_parameter" in body and self.does("unknown") == "honour":
            raise Refusal(400, "no_such_parameter")
        form = body.get("response_format") or {}
        schema = form.get("json_schema") or {}
        if form.get("type") == "json_schema" and (
            "name" not in schema or schema["schema"].get("type") != "object" or "a" in schema["schema"]["properties"]
        ):
            raise Refusal(400, "response_format")
        chosen = body.get("tool_choice")
        if isinstance(chosen, dict) and chosen["type"] == "function" and chosen["function"]["name"] == "no_such_tool":
            raise Refusal(400, "tool_choice")

    def _words(self, body: dict[str, Any], choice: int) -> tuple[list[str], str]:
        """The words of an answer, and how it ended."""
        if self.does("model") == "one word" and "logit_bias" not in body:
            return ["yes"], "stop"
        hot = body.get("temperature") not in (0, "hot") and body.get("top_p", 1) > 0.01 and self.does("model") != "steady"
        seed = f"{body.get('seed', random.random())}/{choice}" if hot else "cold"
        if self.does("model") == "restless":
            seed = str(random.random())
        for name in ("presence_penalty", "frequency_penalty"):
            seed += str(body.get(name, ""))
        chance = random.Random(seed)
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 40
        words = [f" {chance.choice(WORDS)}" for _ in range(min(limit, 40 if body.get("max_tokens", 0) < 1000 else 200))]
        if "logit_bias" in body:
            words = [" forced"] * min(limit, 200)
        if body.get("stop"):
            text = "".join(words)
            place = text.find(body["stop"][0])
            if place >= 0:
                return [text[:place]], "stop" if self.does("stop") != "break" else "length"
        return words, "length" if limit <= len(words) else "stop"

    def _message(self, body: dict[str, Any], choice: int) -> tuple[dict[str, Any], str, list[str]]:
        words, finish = self._words(body, choice)
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        form = (body.get("response_format") or {}).get("type")
        tools, chosen = body.get("tools"), body.get("tool_choice")
        if form:
            text = '{"colour": "red", "bright": true}' if form == "json_schema" else '{"any": "thing"}'
            if self.does("response_format") == "unheld" and "logit_bias" in body:
                text = "".join(words)
            elif "logit_bias" in body:
                text = text[:9] + "".join(words)
            elif self.does("response_format") == "loose":
                text = '{"colour": "blue", "bright": true}'
            return {**message, "content": text}, "stop", [text]
        if tools and chosen != "none":
            call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
            if isinstance(chosen, dict) and chosen["type"] == "custom":
                call = {"id": "call_1", "type": "custom", "custom": {"name": "take_note", "input": "milk"}}
            elif isinstance(chosen, dict):
                call["function"] = {"name": "paint_wall", "arguments": '{"colour": "red"}'}
            if self.does("tools") == "break" and "function" in call:
                call["function"]["arguments"] = '{"town": 5}'  # type: ignore[index]
            calls = [call] if body.get("parallel_tool_calls") is False else [call, {**call, "id": "call_2"}]
            if not isinstance(body["messages"][-1].get("tool_call_id"), str):
                return {**message, "tool_calls": calls}, "tool_calls", []
        if body.get("function_call"):
            called = {"name": body["function_call"]["name"], "arguments": "{}"}
            return {**message, "function_call": called}, "function_call", []
        if "audio" in (body.get("modalities") or ()):
            message["audio"] = {"id": "audio_1", "expires_at": 1, "data": "", "transcript": ""}
        return {**message, "content": "".join(words)}, finish, words

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.count += 1
            number = self.count if self.does("ids") == "honour" else 1
        made, total = [], 0
        for index in range(body.get("n") or 1):
            message, finish, words = self._message(body, index)
            total += len(words)
            choice = {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
            if body.get("logprobs"):
                tokens = [
                    {"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": word, "logprob": -0.5, "bytes": None}] * (body.get("top_logprobs") or 0)}
                    for word in words
                ]  # fmt: skip
                if self.does("logprobs") == "break":
                    del tokens[0]["bytes"]
                elif self.does("logprobs") == "others":
                    tokens = tokens[1:]
                choice["logprobs"] = {"content": tokens, "refusal": None}
            if self.does("shape") == "break":
                del choice["logprobs"]
            made.append(choice)
        prompt = sum(len(str(message.get("content")).split()) for message in body["messages"])
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": total,
            "total_tokens": prompt + total + (self.does("usage") == "break"),
        }
        document = {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 7,
            "model": "words",
            "choices": made,
            "usage": counts,
        }
        if "service_tier" in body:
            document["service_tier"] = "default"
        return document

    # Streams

    def _stream(self, peer: Peer, body: dict[str, Any], document: dict[str, Any], extra: Mapping[str, str]) -> None:
        wanted = (body.get("stream_options") or {}).get("include_usage")
        chunks = list(_chunks(document, self.does("stream"), wanted))
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        match self.does("stream"):
            case "no marker":
                pass
            case "stray line":
                events = ["hello\n\n", *events, "data: [DONE]\n\n"]
            case "no JSON":
                events = ["data: {\n\n", *events, "data: [DONE]\n\n"]
            case "cut line":
                events.append("data: [DONE]\n")
            case _:
                events.append("data: [DONE]\n\n")
        kind = "text/plain" if self.does("stream") == "plain type" else "text/event-stream"
        lines = {"content-type": kind, "transfer-encoding": "chunked", **extra}
        peer.send(_head(200, lines))
        if body.get("max_tokens", 0) > 1000 and self._goes_on(body):
            self._works(peer, *(b"%x\r\n%b\r\n" % (len(event), event.encode()) for event in events))
        said = "".join(events).encode()
        peer.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(said), said))

    def _goes_on(self, body: dict[str, Any]) -> bool:
        """Whether the model does not come to an end."""
        return self.does("model") != "one word" or (self.does("end") == "forced" and "logit_bias" in body)

    def _long(self, peer: Peer) -> None:
        """A whole answer that takes for ever."""
        self._works(peer)

    def _works(self, peer: Peer, *pieces: bytes) -> None:
        """Send the pieces, and no end, until the caller leaves."""
        with self.changed:
            self.running.append(peer)
            self.longs += 1
            self.changed.notify_all()
        try:
            for piece in pieces:
                peer.send(piece)
            peer.wait_for_close()
        finally:
            if self.does("leaving") == "honour":
                with self.changed:
                    self.running.remove(peer)
                    self.changed.notify_all()
        raise Gone

    def _wait(self) -> None:
        """Where there is one slot: wait for the next long answer to have come and gone."""
        with self.changed:
            self.quicks += 1
            turn = self.quicks
            assert self.changed.wait_for(lambda: self.longs >= turn and not self.running, 20)

    def _load(self) -> int:
        """Calls that are worked on: those whose callers are still there, or all that ever were."""
        return sum(self.does("leaving") != "honour" or _is_there(peer) for peer in list(self.running))


def _is_there(peer: Peer) -> bool:
    """Whether the caller has not closed the connection. Asked of the system, so that nobody need have noticed yet."""
    try:
        return peer.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _head(status: int, lines: Mapping[str, str]) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} X\r\n{fields}\r\n".encode()


def _chunks(document: dict[str, Any], does: str, wants_usage: bool | None) -> Any:
    """The chunks of a completion, a word each."""
    head = {name: document[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    usage = {"usage": None} if wants_usage else {}
    number = 0
    for choice in document["choices"]:
        index, message = choice["index"], choice["message"]

        def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
            nonlocal number
            number += 1
            made = {
                **head,
                "choices": [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None, **more}],
                **usage,
            }
            if does == "new ids":
                made["id"] = f"chatcmpl-{number}"
            if does == "no object":
                del made["object"]
            if does == "usage unasked":
                made["usage"] = document["usage"]
            return made

        if does != "no role":
            yield chunk({"role": "assistant", "content": ""})
        tokens = (choice.get("logprobs") or {}).get("content") or []
        words = (message["content"] or "").replace(" ", "\0 ").split("\0")
        for place, word in enumerate([word for word in words if word]):
            beside = {"logprobs": {"content": tokens[place : place + 1], "refusal": None}} if tokens else {}
            yield chunk({"content": "other" if does == "another text" else word}, **beside)
        for place, call in enumerate(message.get("tool_calls") or ()):
            inner = call["function"]
            yield chunk(
                {
                    "tool_calls": [
                        {
                            "index": place,
                            "id": call["id"],
                            "type": "function",
                            "function": {"name": inner["name"], "arguments": ""},
                        }
                    ]
                }
            )
            arguments = inner["arguments"][:-1] if does == "half a call" else inner["arguments"]
            yield chunk({"tool_calls": [{"index": place, "function": {"arguments": arguments}}]})
        if does != "no finish":
            yield chunk({}, choice["finish_reason"])
        if does == "late piece":
            yield chunk({"content": ""})
    if wants_usage and does != "no usage":
        yield {
            **head,
            "choices": [] if does != "usage with choices" else [{"index": 0, "delta": {}, "finish_reason": None}],
            "usage": document["usage"],
        }
