"""A fast HTTP/1.1 server on loopback, in a process of its own: the same completion for every POST, as little work as possible.

Compiled where there is a C compiler (`loopback.c`); it then never sleeps and takes a core of its own. A server that sleeps is
still busy when a fast client sends and asleep when a slower one does, and waking it costs the sender 10 to 15 µs of CPU (seen
here): a cliff between clients that differ little.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The Nile, the Rhine and the Amazon. " * 4, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60},
    }
).encode()
REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_1\r\ndate: Tue, 24 Nov 2026 00:00:00 GMT\r\n"
    b"server: loopback\r\ncontent-length: " + str(len(ANSWER)).encode() + b"\r\n\r\n" + ANSWER
)


class Loopback(asyncio.Protocol):
    """One connection. Requests are framed by their Content-Length; nothing else is looked at."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.pending = b""

    def data_received(self, data: bytes) -> None:
        self.pending += data
        while (end := self.pending.find(b"\r\n\r\n")) >= 0:
            head = self.pending[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.pending) < end + 4 + length:
                return
            self.pending = self.pending[end + 4 + length :]
            self.transport.write(REPLY)  # type: ignore[attr-defined]


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Loopback, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent goes


@contextmanager
def running() -> Iterator[int]:
    """The port of a server that runs until the block is left."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(_command(Path(folder)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()


def _command(folder: Path) -> list[str]:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        print("  no C compiler here: the loopback server is the one in Python")
        return [sys.executable, "-m", "bench.loopback"]
    program, answer = folder / "loopback", folder / "answer"
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_suffix(".c")], check=True)
    answer.write_bytes(REPLY)
    return [str(program), str(answer)]


if __name__ == "__main__":
    asyncio.run(_serve())
