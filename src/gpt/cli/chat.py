"""`gpt chat`: a conversation. An empty line does nothing; Ctrl-C stops the answer, Ctrl-D or /quit ends."""

from __future__ import annotations

import argparse
import sys

from gpt.cli.commands import WELL, client, complain
from gpt.client import Gpt
from gpt.errors import GptError
from gpt.types import AssistantMessage, Message, SystemMessage, UserMessage

_HELP = "/quit ends, /new forgets the conversation, Ctrl-C stops an answer"


def chat(options: argparse.Namespace) -> int:
    """Read a line, answer it with all that was said before, until the input ends. Gives the exit code."""
    system: list[Message] = [SystemMessage(options.system)] if options.system else []
    said = list(system)
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401 - gives input() its history and keys

        print(f"gpt: {_HELP}", file=sys.stderr)
    with client(options) as gpt:
        while (line := _read(terminal=terminal)) is not None:
            match line.strip():
                case "":
                    continue
                case "/quit" | "/exit":
                    break
                case "/new":
                    said = list(system)
                case "/help":
                    print(f"gpt: {_HELP}", file=sys.stderr)
                case text:
                    _answer(gpt, said, text, whole=options.no_stream)
    return WELL


def _read(*, terminal: bool) -> str | None:
    """The next line, or None at the end of the input. Ctrl-C at the prompt only drops the line."""
    while True:
        try:
            return input("> " if terminal else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _answer(gpt: Gpt, said: list[Message], text: str, *, whole: bool) -> None:
    """Print the answer to `text` and add both to what was said; what failed is not added, what was stopped is."""
    said.append(UserMessage(text))
    stream = gpt.chat.stream(said)
    try:
        with stream:
            for piece in stream.text_stream:
                if not whole:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ngpt: stopped", file=sys.stderr)
    except GptError as error:
        said.pop()
        complain(error)
        return
    answer = stream.snapshot
    print(answer.text if whole else "")
    said.append(answer.message if answer.choices else AssistantMessage(""))
