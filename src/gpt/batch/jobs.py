"""What is asked of each row, and what is written of each answer. Pure: rows in, requests out; answers in, lines out.

A row is told apart by what it is, so that a file may hold several kinds:

- with a prompt set, an object whose fields are filled in, or what the function makes of it;
- a line of the service's batch file: custom_id, method, url, body;
- a request: an object with messages. What of it the protocol does not know is sent as it is, less its id and what is kept;
- a list of messages; a text, which is a prompt.

An output row is an object: row, id, input, text, texts (all of them, where more than one was asked for), value, refusal,
reasoning, tool_calls, finish_reason, model, usage, completion, error. What does not apply is left out, but row, text and error.

The service's format, output and error file, is that of its guide "Batch API" (platform.openai.com/docs/guides/batch, steps 5
and "Batch expiration") and of BatchRequestInput and BatchRequestOutput in its OpenAPI document 2.3.0: `error` is for what
failed without an answer; an answered failure has its status and body as `response`. What came with a status of success and is
no good all the same has both.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
from msgspec.structs import force_setattr

import gpt.errors
from gpt.batch.progress import Facts
from gpt.batch.template import Template, fields_of, has, kind_of, meant
from gpt.client import _KNOWN, _OPTIONS, _settle
from gpt.errors import GptError, InvalidRequestError, ParseError, ResponseError
from gpt.protocol.codec import decode_completion, encode_request, history
from gpt.protocol.failures import engine_failure
from gpt.protocol.usage import added
from gpt.protocol.wire import ResponseInfo, Seconds
from gpt.types import UNSET, ChatCompletion, ChatRequest, SystemMessage, ToolCall, Usage, UserMessage

if TYPE_CHECKING:
    from types import CodeType

    from gpt.batch.rows import Row
    from gpt.client import Prompt
    from gpt.prices import Cost
    from gpt.structured.parse import Parsed

FORMATS = ("rows", "completions", "batch")
"""In which answers are written: rows of our own, the same with the whole completion, the service's batch output file."""

_PARAMS = (_KNOWN - {"messages", "model", "stream"}) | {"body"}
_TEXTS = ("prompt", "question", "instruction", "input", "text", "content")
"""Fields that hold what is asked, the likeliest first."""

_BARE = ResponseInfo()
_NOTHING = Usage()

_encode = msgspec.json.Encoder().encode


# --------------------------------------------------------------------------------------------------------------------
# What is asked
# --------------------------------------------------------------------------------------------------------------------


class Task(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What is asked of each row, and what is written of each answer. Raises InvalidRequestError for what is wrong in it.

    `params`, parameters of the protocol and `body` as a call has them, and `model` go over what rows say.
    """

    model: str | None = None
    prompt: str | Callable[[Any], Prompt] | None = None
    """A template, or a function of the row's value that gives a text, a list of messages or a whole request."""
    system: str | None = None
    """A template: a message before those of the row or the prompt."""
    params: Mapping[str, Any] = {}
    into: Any = None
    """A Python type or a JSON Schema, as `chat.parse` takes it."""
    reasks: int = 0
    """How often the model is told what was wrong and asked again, where its answer is no such value."""
    keep: tuple[str, ...] | None = None
    """Fields of the row that stand with its answer as `input`; "*" is all. None: all where there is a prompt, else none.
    A row that is no object has itself as its field "row"."""
    output: Literal["rows", "completions", "batch"] = "rows"

    def __post_init__(self) -> None:
        for name, value in (("model", self.model), ("system", self.system)):
            if value is not None and not (isinstance(value, str) and value.strip()):
                raise _wrong(name, f"expected a text, got {value!r}")
        _check_prompt(self.prompt)
        force_setattr(self, "params", _checked_params(self.params))
        force_setattr(self, "keep", _checked_keep(self.keep))
        if self.output not in FORMATS:
            raise _wrong("output", f"expected one of {', '.join(FORMATS)}, got {self.output!r}")
        if self.keep and self.output == "batch":
            raise _wrong("keep", 'the service\'s batch format has no place for fields of rows; take output="rows"')
        if isinstance(self.reasks, bool) or not isinstance(self.reasks, int) or self.reasks < 0:
            raise _wrong("reasks", f"expected an int from 0, got {self.reasks!r}")
        if self.reasks and self.into is None:
            raise _wrong("reasks", "is for values; give their type as into=")
        if self.into is not None:
            if "response_format" in self.params or "response_format" in (self.params.get("body") or ()):
                raise _wrong("response_format", "into= says already what form the answer has")
            _shape(self.into)
        _ = self.template, self.instructions, self.over  # what is wrong in them is told now, not at the first row
        if self.template is not None and not self.template.names_fields:
            raise _wrong("prompt", 'names no field, and would ask the same of each row; put one in, as "{text}", or "{row}"')

    @functools.cached_property
    def template(self) -> Template | None:
        """The prompt, where it is a template."""
        return Template(self.prompt) if isinstance(self.prompt, str) else None

    @functools.cached_property
    def instructions(self) -> Template | None:
        """The system message."""
        return None if self.system is None else Template(self.system, param="system")

    @functools.cached_property
    def over(self) -> dict[str, Any]:
        """The fields of a request that go over what rows say."""
        fields = dict(self.params)
        body = fields.pop("body", None)
        if body:
            fields["extra"] = body
        if self.model is not None:
            fields["model"] = self.model
        encode_request(ChatRequest(messages=[UserMessage("")], **fields))
        return fields

    @functools.cached_property
    def written(self) -> Callable[[Any], bytes]:
        """The way from a value of the type to JSON, by the type's own names."""
        return _written(self.into)

    def facts(self) -> dict[str, Any]:
        """What changes answers or their form, as plain JSON values; what is as it is by default is left out, so that a job goes
        on under a later release that knows more of it.

        A function is known by its name and its source, by its defaults, and by the values that it holds on to. What it reads
        from elsewhere, a global variable, an object's attributes or a file, is not seen.
        """
        made: dict[str, Any] = {
            "model": self.model,
            "prompt": _function(self.prompt) if callable(self.prompt) else self.prompt,
            "system": self.system,
            "params": msgspec.json.decode(_encode(self.params)) or None,
            "into": None if self.into is None else {"name": _shape(self.into).name, "schema": _shape(self.into).schema},
            "reasks": self.reasks or None,
            "keep": None if self.keep is None else list(self.keep),
            "output": None if self.output == "rows" else self.output,
        }
        return {name: value for name, value in made.items() if value is not None}


def _wrong(param: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {what}", param=param)


def _check_prompt(prompt: Any) -> None:
    """Raise InvalidRequestError for what is no template and no function."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise _wrong("prompt", 'is empty; a template is text with fields of the row in it, such as "{question}"')
    elif callable(prompt):
        import inspect

        if inspect.iscoroutinefunction(prompt):
            raise _wrong("prompt", "is an async function; a row is made a request where nothing waits: give a plain one")
    elif prompt is not None:
        raise _wrong("prompt", f"expected a template or a function, got {type(prompt).__name__}")


def _checked_params(params: Any) -> dict[str, Any]:
    """The parameters, less what is not given. Raises InvalidRequestError."""
    if not isinstance(params, Mapping):
        raise _wrong("params", f"expected a dict, got {type(params).__name__}")
    given = {name: value for name, value in params.items() if value is not UNSET}
    for name in given:
        if name == "messages":
            raise _wrong(name, "rows, prompt= and system= say what is asked, not params")
        if name == "model":
            raise _wrong(name, "has its own place: model=, beside params")
        if name in _OPTIONS:
            raise _wrong(str(name), "says how calls are made, which is the client's to know: Gpt(...), or with_options(...)")
        if name not in _PARAMS and name != "stream":
            near = meant(str(name), _PARAMS | _OPTIONS)
            raise _wrong(
                str(name), f'is no parameter; to send it all the same, give params={{"body": {{{name!r}: ...}}}}{near}'
            )
    body = given.get("body")
    if body is not None and not isinstance(body, Mapping):
        raise _wrong("body", f"expected a dict, got {type(body).__name__}")
    if body and "messages" in body:
        raise _wrong("messages", "rows, prompt= and system= say what is asked, not body")
    if given.pop("stream", None) or (body and body.get("stream")):
        raise _streamed()
    _settle(given)
    return given


def _streamed() -> InvalidRequestError:
    return _wrong("stream", "a batch gives whole answers")


def _checked_keep(keep: Any) -> tuple[str, ...] | None:
    if keep is None:
        return None
    if isinstance(keep, (str, Mapping)) or not isinstance(keep, Iterable):
        raise _wrong("keep", f"expected names of fields, got {keep!r}; one name is ({keep!r},), all fields are ('*',)")
    made = tuple(keep)
    for name in made:
        if not isinstance(name, str):
            raise _wrong("keep", f"expected names of fields, got {name!r}")
    return made


def _shape(into: Any) -> Any:
    """The type as a JSON Schema. Raises InvalidRequestError."""
    from gpt.structured.dialects import PLAIN
    from gpt.structured.shapes import shape

    return shape(into, PLAIN)


def _written(into: Any) -> Callable[[Any], bytes]:
    """The way from a value to JSON: by pydantic where its types are in it, or where nothing else knows the type.

    As `structured/shapes.py` chooses the way there.
    """
    from gpt.structured.shapes import _mentions_pydantic

    if into is None or isinstance(into, Mapping):
        return _encode
    if not _mentions_pydantic(into, set()):
        try:
            msgspec.json.schema(into)
        except (TypeError, KeyError):
            pass
        else:
            return _encode
    import pydantic

    adapter: Any = pydantic.TypeAdapter(into)
    return lambda value: adapter.dump_json(value, by_alias=True)


# --------------------------------------------------------------------------------------------------------------------
# The fingerprint of a function
# --------------------------------------------------------------------------------------------------------------------


def _function(function: Any, within: tuple[Any, ...] = ()) -> dict[str, Any]:
    """What is known of a function, as plain values. `within` are those that hold it, of which one may be itself."""
    import inspect

    if isinstance(function, functools.partial):
        holds = [*function.args, *sorted(function.keywords.items())]
        return _function(function.func, within) | {"arguments": _digest(holds, within)}
    called = function if hasattr(function, "__qualname__") else type(function)
    made: dict[str, Any] = {"module": called.__module__, "name": called.__qualname__}
    if called in within:
        return made
    try:
        source = inspect.getsource(called).encode()
    except (OSError, TypeError):  # made by exec, at a prompt, or in C
        code = getattr(called, "__code__", None)
        source = b"" if code is None else _bytecode(code)
    made["sha256"] = hashlib.sha256(source).hexdigest()
    holds = [cell.cell_contents for cell in getattr(called, "__closure__", None) or ()]
    holds += getattr(called, "__defaults__", None) or ()
    holds += sorted((getattr(called, "__kwdefaults__", None) or {}).items())
    return made | {"holds": _digest(holds, (*within, called))} if holds else made


def _digest(values: list[Any], within: tuple[Any, ...]) -> str:
    """A mark of values: of plain ones by what they are, of functions by themselves, of others by their type."""

    def told(value: Any) -> Any:
        return _function(value, within) if callable(value) else f"{type(value).__module__}.{type(value).__qualname__}"

    made = hashlib.sha256()
    for value in values:
        try:
            plain = msgspec.json.encode(value, enc_hook=told, order="deterministic")
        except (TypeError, ValueError, RecursionError):  # plain in part only, as a dict whose keys are tuples
            plain = _encode(f"{type(value).__module__}.{type(value).__qualname__}")
        made.update(plain + b"\n")
    return made.hexdigest()


def _bytecode(code: CodeType) -> bytes:
    """What a function does, where there is no source: the same in each process, though not under each Python."""
    parts = [code.co_code, repr((code.co_names, code.co_varnames)).encode()]
    for value in code.co_consts:
        if hasattr(value, "co_code"):
            parts.append(_bytecode(value))
        else:  # the order of a set changes from process to process
            parts.append(repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value).encode())
    return b"\0".join(parts)


# --------------------------------------------------------------------------------------------------------------------
# A row -> a request
# --------------------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What is asked of one row. `id` is the row's own name for itself, `kept` what of it stands with the answer."""

    request: ChatRequest
    id: str | int | None
    kept: Mapping[str, Any] | None


def asked(task: Task, row: Row) -> Asked:
    """What is asked of a row. Only what tells the rows apart is looked at; the client checks the request.

    Raises InvalidRequestError, which does not say which row it is; of a prompt's function also what that raises of ours.
    """
    if row.problem is not None:
        raise InvalidRequestError(row.problem)
    value = row.value
    return Asked(_request(task, value), _id_of(value), _kept(task, value))


def _request(task: Task, value: Any) -> ChatRequest:
    if task.prompt is not None:
        template = task.template
        said = _made(task.prompt, value) if template is None else template.fill(value)
        return _of(task, value, said, _NOT_SENT)
    if isinstance(value, dict):
        if "messages" in value:
            return _of(task, value, value, _NOT_SENT.union(task.keep) if task.keep else _NOT_SENT)
        if "body" in value and not _LINE.isdisjoint(value):
            return _of(task, value, _body_of(value))
        raise _nothing_asked(value)
    if not isinstance(value, (str, list)):
        raise _wrong("rows", f"the row is {kind_of(value)}; a row is a text, a request or an object with fields for a prompt")
    return _of(task, value, value)


_NOT_SENT = frozenset({"id", "custom_id"})
"""Fields of a request in a file that are for who reads the file."""
_LINE = frozenset({"custom_id", "method", "url"})


def _of(task: Task, value: Any, said: Any, own: frozenset[str] = frozenset()) -> ChatRequest:
    """The request that says `said`: a text, messages, a request; with what goes over it. Fields in `own` are not part of it."""
    over = task.over
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    if isinstance(said, str):
        messages: list[Any] = [UserMessage(said)]
    elif isinstance(said, ChatRequest):
        fields = {name: one for name in said.__struct_fields__ if (one := getattr(said, name)) is not UNSET}
        extra = dict(fields.pop("extra", ()))
        messages = history(fields.pop("messages"))
    elif isinstance(said, Mapping):
        for name, one in said.items():
            if name in _KNOWN:
                fields[name] = one
            elif name not in own:
                extra[name] = one
        if "messages" not in fields:
            what = "a single message: put it in a list" if "role" in said else "a request needs them"
            raise _wrong("messages", f"missing; {what}")
        messages = fields.pop("messages")
        if type(messages) is not list:
            messages = history(messages)
    else:
        messages = said
    if fields.get("stream") or extra.get("stream"):
        raise _streamed()
    if task.instructions is not None:
        messages = [_first(task.instructions.fill(value), messages), *messages]
    if over:
        fields |= over
        extra |= over.get("extra", {})
    if extra:
        fields["extra"] = extra
    return ChatRequest(messages=messages, **fields)


def _first(text: str, messages: list[Any]) -> SystemMessage:
    """The system message of a task. Raises InvalidRequestError where the row has its own."""
    first = messages[0] if messages else None
    role = first.get("role") if isinstance(first, Mapping) else getattr(first, "role", None)
    if role in ("system", "developer"):
        raise _wrong("system", f"the row's messages begin with a {role} message of their own; leave one of the two out")
    return SystemMessage(text)


def _made(function: Any, value: Any) -> Any:
    """What the prompt's function makes of a row: a text, a request, or messages. Raises GptError."""
    try:
        made = function(value)
        if isinstance(made, Iterable) and not isinstance(made, (str, bytes, Mapping)):
            made = list(made)
    except GptError:
        raise
    except Exception as error:
        raise _wrong("prompt", f"the function raised {type(error).__name__}: {error}") from error
    if not isinstance(made, (str, Mapping, list, ChatRequest)):
        raise _wrong("prompt", f"the function gave {type(made).__name__}; expected a text, messages or a request")
    return made


def _body_of(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request in a line of the service's batch file. Raises InvalidRequestError."""
    for name in ("custom_id", "method", "url"):
        if not isinstance(line.get(name), str):
            what = f"expected a text, got {kind_of(line[name])}" if name in line else "missing"
            raise _wrong(name, f"{what}; a line of a batch file has custom_id, method, url and body")
    if line["method"].upper() != "POST":
        raise _wrong("method", f"expected POST, got {line['method']}")
    if not line["url"].rstrip("/").endswith("/chat/completions"):
        raise _wrong("url", f"only /v1/chat/completions is asked here, and the line is for {line['url']}")
    body = line["body"]
    if not isinstance(body, dict):
        raise _wrong("body", f"expected an object, got {kind_of(body)}")
    return body


def _nothing_asked(row: Mapping[str, Any]) -> InvalidRequestError:
    """The error for an object that is no request, where there is no prompt."""
    if "role" in row:
        return _wrong("messages", 'the row is a single message; a request is {"messages": [...]}')
    likely = [name for name in _TEXTS if isinstance(row.get(name), str)]
    texts = likely or [name for name, value in row.items() if isinstance(value, str)]
    likeliest = texts[0] if likely or len(texts) == 1 else None
    shown = "{...}" if likeliest is None else f"{{{likeliest}}}"
    near = meant("messages", row) if likeliest is None else ""
    what = f'the row has none, and there is no prompt to fill it into, such as "{shown}" (prompt=, or -p); {has(row)}{near}'
    return _wrong("messages", what)


def _id_of(value: Any) -> str | int | None:
    """The row's name for itself: its custom_id, else its id."""
    if isinstance(value, dict):
        for name in ("custom_id", "id"):
            one = value.get(name)
            if isinstance(one, (str, int)) and not isinstance(one, bool):
                return one
    return None


def _kept(task: Task, value: Any, *, strict: bool = True) -> Mapping[str, Any] | None:
    """What of a row stands with its answer. With `strict` it raises InvalidRequestError for a field that is not there."""
    keep = task.keep
    if keep is None:
        return None if task.prompt is None else fields_of(value)
    if not keep:
        return None
    fields = fields_of(value)
    if "*" in keep:
        return fields
    missing = next((name for name in keep if name not in fields), None)
    if missing is not None and strict:
        raise _wrong("keep", f'the row has no field "{missing}"; {has(fields)}{meant(missing, fields)}')
    return {name: fields[name] for name in keep if name in fields}


# --------------------------------------------------------------------------------------------------------------------
# An answer -> an output row
# --------------------------------------------------------------------------------------------------------------------


def answered(task: Task, row: Row, what: Asked, completion: ChatCompletion, parsed: Parsed[Any] | None = None) -> bytes:
    """The output row of an answer: one line of JSON, without its line break. `usage` is that of all its attempts.

    Raises InvalidRequestError for a value that its own type cannot write.
    """
    if task.output == "batch":
        return _of_service(row, what.id, _response(completion), None)
    made = _head(row, what.id, what.kept)
    made |= _said(completion, forced=parsed is not None and parsed.rung == "tool")
    if parsed is not None:
        try:
            made["value"] = msgspec.Raw(task.written(parsed.value))
        except (TypeError, ValueError, OverflowError) as error:
            raise _wrong("into", f"the value cannot be written as JSON: {error}") from error
        _put_usage(made, parsed.usage)
    if task.output == "completions":
        made["completion"] = msgspec.Raw(_body(completion))
    made["error"] = None
    return _encode(made)


def failed(task: Task, row: Row, what: Asked | None, error: GptError) -> bytes:
    """The output row of an error: one line of JSON, without its line break. `what` is None where nothing could be asked.

    Of an answer that was no value it has all that came.
    """
    came = error.completion if isinstance(error, ParseError) else None
    if what is not None:
        name, kept = what.id, what.kept
    elif row.problem is None:
        name, kept = _id_of(row.value), _kept(task, row.value, strict=False)
    else:
        name = kept = None
    if task.output == "batch":
        return _failed_of_service(row, name, error)
    made = _head(row, name, kept)
    if isinstance(error, ParseError):
        made |= _said(error.completion)
        made["text"] = error.text
        _put_usage(made, error.usage)
    if came is not None and task.output == "completions":
        made["completion"] = msgspec.Raw(_body(came))
    made["error"] = _told(error)
    return _encode(made)


def _head(row: Row, name: str | int | None, kept: Mapping[str, Any] | None) -> dict[str, Any]:
    made: dict[str, Any] = {"row": row.number}
    if name is not None:
        made["id"] = name
    if kept is not None:
        made["input"] = kept
    made["text"] = None
    return made


def _said(completion: ChatCompletion, *, forced: bool = False) -> dict[str, Any]:
    """What of an answer stands in its row. `forced`: its one call is the value that was asked for, in place of a text."""
    made: dict[str, Any] = {"text": completion.text}
    choices = completion.choices
    if choices:
        message = choices[0].message
        calls: list[Any] = list(message.tool_calls or ())
        if forced:
            made["text"] = next((call.function.arguments for call in calls if isinstance(call, ToolCall)), completion.text)
            calls = []
        if message.function_call is not None:
            calls.append({"type": "function", "function": message.function_call})
        if len(choices) > 1:
            made["texts"] = [choice.message.content or "" for choice in choices]
        if message.refusal is not None:
            made["refusal"] = message.refusal
        reasoning = message.reasoning
        if reasoning is not None:
            made["reasoning"] = reasoning
        if calls:
            made["tool_calls"] = calls
        if choices[0].finish_reason is not None:
            made["finish_reason"] = choices[0].finish_reason
    if completion.model:
        made["model"] = completion.model
    _put_usage(made, completion.usage)
    return made


def _put_usage(made: dict[str, Any], usage: Usage | None) -> None:
    if usage is not None:
        made["usage"] = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        }


def _body(completion: ChatCompletion) -> bytes:
    """The whole completion as one line, as it arrived: no number is rewritten, and no field is lost."""
    body = completion.to_json().strip()
    if b"\n" in body or b"\r" in body:
        body = msgspec.json.format(body, indent=-1)
    if not body.isascii():
        body = body.decode("utf-8", "replace").encode()  # a field that nobody declares may hold anything
    return body


def _told(error: GptError) -> dict[str, Any]:
    """An error as plain values; what it does not know is left out. What was sent, and by which key, it never knows."""
    made = {
        "type": type(error).__name__,
        "message": error.message,
        "status": getattr(error, "status_code", None) or None,
        "code": getattr(error, "code", None),
        "param": getattr(error, "param", None),
        "fault": error.fault,
        "request_id": getattr(error, "request_id", None),
    }
    if isinstance(error, ParseError):
        made["request_id"] = (error.completion.info or _BARE).request_id
    return {name: value for name, value in made.items() if value is not None}


# --------------------------------------------------------------------------------------------------------------------
# The service's format
# --------------------------------------------------------------------------------------------------------------------

_OURS = re.compile(r"batch_req_(\d{12,})")
"""The ids of our lines, which hold the number of the row. The service's own are longer, and not of digits alone."""


def _of_service(row: Row, name: str | int | None, response: Any, error: Any) -> bytes:
    return _encode(
        {
            "id": f"batch_req_{row.number:012d}",
            "custom_id": f"row-{row.number}" if name is None else str(name),
            "response": response,
            "error": error,
        }
    )


def _response(completion: ChatCompletion) -> dict[str, Any]:
    info = completion.info or _BARE
    return {"status_code": info.status, "request_id": info.request_id or "", "body": msgspec.Raw(_body(completion))}


def _failed_of_service(row: Row, name: str | int | None, error: GptError) -> bytes:
    """A line of the error file."""
    told: dict[str, Any] | None = {"code": type(error).__name__, "message": error.message}
    response: dict[str, Any] | None = None
    if isinstance(error, ParseError):
        response = _response(error.completion)
    elif isinstance(error, ResponseError) and error.status_code:
        try:
            body = msgspec.json.decode(error.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            said = {"message": error.message, "type": type(error).__name__, "param": error.param, "code": error.code}
            body = {"error": said}
        response = {"status_code": error.status_code, "request_id": error.request_id or "", "body": body}
        if error.status_code >= 400:
            told = None
    return _of_service(row, name, response, told)


# --------------------------------------------------------------------------------------------------------------------
# An output row read back
# --------------------------------------------------------------------------------------------------------------------


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """An output row. What it does not have is None."""

    row: int | None = None
    """The number of the input row, from 0; None in a file that the service made."""
    id: str | int | None = None
    """The row's name for itself; the custom_id of the service's format, which has one always."""
    input: dict[str, Any] | None = None
    text: str | None = None
    texts: list[str] | None = None
    """The text of each choice, where there are several."""
    value: Any = None
    """The value that was asked for, as plain JSON values."""
    refusal: str | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage | None = None
    completion: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    """What went wrong: type, message, and what else is known of status, code, param, fault, request_id."""

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return self.error is None


def read_output(line: bytes | str) -> Output:
    """An output row, of any of the formats, the service's own files among them. Raises InvalidRequestError."""
    try:
        document = msgspec.json.decode(line)
        if isinstance(document, dict):
            if "row" in document:
                return msgspec.convert(document, Output)
            if "custom_id" in document and "response" in document:
                return _read_of_service(document)
    except (ValueError, UnicodeError) as error:
        raise _wrong("line", f"is no output row of a batch: {error}") from error
    raise _wrong("line", "is no output row of a batch: it has neither row nor custom_id and response")


def _read_of_service(line: dict[str, Any]) -> Output:
    response = line["response"] or {}
    ours = _OURS.fullmatch(str(line.get("id")))
    head = {"row": int(ours[1]) if ours else None, "id": line["custom_id"]}
    status, body, error = response.get("status_code"), response.get("body"), line.get("error")
    said: dict[str, Any] = {}
    if isinstance(body, dict) and body.get("choices"):
        said = _said(decode_completion(_encode(body))) | {"completion": body}
    if not said or error is not None:
        said["error"] = _error_of_service(status, body, error) | (
            {"request_id": response["request_id"]} if response.get("request_id") else {}
        )
    return msgspec.convert(msgspec.to_builtins(head | said), Output)


def _error_of_service(status: int | None, body: Any, error: Any) -> dict[str, Any]:
    """The error of a line, as `_told` has it."""
    words: dict[str, Any] = {"message": error} if isinstance(error, str) else dict(error or {})
    if not words and isinstance(body, dict):
        inside = body.get("error", body)
        words = dict(inside) if isinstance(inside, dict) else {"message": inside}
    named = words.get("type"), words.get("code")
    kind = next((one for name in named if (one := _class_of(name)) is not None), None)
    if kind is None and status is not None and status >= 400:
        kind = type(engine_failure(status, _encode(body if isinstance(body, dict) else {"error": words}), ""))
    code, message = words.get("code"), words.get("message")
    made = {
        "type": kind.__name__ if kind is not None else str(code or words.get("type") or "error"),
        "message": message if isinstance(message, str) else "the line does not say what went wrong",
        "status": status if kind is None or issubclass(kind, ResponseError) else None,
        "code": None if code is None or _class_of(code) is not None else str(code),
        "param": words.get("param"),
        "fault": kind.fault if kind is not None else None,
    }
    return {name: value for name, value in made.items() if value is not None}


def _class_of(name: Any) -> type[GptError] | None:
    """The error class of ours with this name."""
    made = getattr(gpt.errors, name, None) if isinstance(name, str) else None
    return made if isinstance(made, type) and issubclass(made, GptError) else None


# --------------------------------------------------------------------------------------------------------------------
# What a row took
# --------------------------------------------------------------------------------------------------------------------


def took(source: ChatCompletion | Parsed[Any] | GptError, elapsed: Seconds, cost: Cost | None) -> Facts:
    """What a row took, by what came of it: an answer, a value with all its attempts, an error. `cost` is that of all of it."""
    kind = type(source).__name__ if isinstance(source, GptError) else ""
    answers = (source,) if isinstance(source, ChatCompletion) else getattr(source, "completions", ())
    asked_for = [one for one in answers if not (one.info or _BARE).cached]
    usages = [one.usage for one in asked_for]
    usage = (usages[0] if len(usages) == 1 else added(usages)) or _NOTHING
    return Facts(
        usage.prompt_tokens,
        usage.completion_tokens,
        elapsed,
        kind,
        None if cost is None else format(cost.amount, "f"),
        "" if cost is None else cost.currency,
        bool(answers) and not asked_for,
        all(one is not None and (one.prompt_tokens or one.completion_tokens) for one in usages),
    )
