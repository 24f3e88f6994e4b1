"""Encrypted secrets: round trips, tampering, key rotation."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from bot.access.vault import Vault, new_key, stored_keys, write_keys
from bot.errors import MynaError


def test_a_secret_is_encrypted_and_decrypted() -> None:
    vault = Vault([new_key()])
    kept = vault.encrypt("xoxb-1-é", "row 1")
    assert "xoxb" not in kept
    assert b"xoxb" not in base64.urlsafe_b64decode(kept.split(".")[2])
    assert vault.decrypt(kept, "row 1") == "xoxb-1-é"
    assert vault.encrypt("xoxb-1-é", "row 1") != kept, "a nonce is used once"


def test_a_moved_or_changed_secret_is_not_read() -> None:
    vault = Vault([new_key()])
    kept = vault.encrypt("secret", "row 1")
    for changed in (kept[:-8] + "AAAAAAA=", kept[:20], kept[:40] + "AAAA" + kept[44:]):
        with pytest.raises(MynaError, match="damaged"):
            vault.decrypt(changed, "row 1")
    with pytest.raises(MynaError, match="damaged"):
        vault.decrypt(kept, "row 2")


def test_keys_are_rotated() -> None:
    old, new = new_key(), new_key()
    kept = Vault([old]).encrypt("secret", "row")
    both = Vault([new, old])
    assert both.decrypt(kept, "row") == "secret"
    assert not both.is_newest(kept)
    assert both.is_newest(both.encrypt("secret", "row"))
    with pytest.raises(MynaError, match="MYNA_ENCRYPTION_KEYS"):
        Vault([new]).decrypt(kept, "row")
    with pytest.raises(MynaError, match="MYNA_ENCRYPTION_KEYS"):
        Vault([new]).decrypt("plain text from an older time", "row")


@pytest.mark.parametrize("key", ["", "short", base64.urlsafe_b64encode(b"x" * 31).decode(), "é" * 44])
def test_a_malformed_key_is_refused(key: str) -> None:
    with pytest.raises(MynaError, match="32 random bytes"):
        Vault([key])
    with pytest.raises(MynaError, match="no key"):
        Vault([])


def test_the_stored_key_is_made_once_and_private(tmp_path: Path) -> None:
    first = stored_keys(tmp_path)
    assert stored_keys(tmp_path) == first
    assert (tmp_path / "encryption.key").stat().st_mode & 0o777 == 0o600
    write_keys(tmp_path, [new_key(), *first])
    assert stored_keys(tmp_path)[1:] == first
    assert [path.name for path in tmp_path.iterdir()] == ["encryption.key"]
