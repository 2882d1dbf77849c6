"""`gpt PROMPT`: one answer."""

from __future__ import annotations

import argparse
import sys

from gpt.cli.commands import REFUSED, USAGE, WELL, client, parser
from gpt.types import Message, SystemMessage, UserMessage


def ask(options: argparse.Namespace) -> int:
    """Answer the prompt, with what comes on stdin as its material. Gives the exit code."""
    prompt = " ".join(options.prompt)
    if not sys.stdin.isatty():
        material = sys.stdin.read()
        if material.strip():
            prompt = f"{prompt}\n\n{material}" if prompt else material
    if not prompt.strip():
        parser("ask").print_usage(sys.stderr)
        print('gpt: nothing to answer; write a prompt: gpt "Name three rivers."', file=sys.stderr)
        return USAGE
    messages: list[Message] = [SystemMessage(options.system)] if options.system else []
    messages.append(UserMessage(prompt))
    with client(options) as gpt:
        if options.json:
            completion = gpt.chat.complete(messages)
            sys.stdout.write(completion.to_json().decode() + "\n")
        elif options.no_stream:
            completion = gpt.chat.complete(messages)
            print(completion.text)
        else:
            with gpt.chat.stream(messages) as stream:
                for piece in stream.text_stream:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            sys.stdout.write("\n")
            completion = stream.completion
        sys.stdout.flush()
    refusal = completion.message.refusal
    if refusal:
        print(f"gpt: the model refused: {refusal}", file=sys.stderr)
        return REFUSED
    if completion.choices[0].finish_reason == "length":
        print("gpt: the answer was cut at the token limit", file=sys.stderr)
    return WELL
