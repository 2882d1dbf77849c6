"""A picture as a part of a message: a path, a URL, or bytes made on the spot.

OPENAI_BASE_URL=http://127.0.0.1:8080/v1 python examples/pictures.py cat.png
"""

from __future__ import annotations

import sys

from gpt import Gpt, TextContentPart, UserMessage, parts


def main(client: Gpt, picture: str) -> None:
    """Prints what the model sees."""
    said = UserMessage([TextContentPart("What is in this picture?"), parts.image(picture, detail="low")])
    print(client.chat.complete([said]).text)


if __name__ == "__main__":
    main(Gpt(model="some-model"), sys.argv[1])
