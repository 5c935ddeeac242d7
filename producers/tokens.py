"""Card numbers become tokens: HMAC-SHA256 under a key that never leaves this machine or its environment.

The same number and key give the same token, so a card keeps its history; without the key nobody gets from the token to
the number, which a plain hash of so few possible numbers would allow.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from stream_features.errors import UsageError

KEY_VARIABLE: Final = "FRAUDSTREAM_TOKEN_KEY"
KEY_FILE_VARIABLE: Final = "FRAUDSTREAM_TOKEN_KEY_FILE"
MIN_KEY_CHARACTERS: Final = 16

_LOG: Final = logging.getLogger(__name__)


def default_key_file(environment: Mapping[str, str]) -> Path:
    """Beside the user's other settings: discarding a run must not change the tokens of the next."""
    if configured := environment.get(KEY_FILE_VARIABLE):
        return Path(configured)
    settings = environment.get("XDG_CONFIG_HOME")
    return (Path(settings) if settings else Path.home() / ".config") / "fraudstream" / "token.key"


def token_key(environment: Mapping[str, str] = os.environ) -> bytes:
    """The key from FRAUDSTREAM_TOKEN_KEY, or from the key file, which is made on first use and readable by its owner.

    Raises:
        UsageError: the key is too short, or the file can be neither read nor made; says which and what to do.
    """
    if KEY_VARIABLE in environment:
        return _long_enough(environment[KEY_VARIABLE], KEY_VARIABLE)
    path = default_key_file(environment)
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_key_file(path)
        return _long_enough(path.read_text(encoding="ascii").strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read or make the token key {path} ({error}); set {KEY_VARIABLE}, or {KEY_FILE_VARIABLE} to a file"
        ) from error


def tokeniser(key: bytes) -> Callable[[str], str]:
    """A function from a card number's digits to its token: `t_` and 40 hex digits."""
    keyed = hmac.new(key, digestmod=hashlib.sha256)
    tokens: dict[str, str] = {}

    def token(digits: str) -> str:
        known = tokens.get(digits)
        if known is None:
            mac = keyed.copy()
            mac.update(digits.encode())
            known = tokens[digits] = f"t_{mac.hexdigest()[:40]}"
        return known

    return token


def _make_key_file(path: Path) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        return  # another process was first; its key holds
    _LOG.warning("made a new token key: %s", path)


def _long_enough(key: str, origin: str) -> bytes:
    if len(key) < MIN_KEY_CHARACTERS:
        raise UsageError(f"the token key in {origin} has fewer than {MIN_KEY_CHARACTERS} characters")
    return key.encode()
