"""`gpt serve`: what is behind the server, where it listens, and how it stops.

It listens before the model is loaded, so that `/ready` can say so. SIGTERM and SIGINT let what is under way end, for `grace`
seconds; then it is stopped, each with an error of its own; a second signal does that at once. The exit status is 0 either way.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gpt.backend import AsyncBackend, below
from gpt.client import AsyncGpt
from gpt.errors import InvalidRequestError
from gpt.server.app import App, on_asyncio
from gpt.server.guard import is_loopback
from gpt.server.log import LOG

KEYS = "GPT_SERVE_API_KEYS"
"""The environment variable with the keys of callers, with commas between them."""

LOCAL_NAME = "local"
"""A name by which any model in this process can be asked for."""


class Behind(msgspec.Struct, frozen=True):
    """What answers."""

    backend: Any
    models: tuple[str, ...] | None
    """The names that it is asked by; None for any."""
    carries_key: bool
    """Whether one behind is asked with a key of the operator's."""
    said: str
    """What it is, in words for the operator."""


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is run. Seconds and bytes; what else they mean is said by `App`."""

    host: str = "127.0.0.1"
    keys: tuple[str, ...] = ()
    no_auth: bool = False
    allow_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    slots: int | None = None
    queue: int = 64
    store: str | None = None
    store_days: float | None = None
    lenient: bool = False
    ping: float = 15.0
    max_body: int = 32 * 1024 * 1024
    max_messages: int = 10_000

    def __repr__(self) -> str:
        return f"ServeSettings({self.host!r}, {len(self.keys)} keys)"


# --------------------------------------------------------------------------------------------------------------------
# What is behind
# --------------------------------------------------------------------------------------------------------------------


def behind(
    targets: Sequence[str],
    *,
    model: str | None = None,
    aliases: Sequence[str] = (),
    engine: Mapping[str, Any] | None = None,
    remote: Mapping[str, Any] | None = None,
) -> Behind:
    """The backend for these targets: URLs of servers, "local:...", or paths of GGUF files; several are a Fallback, in order.

    `engine` are settings of Local, `remote` those of AsyncGpt. Raises InvalidRequestError.
    """
    made = [_one(target, model, dict(engine or {}), dict(remote or {})) for target in targets or ["local:"]]
    if len(made) > 1:
        from gpt.fallback import AsyncFallback

        backend: Any = AsyncFallback([one.backend for one in made])
        return Behind(backend, None, any(one.carries_key for one in made), ", else ".join(one.said for one in made))
    names = made[0].models
    return msgspec.structs.replace(made[0], models=None if names is None else (*names, *aliases))


def _one(target: str, model: str | None, engine: dict[str, Any], remote: dict[str, Any]) -> Behind:
    if "://" in target:
        client = AsyncGpt(server_url=target, model=model, **remote)
        endpoint: Any = below(client.backend, "endpoint")
        from gpt.protocol.wire import is_secret

        secret = bool(endpoint.api_key) or any(is_secret(name) for name, _ in endpoint.headers)
        backend: AsyncBackend = _Modelled(client.backend, model) if model else client.backend
        return Behind(backend, None, secret, f"{endpoint.origin}{endpoint.path}")
    from gpt.local.backend import Local

    name = target.removeprefix("local:").removeprefix("//")
    local = Local(name, **engine)
    real = local.models().data[0].id
    said = real if name else f"{real} (the model in the box, 135 million parameters: for trying things, not for facts)"
    return Behind(local, tuple(dict.fromkeys((real, LOCAL_NAME))), carries_key=False, said=said)


class _Modelled:
    """A backend that is asked for one model where the caller names none."""

    def __init__(self, backend: AsyncBackend, model: str) -> None:
        self._backend = backend
        self._model = model
        self.models, self.close = backend.models, backend.close

    def __repr__(self) -> str:
        return repr(self._backend)

    def _asked(self, request: Any) -> Any:
        from gpt.types import UNSET

        return request if request.model is not UNSET else msgspec.structs.replace(request, model=self._model)

    async def complete(self, request: Any, *options: Any) -> Any:
        return await self._backend.complete(self._asked(request), *options)

    async def stream(self, request: Any, *options: Any) -> Any:
        return await self._backend.stream(self._asked(request), *options)


def layered(
    what: Behind,
    *,
    rpm: float | None = None,
    tpm: float | None = None,
    cache: str | None = None,
    cache_age: float | None = None,
    cache_bytes: int | None = None,
    record: str | None = None,
) -> Behind:
    """The same with layers over it: limits a minute, a cache, and a recording, the last nearest to the callers."""
    if not any((rpm, tpm, cache, record)):
        return what
    made = on_asyncio(what.backend)
    if rpm or tpm:
        from gpt.layers.limit import AsyncLimit

        made = AsyncLimit(made, requests_per_minute=rpm, tokens_per_minute=tpm)
    if cache:
        from gpt.layers.cache import AsyncCache

        made = AsyncCache(made, cache, max_age=cache_age, max_bytes=cache_bytes)
    if record:
        from gpt.layers.record import AsyncRecord

        made = AsyncRecord(made, record)
    return msgspec.structs.replace(what, backend=made)


# --------------------------------------------------------------------------------------------------------------------
# Keys
# --------------------------------------------------------------------------------------------------------------------


def keys_in(path: str | None, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The keys in a file, one a line, `#` before what is none, and those in the environment. Raises InvalidRequestError."""
    found = [key.strip() for key in environ.get(KEYS, "").split(",")]
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequestError(f"--api-key-file: {path!r} cannot be read: {error}", param="api_key_file") from error
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            LOG.warning("%s can be read by others than its owner: chmod 600 it", path)
        found += [line.partition("#")[0].strip() for line in lines]
        if not any(line.partition("#")[0].strip() for line in lines):
            raise InvalidRequestError(f"--api-key-file: {path!r} has no key in it", param="api_key_file")
    return tuple(dict.fromkeys(key for key in found if key))


def first_key(path: str) -> str:
    """The key in a file that has one. Raises InvalidRequestError."""
    return keys_in(path, {})[0]


def check_exposure(settings: ServeSettings, *, carries_key: bool) -> None:
    """Pass if nobody gets in whom the operator did not mean to let in. Raises InvalidRequestError."""
    if is_loopback(settings.host) or settings.keys:
        return
    if not settings.no_auth:
        raise InvalidRequestError(
            f"--host {settings.host}: others than this machine can reach it, so callers need a key: --api-key-file FILE, or "
            f"the environment's {KEYS}; or let everybody in with --no-auth",
            param="host",
        )
    if carries_key:
        raise InvalidRequestError(
            f"--no-auth: with --host {settings.host} anybody could spend the key of the service behind this server; give "
            "callers keys of their own with --api-key-file",
            param="no_auth",
        )


# --------------------------------------------------------------------------------------------------------------------
# Running
# --------------------------------------------------------------------------------------------------------------------


def application(what: Behind, settings: ServeSettings) -> App:
    """The application. Raises InvalidRequestError."""
    check_exposure(settings, carries_key=what.carries_key)
    store = None
    if settings.store is not None:
        from gpt.server.store import StoredCompletions

        age = None if settings.store_days is None else settings.store_days * 86400
        store = StoredCompletions(settings.store, age)
    names = (settings.host,) if settings.host not in ("", "0.0.0.0", "::") else (socket.gethostname(),)  # noqa: S104 - to compare
    return App(
        what.backend,
        slots=settings.slots,
        queue=settings.queue,
        keys=settings.keys,
        allow_hosts=(*names, *settings.allow_hosts),
        cors_origins=settings.cors_origins,
        models=what.models,
        store=store,
        lenient=settings.lenient,
        ping=settings.ping,
        max_body=settings.max_body,
        max_messages=settings.max_messages,
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InvalidRequestError, which says who may be there already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By the protocol's number asyncio knows that this is TCP, and has each piece go at once. Else the system holds a body back
    # until its head is acknowledged, which takes the other end 40 ms (Nagle and delayed ACKs). uvloop does not look at it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidRequestError(
            f"--host {host} --port {port}: {why}; --port 0 takes any that is free", param="port"
        ) from error
    listener.set_inheritable(False)
    return listener


def run(app: App, listener: socket.socket, grace: float) -> int:
    """Serve until a signal says to stop. Gives the exit status."""
    from gpt.server.http import Server

    Server(app, grace).run(sockets=[listener])
    return 0
