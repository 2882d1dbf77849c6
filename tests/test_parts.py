"""Content parts from Python values."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gpt import FileData, Gpt, InvalidRequestError, ResponseAudio, TextContentPart, UserMessage, parts
from gpt.testing import Scripted, serve


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(out, kind)
    return out.getvalue()


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 8)
    return out.getvalue()


def decoded(url: str) -> tuple[str, bytes]:
    """The kind and the bytes of a data: URL."""
    head, _, data = url.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(data, validate=True)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "webp"])
def test_images(kind: str, tmp_path: Path) -> None:
    """A path, bytes and an open file give the same part, whose kind is read from the bytes and not from the name."""
    data = picture(kind)
    path = tmp_path / "picture.dat"
    path.write_bytes(data)
    made = parts.image(data)
    assert (f"image/{kind}", data) == decoded(made.image_url.url)
    assert made == parts.image(path) == parts.image(str(path)) == parts.image(memoryview(data))
    with path.open("rb") as file:
        assert made == parts.image(file)


def test_pillow() -> None:
    """A Pillow image goes in its own format where servers read that, else as PNG."""
    for given, kind in ((Image.new("RGBA", (2, 2)), "image/png"), (Image.open(io.BytesIO(picture("jpeg"))), "image/jpeg")):
        found, data = decoded(parts.image(given).image_url.url)
        assert kind == found
        assert (2, 2) == Image.open(io.BytesIO(data)).size
    with pytest.raises(InvalidRequestError, match="Pillow cannot write it as PNG"):
        parts.image(Image.new("CMYK", (2, 2)))


@pytest.mark.parametrize("url", ["https://example.org/a.png", "data:image/png;base64,AAAA"])
def test_urls(url: str) -> None:
    """A URL goes out as it is."""
    made = parts.image(url, detail="low")
    assert {"image_url": {"url": url, "detail": "low"}, "type": "image_url"} == made.to_dict()


def test_sounds(tmp_path: Path) -> None:
    """WAV and MP3 are told apart by their bytes."""
    path = tmp_path / "sound"
    path.write_bytes(sound())
    made = parts.audio(path).input_audio
    assert ("wav", sound()) == (made.format, base64.b64decode(made.data))
    for start in (b"ID3\x04", b"\xff\xfb\x90", b"\xff\xf3\x90"):
        assert "mp3" == parts.audio(start + bytes(20)).input_audio.format


def test_files(tmp_path: Path) -> None:
    """A PDF is known by its bytes, another file by its name."""
    pdf = parts.file(b"%PDF-1.7 ...").file
    assert ("document.pdf", ("application/pdf", b"%PDF-1.7 ...")) == (pdf.filename, decoded(str(pdf.file_data)))
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert FileData("data:text/plain;base64,aGVsbG8=", filename="notes.txt") == parts.file(path).file
    assert "other.txt" == parts.file(path, filename="other.txt").file.filename


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: parts.image(b"BM\0\0"), "image: the data is of an unknown kind; PNG, JPEG, GIF and WebP are taken"),
        (lambda: parts.image("data:text/plain;base64,aGk="), "image: data:text/plain;base64,aGk= is of an unknown kind"),
        (lambda: parts.image(b""), "image: the data is empty"),
        (lambda: parts.image("/nowhere/a.png"), "image: cannot read '/nowhere/a.png'"),
        (lambda: parts.image("a\0b"), "image: cannot read"),
        (lambda: parts.image(7), "image: expected a path, bytes or a file, got int"),
        (lambda: parts.image(io.StringIO("x")), "opened as text"),
        (lambda: parts.image(picture("png"), max_bytes=10), "image: the data has more than 10 bytes"),
        (lambda: parts.image("data:image/png;base64," + "A" * 100, max_bytes=10), "the data: URL has more than 10 bytes"),
        (lambda: parts.image(io.BytesIO(picture("png")), max_bytes=10), "more than 10 bytes"),
        (lambda: parts.image(__file__, max_bytes=10), "test_parts.py has more than 10 bytes"),
        (lambda: parts.audio(b"OggS"), "audio: the data is of an unknown kind"),
        (lambda: parts.audio("https://example.org/a.wav"), "audio: the protocol takes no URL"),
        (lambda: parts.file(b"what"), "file: the data is of an unknown kind"),
        (lambda: parts.file("https://example.org/a.pdf"), "file: the protocol takes no URL"),
    ],
)
def test_refused(make: Callable[[], Any], why: str) -> None:
    """What no server takes is refused before anything is sent, by what is wrong with it."""
    with pytest.raises(InvalidRequestError, match=why):
        make()


def test_they_go_out() -> None:
    """Parts go out as the protocol has them, beside text."""
    with serve("red") as server:
        said = UserMessage([TextContentPart("What colour?"), parts.image(picture("png")), parts.audio(sound())])
        assert "red" == Gpt(server_url=server.url).chat.complete([said]).text
    backend = Scripted("red")
    Gpt(backend=backend).chat.complete([said])
    sent = backend.asked[0].to_dict()["messages"][0]["content"]
    assert ["text", "image_url", "input_audio"] == [part["type"] for part in sent]


def test_sound_of_an_answer() -> None:
    """The sound of an answer is there as bytes; what is no base64 is a ValueError."""
    assert b"hello" == ResponseAudio("a", data="aGVsbG8=").bytes
    with pytest.raises(ValueError, match="base64"):
        _ = ResponseAudio("a", data="aGVsbG8").bytes
    assert b"hello" == ResponseAudio("a", data="aGU=bGxv").bytes, "pieces with padding of their own"
