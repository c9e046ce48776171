"""Answers to a server that asks for a user and password: Basic and Digest (RFC 7617, RFC 7616)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote_to_bytes

__all__ = ["Login"]

_CHALLENGE = re.compile(
    rb"^WWW-Authenticate:[ \t]*(\w+)[ \t]*(.*?)\r?$", re.IGNORECASE | re.MULTILINE
)
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
        for kind, fields in asked:
            if kind == b"digest" and fields.get(b"algorithm", b"MD5").upper() == b"MD5":
                return self._digest(fields, method.encode(), target.encode())
        if any(kind == b"basic" for kind, _ in asked):
            return b"Authorization: Basic %s\r\n" % base64.b64encode(
                self.user + b":" + self.password
            )
        return None

    def _digest(self, asked: dict[bytes, bytes], method: bytes, target: bytes) -> bytes:
        realm, nonce = asked.get(b"realm", b""), asked.get(b"nonce", b"")
        own = _md5(self.user, realm, self.password)
        request = _md5(method, target)
        told = [(b"username", self.user), (b"realm", realm), (b"nonce", nonce), (b"uri", target)]
        if b"opaque" in asked:
            told.append((b"opaque", asked[b"opaque"]))
        counted = b""
        if b"auth" in re.split(rb"[\s,]+", asked.get(b"qop", b"")):
            client_nonce = secrets.token_hex(8).encode()
            told += [
                (b"cnonce", client_nonce),
                (b"response", _md5(own, nonce, b"00000001", client_nonce, b"auth", request)),
            ]
            counted = b", qop=auth, nc=00000001"
        else:
            told.append((b"response", _md5(own, nonce, request)))
        line = b", ".join(b'%s="%s"' % (name, value) for name, value in told)
        return b"Authorization: Digest %s%s\r\n" % (line, counted)


def _fields(text: bytes) -> dict[bytes, bytes]:
    return {name.lower(): quoted or plain for name, quoted, plain in _FIELD.findall(text)}


def _md5(*parts: bytes) -> bytes:
    """Hash as a Digest is defined; nothing else rests on it."""
    return hashlib.md5(b":".join(parts), usedforsecurity=False).hexdigest().encode()
