"""The bearer token of an HTTP server: in a file that only its owner can read."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING

from mcp.server.auth.provider import AccessToken

from orchestrator_core.exceptions import StorageError
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from pathlib import Path

_FEWEST = 16  #: Characters that are not guessed.


def token_in(path: Path) -> str:
    """
    Return the token in a file; if there is no file, one is made, 0600, with a new token.

    Of several that make it at once, all return the same token.

    Raises:
        StorageError: Others can read it, it holds no token, or it cannot be read or made.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        _make(path)
        return _read(path)


def _read(path: Path) -> str:
    token = durable.read(path).decode("ascii", errors="replace").strip()
    with storage_errors("look at", path):
        mode = path.stat().st_mode
    if mode & 0o077:
        raise StorageError(f"{path} holds a token, and is open to others", hint=f"chmod 600 {path}")
    if len(token) < _FEWEST or not token.isascii() or not token.isprintable() or " " in token:
        raise StorageError(
            f"{path} holds no token: {_FEWEST} characters of ASCII or more, without spaces",
            hint=f"remove {path}, and one is made",
        )
    return token


def _make(path: Path) -> None:
    whole = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors("make", path):
        durable.create(whole, secrets.token_urlsafe(32).encode() + b"\n")
    try:
        # A link has the name in one instant, and never another's: the first one's token is all's.
        with (
            contextlib.suppress(FileExistsError),
            storage_errors("make", path, allow=(FileExistsError,)),
        ):
            os.link(whole, path)
    finally:
        durable.remove(whole)


class StaticTokenVerifier:
    """Lets in whoever has the token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return who it is that has *token*; None for anybody else."""
        if not hmac.compare_digest(token.encode(), self._token):
            return None
        return AccessToken(token="", client_id="owner", scopes=[])
