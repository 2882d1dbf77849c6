"""A spoken answer, written to a file as it comes.

python examples/speech.py hello.wav

Streamed speech of the hosted service is "pcm16" and nothing else: 24,000 samples a second, two bytes each, one channel.
"""

from __future__ import annotations

import sys
import wave

from gpt import AudioParams, Gpt


def main(client: Gpt, path: str) -> None:
    """Prints the words and writes the sound."""
    voice = AudioParams("alloy", "pcm16")
    with (
        wave.open(path, "wb") as file,
        client.chat.stream("Say hello in Norwegian.", modalities=["text", "audio"], audio=voice) as stream,
    ):
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        for event in stream:
            if event.type == "audio":
                print(event.transcript, end="", flush=True)
                file.writeframes(event.bytes)
    print()


if __name__ == "__main__":
    main(Gpt(model="gpt-audio"), sys.argv[1])
