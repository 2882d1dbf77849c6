"""The models' own tokenizers."""

from __future__ import annotations

import base64
import hashlib
import importlib.machinery
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
import tiktoken_ext

from gpt import tokenizer as module
from gpt.tokenizer import tokenizer

ADDRESS = "https://encodings.test/{}.tiktoken"
RANKS = {bytes([byte]): byte for byte in range(256)} | {b"ri": 256, b"ver": 257, b"river": 258, b"ve": 259}
FILE = b"".join(base64.b64encode(token) + b" " + str(rank).encode() + b"\n" for token, rank in RANKS.items())

TABLE = f"""
from tiktoken.load import data_gym_to_mergeable_bpe_ranks, load_tiktoken_bpe

def made(name, expected_hash):
    ranks = load_tiktoken_bpe("https://encodings.test/" + name + ".tiktoken", expected_hash=expected_hash)
    return {{"name": name, "pat_str": "[^ ]+| +", "mergeable_ranks": ranks, "special_tokens": {{"<|end|>": 300}}}}

ENCODING_CONSTRUCTORS = {{
    "o200k_base": lambda: made("o200k_base", "{hashlib.sha256(FILE).hexdigest()}"),
    "cl100k_base": lambda: made("cl100k_base", None),
    "gpt2": lambda: data_gym_to_mergeable_bpe_ranks(vocab_bpe_file="https://encodings.test/vocab.bpe"),
}}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """tiktoken with a table and a cache of the test's own, and no way out."""

    def refused(*_: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    folder = tmp_path / "tiktoken_ext"
    folder.mkdir()
    (folder / "openai_public.py").write_text(TABLE)
    monkeypatch.setattr(tiktoken_ext, "__path__", [str(folder)])
    monkeypatch.delitem(sys.modules, "tiktoken_ext.openai_public", raising=False)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.setattr(tiktoken.registry, "ENCODING_CONSTRUCTORS", None)
    tiktoken.registry._available_plugin_modules.cache_clear()
    monkeypatch.setattr(module, "_loaded", {})
    kept = tmp_path / "cache"
    kept.mkdir()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(kept))
    yield kept
    tiktoken.registry._available_plugin_modules.cache_clear()


def keep(cache: Path, name: str, content: bytes = FILE) -> Path:
    path = cache / hashlib.sha1(ADDRESS.format(name).encode()).hexdigest()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini", "openai/gpt-5.4"])
def test_counts(cache: Path, model: str) -> None:
    """Where the file is there, a model's texts are counted by its encoding; what looks like a special token is text."""
    keep(cache, "o200k_base")
    found = tokenizer(model)
    assert found is not None
    name, tokens_of = found
    assert ("o200k_base", 1, 2, 7) == (name, tokens_of("river"), tokens_of("rivers"), tokens_of("<|end|>"))


def test_counts_as_tiktoken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted is what tiktoken itself counts with that file; one that it has loaded is used."""
    keep(cache, "o200k_base")
    own = tokenizer("gpt-4o")
    theirs = tiktoken.get_encoding("o200k_base")
    text = "a river, and more rivers: ver 12 川"
    assert own is not None
    assert len(theirs.encode(text)) == own[1](text)
    monkeypatch.setattr(module, "_load", None)
    monkeypatch.setattr(module, "_loaded", {})
    assert tokenizer("gpt-4o") is not None


def test_is_loaded_once(cache: Path) -> None:
    """An encoding that has been loaded needs its file no more."""
    path = keep(cache, "cl100k_base")
    assert tokenizer("gpt-4") is not None
    path.unlink()
    assert tokenizer("gpt-4") is not None


def test_missing(cache: Path) -> None:
    """Without the file nothing is counted, and nothing fetched; when it is there later it is found."""
    assert tokenizer("gpt-4o") is None
    keep(cache, "o200k_base")
    assert tokenizer("gpt-4o") is not None


def test_another_hash(cache: Path) -> None:
    """A file that is another than it should be is not taken, and stays where it is: tiktoken would remove and fetch it."""
    path = keep(cache, "o200k_base", FILE + b"\n")
    assert tokenizer("gpt-4o") is None
    assert FILE + b"\n" == path.read_bytes()


def test_no_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tiktoken keeps nothing, nothing is there."""
    keep(cache, "o200k_base")
    monkeypatch.chdir(cache)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert tokenizer("gpt-4o") is None


def test_other_places(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is where tiktoken has it: by its two variables, else among the temporary files."""
    keep(cache, "o200k_base")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(cache))
    assert tokenizer("gpt-4o") is not None
    monkeypatch.delenv("DATA_GYM_CACHE_DIR")
    monkeypatch.setattr(module, "_loaded", {})
    monkeypatch.setattr("tempfile.tempdir", str(cache.parent))
    assert tokenizer("gpt-4o") is None
    cache.rename(cache.parent / "data-gym-cache")
    assert tokenizer("gpt-4o") is not None


@pytest.mark.parametrize("model", ["llama-3", "", "gpt2", "davinci"])
def test_unknown(cache: Path, model: str) -> None:
    """Of a model that tiktoken does not know, or whose encoding is no chat model's, nothing is known."""
    keep(cache, "o200k_base")
    assert tokenizer(model) is None


def test_no_table(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiktoken without a table of encodings counts nothing."""
    monkeypatch.setattr(tiktoken_ext, "__path__", [])
    assert tokenizer("gpt-4o") is None


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tiktoken nothing is counted."""
    monkeypatch.setitem(sys.modules, "tiktoken.model", None)
    assert tokenizer("gpt-4o") is None


def test_the_table_is_tiktokens_own() -> None:
    """The installed tiktoken has the table where it is looked for, and reads its files by the names that are replaced."""
    spec = importlib.machinery.PathFinder.find_spec("tiktoken_ext.openai_public", list(tiktoken_ext.__path__))
    assert spec is not None
    source = Path(str(spec.origin)).read_text()
    for name in ("load_tiktoken_bpe(", "data_gym_to_mergeable_bpe_ranks(", "ENCODING_CONSTRUCTORS"):
        assert name in source
