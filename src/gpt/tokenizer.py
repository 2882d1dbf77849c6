"""The models' own tokenizers, by tiktoken, where it is installed and its file is there already. The only file that imports it.

tiktoken downloads an encoding's file when it is first asked for it, and again where the file has another hash than it should.
So it is not asked: its table of encodings is read into a module of our own, whose loader takes what lies in tiktoken's cache
and refuses all else. Nothing of tiktoken's is changed. Its cache is a directory, TIKTOKEN_CACHE_DIR, DATA_GYM_CACHE_DIR or
`data-gym-cache` among the temporary files, in which a file is named by the SHA-1 of its address (tiktoken 0.14, `load.py`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from gpt.protocol.tokens import TokensOf


class _NotThereError(Exception):
    """The file of an encoding is not in tiktoken's cache."""


_loaded: dict[str, Any] = {}
"""Encodings by name, for the whole process: one takes tens of megabytes. Two threads that load one together make it twice."""


def tokenizer(model: str) -> tuple[str, TokensOf] | None:
    """The name of the model's encoding, and what counts the tokens of a text with it.

    None where tiktoken is not installed, knows no such model, or has not the encoding's file. Nothing is ever downloaded.
    """
    try:
        from tiktoken.model import encoding_name_for_model
        from tiktoken.registry import ENCODINGS
    except ImportError:
        return None
    try:
        name = encoding_name_for_model(model.removeprefix("openai/"))  # as gateways name them
    except KeyError:
        return None
    encoding = ENCODINGS.get(name) or _loaded.get(name)
    if encoding is None:
        try:
            encoding = _loaded[name] = _load(name)
        except _NotThereError:
            return None
    # What looks like a special token in a message is text.
    return name, lambda text: len(encoding.encode_ordinary(text))


def _load(name: str) -> Any:
    """The encoding. Raises _NotThereError."""
    from importlib.util import find_spec, module_from_spec

    import tiktoken

    spec = find_spec("tiktoken_ext.openai_public")
    if spec is None or spec.loader is None:
        raise _NotThereError
    table: Any = module_from_spec(spec)
    spec.loader.exec_module(table)
    table.load_tiktoken_bpe = _ranks
    table.data_gym_to_mergeable_bpe_ranks = _refused  # of GPT-2 alone, which is no chat model
    make = table.ENCODING_CONSTRUCTORS.get(name)
    if make is None:
        raise _NotThereError
    return tiktoken.Encoding(**make())


def _ranks(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
    """The encoding in the cached file of `address`, whose SHA-256 must be the expected one. Raises _NotThereError."""
    import base64
    import hashlib

    path = _cached(address)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise _NotThereError from error
    if expected_hash is not None and hashlib.sha256(content).hexdigest() != expected_hash:
        raise _NotThereError
    pairs = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _cached(address: str) -> str:
    """Where tiktoken keeps the file of `address`; "" where it keeps none."""
    import hashlib
    import tempfile

    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    name = hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    return os.path.join(folder, name) if folder else ""


def _refused(**_: Any) -> NoReturn:
    raise _NotThereError
