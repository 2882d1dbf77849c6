"""The rules of server-sent events read aloud: slow and plain, so that they can be checked by eye.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from gpt.protocol.sse import Event


def reference(document: bytes) -> list[Event]:
    """The rules read aloud, over the whole document: slow and plain, so that it can be checked by eye."""
    text = document.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    *lines, _ = text.split("\n")
    events, data, kind, last = [], [], "", ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append(Event("\n".join(data).encode(), kind, last))
            data, kind = [], ""
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last = value
    return events
