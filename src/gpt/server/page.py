"""The chat page, and the headers that go with it: it runs nothing but its own style and script, and talks to nobody but us.

Sources: Content Security Policy Level 3, section 2.3.1 (hashes); Trusted Types; HTML, "Cross-origin opener policies"; Fetch,
"`Cross-Origin-Resource-Policy` header".
"""

from __future__ import annotations

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType


def hash_source(text: bytes) -> str:
    """What a policy calls this style or script: its SHA-256, in base64."""
    return f"'sha256-{b64encode(sha256(text).digest()).decode()}'"


@cache
def page() -> tuple[bytes, MappingProxyType[str, str]]:
    """The page as bytes, and its headers without type and length. The same at each call.

    The hashes in the policy are made from the file, which has one style and one script.
    """
    body = (files("gpt.server") / "page.html").read_bytes()
    (style,) = re.findall(rb"<style>(.*?)</style>", body, re.DOTALL)
    (script,) = re.findall(rb"<script>(.*?)</script>", body, re.DOTALL)
    policy = (
        "default-src 'none'",
        f"script-src {hash_source(script)}",
        f"style-src {hash_source(style)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    headers = {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-cache",
    }
    return body, MappingProxyType(headers)
