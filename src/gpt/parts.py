"""Content parts from Python values: an image, a sound or a file from a path, bytes, a Pillow image or a URL.

The kind is read from the first bytes, since names lie. What no server takes is refused here, before anything is sent.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt.errors import InvalidRequestError
from gpt.types import UNSET, AudioContentPart, FileContentPart, FileData, ImageContentPart, ImageURL, InputAudio

if TYPE_CHECKING:
    from gpt.types import ImageDetail, Unset

__all__ = ["audio", "file", "image"]

MAX_BYTES = 50_000_000
"""Bytes that a part may have. What a server takes is its own matter; this only keeps a mistake from being sent."""

_IMAGES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"))
_IMAGE_URLS = ("data:image/png", "data:image/jpeg", "data:image/jpg", "data:image/gif", "data:image/webp")

Source = Any
"""A path (text or os.PathLike), bytes (bytes, bytearray, memoryview) or a binary file; each function tells what more."""


def image(source: Source, *, detail: ImageDetail | Unset = UNSET, max_bytes: int = MAX_BYTES) -> ImageContentPart:
    """An image as a part of a message. `source` is a path, bytes, a binary file, a Pillow image, or an http(s) or `data:` URL.

    PNG, JPEG, GIF and WebP are taken, which is what the protocol's servers read; a Pillow image of another format goes as PNG.
    `detail` is "low", "high" or "auto". Raises InvalidRequestError for another kind, more than `max_bytes` bytes, or a file
    that cannot be read.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        if source.startswith("data:"):
            if not source.startswith(_IMAGE_URLS):
                raise _unknown("image", source[:40], "PNG, JPEG, GIF and WebP", "a data: URL says its kind, as data:image/png")
            _bounded(len(source) * 3 // 4, max_bytes, "image", "the data: URL")
        return ImageContentPart(ImageURL(source, detail))
    if hasattr(source, "save") and hasattr(source, "mode"):
        source = _saved(source)
    data, name = _read(source, max_bytes, "image")
    kind = next((kind for start, kind in _IMAGES if data.startswith(start)), None)
    if kind is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise _unknown("image", name, "PNG, JPEG, GIF and WebP", "open it with Pillow and give the image: it goes as PNG")
    return ImageContentPart(ImageURL(f"data:image/{kind};base64,{_base64(data)}", detail))


def audio(source: Source, *, max_bytes: int = MAX_BYTES) -> AudioContentPart:
    """A sound as a part of a message. `source` is a path, bytes or a binary file, of WAV or MP3, which the protocol takes.

    Raises InvalidRequestError for another kind, more than `max_bytes` bytes, or a file that cannot be read.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise InvalidRequestError("audio: the protocol takes no URL of a sound; fetch it and give its bytes", param="audio")
    data, name = _read(source, max_bytes, "audio")
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        kind = "wav"
    elif data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2):  # a frame of layer III
        kind = "mp3"
    else:
        raise _unknown("audio", name, "WAV and MP3", "convert it first")
    return AudioContentPart(InputAudio(_base64(data), kind))


def file(source: Source, *, filename: str | None = None, max_bytes: int = MAX_BYTES) -> FileContentPart:
    """A file as a part of a message. `source` is a path, bytes or a binary file; `filename` is what the model is told it is
    called, by default the path's last part.

    Its kind is that of a PDF by its first bytes, else that of the name. Raises InvalidRequestError for an unknown kind, more
    than `max_bytes` bytes, or a file that cannot be read. An uploaded file goes as `FileContentPart(FileData(file_id=...))`.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise InvalidRequestError("file: the protocol takes no URL of a file; fetch it and give its bytes", param="file")
    data, name = _read(source, max_bytes, "file")
    filename = filename or name
    if data.startswith(b"%PDF-"):
        kind: str | None = "application/pdf"
        filename = filename or "document.pdf"
    else:
        kind = mimetypes.guess_type(filename)[0] if filename else None
    if kind is None or filename is None:
        raise _unknown("file", filename, "PDF and names with a known ending", "give filename= with its ending")
    return FileContentPart(FileData(f"data:{kind};base64,{_base64(data)}", filename=filename))


def _read(source: Source, max_bytes: int, param: str) -> tuple[bytes, str | None]:
    """The bytes, and the name of the file that they are from."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), None
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            _bounded(path.stat().st_size, max_bytes, param, str(path))
            data, name = path.read_bytes(), path.name
        except (OSError, ValueError) as error:
            if isinstance(error, InvalidRequestError):
                raise
            raise InvalidRequestError(f"{param}: cannot read {str(source)[:200]!r}: {error}", param=param) from error
    elif hasattr(source, "read"):
        data, name = source.read(max_bytes + 1), getattr(source, "name", None)
        if not isinstance(data, bytes):
            raise InvalidRequestError(f"{param}: the file was opened as text; open it with 'rb'", param=param)
        name = Path(name).name if isinstance(name, str) else None
    else:
        raise InvalidRequestError(f"{param}: expected a path, bytes or a file, got {type(source).__name__}", param=param)
    if not data:
        raise InvalidRequestError(f"{param}: {name or 'the data'} is empty", param=param)
    _bounded(len(data), max_bytes, param, name or "the data")
    return data, name


def _bounded(size: int, max_bytes: int, param: str, what: str) -> None:
    if size > max_bytes:
        raise InvalidRequestError(
            f"{param}: {what} has more than {max_bytes:,} bytes; make it smaller, or allow more with max_bytes=", param=param
        )


def _saved(picture: Any) -> bytes:
    """A Pillow image as bytes, in its own format where servers read that."""
    kind = picture.format if picture.format in ("PNG", "JPEG", "GIF", "WEBP") else "PNG"
    out = io.BytesIO()
    try:
        picture.save(out, kind)
    except (OSError, ValueError) as error:  # a mode that PNG has no form for
        raise InvalidRequestError(
            f"image: Pillow cannot write it as {kind}: {error}; convert('RGB') first", param="image"
        ) from error
    return out.getvalue()


def _unknown(param: str, name: str | None, known: str, hint: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {name or 'the data'} is of an unknown kind; {known} are taken; {hint}", param=param)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
