from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest

from producers.tokens import token_key, tokeniser
from stream_features.contract import card_token
from stream_features.errors import UsageError

KEY = b"0123456789abcdef"


def test_a_token_is_the_hmac_of_the_number_and_passes_the_contract() -> None:
    token = tokeniser(KEY)("4111111111111111")
    assert token == "t_" + hmac.new(KEY, b"4111111111111111", hashlib.sha256).hexdigest()[:40]
    assert card_token("card_id", token) == token


def test_tokens_depend_on_number_and_key_only() -> None:
    token = tokeniser(KEY)
    assert token("4111111111111111") == token("4111111111111111") == tokeniser(KEY)("4111111111111111")
    assert token("4111111111111111") != token("4111111111111112")
    assert token("4111111111111111") != tokeniser(KEY + b"!")("4111111111111111")


def test_the_environment_gives_the_key() -> None:
    assert token_key({"FRAUDSTREAM_TOKEN_KEY": KEY.decode()}) == KEY


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    key = token_key(environment)
    path = tmp_path / "fraudstream" / "token.key"
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token_key(environment) == key
    assert token_key({"FRAUDSTREAM_TOKEN_KEY_FILE": str(path)}) == key


def test_a_short_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FRAUDSTREAM_TOKEN_KEY has fewer than 16"):
        token_key({"FRAUDSTREAM_TOKEN_KEY": "short"})
    path = tmp_path / "key"
    path.write_text("short\n")
    with pytest.raises(UsageError, match="fewer than 16"):
        token_key({"FRAUDSTREAM_TOKEN_KEY_FILE": str(path)})


def test_a_key_file_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UsageError, match="set FRAUDSTREAM_TOKEN_KEY, or FRAUDSTREAM_TOKEN_KEY_FILE"):
        token_key({"FRAUDSTREAM_TOKEN_KEY_FILE": str(blocked / "key")})
