"""Who may come in: keys, the Host header, origins of pages, content types. Pure.

A page of another origin must not talk to this server through its reader's browser, which is why the Origin is held against the
Host, the Host against known names (a page can make its own name mean this address: DNS rebinding), and why a body must call
itself JSON (a browser sends that across origins only after asking). An address in digits cannot be made to mean another one, so
as a Host it is always let in. Sources: RFC 9110, section 7.2; the Fetch standard, "CORS protocol" and "Sec-Fetch-Site".
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping

from gpt.errors import InvalidRequestError
from gpt.server.failures import Refused

SHORTEST = 16
"""Characters that a key must have at least, so that it cannot be guessed by trying."""

OPEN = frozenset({"/", "/health", "/ready"})
"""What is shown without a key: nothing of anybody's."""

LOCAL_NAMES = frozenset({"localhost"})

METHODS = "GET, POST, DELETE, OPTIONS"
ASKED_HEADERS = "authorization, content-type, x-request-id"
SHOWN_HEADERS = (
    "x-request-id, x-ignored-params, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests"
)
REMEMBERED = "600"
"""Seconds that a browser may remember a preflight's answer."""


class Guard:
    """What is let in. `hosts` are names beside localhost and addresses, `origins` those of pages that may call from elsewhere.

    Keys are kept as digests, so that they show nowhere. Raises InvalidRequestError for a key that can be guessed.
    """

    def __init__(self, keys: Iterable[str] = (), hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._keys = [hashlib.sha256(checked_key(key).encode()).digest() for key in keys]
        self._hosts = LOCAL_NAMES | {host.lower() for host in hosts}
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def __repr__(self) -> str:
        return f"Guard({len(self._keys)} keys, hosts={sorted(self._hosts)}, origins={sorted(self._origins)})"

    @property
    def needs_key(self) -> bool:
        return bool(self._keys)

    def host(self, headers: Mapping[str, str]) -> None:
        """Pass if the Host header names this server. Raises Refused (421, or 400 where there is none)."""
        given = headers.get("host", "")
        if not given:
            raise Refused(400, "the request has no Host header", code="missing_host")
        name = host_name(given)
        if name not in self._hosts and not _is_address(name):
            raise Refused(
                421, "the Host header names another server; the operator can let the name in with --allow-host",
                code="unknown_host",
            )  # fmt: skip

    def origin(self, headers: Mapping[str, str]) -> str | None:
        """The origin of the page that asks, if it is one that was named; None where no page of elsewhere asks.

        Raises Refused (403) for a page of another origin.
        """
        given = headers.get("origin")
        if given is None:
            if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
                raise _foreign()
            return None
        origin = given.lower()
        if origin in self._origins:
            return given
        if origin != "null" and origin.partition("://")[2] == headers.get("host", "").lower():
            return None
        raise _foreign()

    def owner(self, headers: Mapping[str, str]) -> str:
        """Whose call it is: a name made of the key, "" where no key is needed. Raises Refused (401).

        All keys are compared, each in constant time.
        """
        if not self._keys:
            return ""
        given = headers.get("authorization", "")
        scheme, _, key = given.partition(" ")
        digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).digest()
        known = 0
        for other in self._keys:
            known |= hmac.compare_digest(digest, other)
        if not known or scheme.lower() != "bearer":
            what = "Incorrect API key provided" if given else "You didn't provide an API key"
            raise Refused(
                401, f"{what}: this server needs one as 'Authorization: Bearer KEY'", code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )  # fmt: skip
        return hmac.new(b"gpt serve: owner of stored completions", digest, hashlib.sha256).hexdigest()


def checked_key(key: str) -> str:
    """The key, if it is none that can be guessed and can be sent. Raises InvalidRequestError, which does not show it."""
    if len(key) < SHORTEST:
        raise InvalidRequestError(
            f"api key: one has {len(key)} characters and needs at least {SHORTEST}, so that it cannot be guessed; "
            'a good one: python3 -c "import secrets; print(secrets.token_urlsafe(32))"',
            param="api_key",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequestError("api key: one has a space or a character that cannot be sent in a header", param="api_key")
    return key


def _foreign() -> Refused:
    return Refused(403, "a page of another origin asks; the operator can let it in with --cors-origin", code="foreign_origin")


def host_name(host: str) -> str:
    """The name or address in a Host header, without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether what listens at this address can be reached from this machine alone."""
    if host.lower() in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def shared_with(origin: str | None) -> list[tuple[str, str]]:
    """The headers that let a page of this origin read the answer."""
    if origin is None:
        return []
    return [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", SHOWN_HEADERS),
        ("vary", "origin"),
    ]


def preflight(headers: Mapping[str, str]) -> dict[str, str]:
    """The answer to a browser that asks whether a page may call."""
    asked = headers.get("access-control-request-headers")
    return {
        "access-control-allow-methods": METHODS,
        # The official client's own headers (x-stainless-...) are many and change, so what is asked for is what is allowed.
        "access-control-allow-headers": asked or ASKED_HEADERS,
        "access-control-max-age": REMEMBERED,
    }


def checked_content(headers: Mapping[str, str]) -> None:
    """Pass if the body calls itself JSON and is not packed. Raises Refused (415)."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Refused(415, "the body must be JSON, and say so: 'Content-Type: application/json'", code="unsupported_media_type")
    packed = headers.get("content-encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise Refused(415, f"a body in encoding {packed!r} is not taken; send it as it is", code="unsupported_encoding")
