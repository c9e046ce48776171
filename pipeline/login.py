"""Answers to a server that asks for a user and password: Basic and Digest (RFC 7617, RFC 7616)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote_to_bytes

__all__ = ["Login"]

_CHALLENGE = re.compile(
    rb"^WWW-Authenticate:[ \t]*(\w+)[ \t]*(.*?)\r?$", re.IGNORECASE | re.MULTILINE
)
_HASHES: dict[bytes, Callable[[bytes], Any]] = {
    b"MD5": partial(hashlib.md5, usedforsecurity=False),  # nothing else rests on it
    b"SHA-256": hashlib.sha256,
}
_FIELD = re.compile(rb'(\w+)[ \t]*=[ \t]*(?:"([^"]*)"|([^\s,]*))')


@dataclass(frozen=True, slots=True)
class Login:
    """A user and password, kept out of ``repr``."""

    user: bytes = field(repr=False)
    password: bytes = field(repr=False)

    @classmethod
    def of(cls, url: SplitResult) -> Login | None:
        """Return the login that a URL holds, if it holds one."""
        if url.username is None:
            return None
        return cls(unquote_to_bytes(url.username), unquote_to_bytes(url.password or ""))

    def answer(self, head: bytes, method: str, target: str) -> bytes | None:
        """Return the header line that answers a refusal; None where it asks in no way known here.

        ``head`` is the refusal's, ``method`` and ``target`` are those of the request that follows.
        """
        asked = [(kind.lower(), _fields(rest)) for kind, rest in _CHALLENGE.findall(head)]
        digests = {
            fields.get(b"algorithm", b"MD5").upper(): fields
            for kind, fields in asked
            if kind == b"digest"
        }
        for algorithm in _HASHES:  # the one that FFmpeg knows first
            if fields := digests.get(algorithm):
                return self._digest(fields, algorithm, method.encode(), target.encode())
        if any(kind == b"basic" for kind, _ in asked):
            return b"Authorization: Basic %s\r\n" % base64.b64encode(
                self.user + b":" + self.password
            )
        return None

    def _digest(
        self, asked: dict[bytes, bytes], algorithm: bytes, method: bytes, target: bytes
    ) -> bytes:
        def hashed(*parts: bytes) -> bytes:
            return str(_HASHES[algorithm](b":".join(parts)).hexdigest()).encode()

        realm, nonce = asked.get(b"realm", b""), asked.get(b"nonce", b"")
        own = hashed(self.user, realm, self.password)
        request = hashed(method, target)
        told = [(b"username", self.user), (b"realm", realm), (b"nonce", nonce), (b"uri", target)]
        if b"opaque" in asked:
            told.append((b"opaque", asked[b"opaque"]))
        counted = b"" if algorithm == b"MD5" else b", algorithm=" + algorithm
        if b"auth" in re.split(rb"[\s,]+", asked.get(b"qop", b"")):
            client_nonce = secrets.token_hex(8).encode()
            told += [
                (b"cnonce", client_nonce),
                (b"response", hashed(own, nonce, b"00000001", client_nonce, b"auth", request)),
            ]
            counted += b", qop=auth, nc=00000001"
        else:
            told.append((b"response", hashed(own, nonce, request)))
        line = b", ".join(b'%s="%s"' % (name, value) for name, value in told)
        return b"Authorization: Digest %s%s\r\n" % (line, counted)


def _fields(text: bytes) -> dict[bytes, bytes]:
    """Fields of a challenge; the first of a name counts, for another challenge may follow."""
    found: dict[bytes, bytes] = {}
    for name, quoted, plain in _FIELD.findall(text):
        found.setdefault(name.lower(), quoted or plain)
    return found
