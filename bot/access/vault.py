"""Encryption of stored secrets: AES-256-GCM and key rotation.

The secrets are third parties', such as Slack tokens. The AES-GCM keys (NIST SP 800-38D) come from the settings or from
a file in MYNA_DATA, never from the database.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bot.errors import MynaError

KEY_BYTES = 32
NONCE_BYTES = 12
FORM = "v1"


class Vault:
    """Encrypts with the first key, decrypts with any key.

    `read_again` returns the keys anew when a key is missing, as another process may have made it.
    """

    def __init__(self, keys: Sequence[str], read_again: Callable[[], Sequence[str]] | None = None) -> None:
        """Take keys of 32 bytes in URL-safe base64. Raises `MynaError` for other keys, or none."""
        self._read_again = read_again
        self._set_keys(keys)

    def _set_keys(self, keys: Sequence[str]) -> None:
        self._keys = {_name(key): AESGCM(key) for key in map(_decode, keys)}
        if not self._keys:
            raise MynaError("There is no key to encrypt with. Set MYNA_ENCRYPTION_KEYS.")
        self._newest = next(iter(self._keys))

    def encrypt(self, secret: str, place: str) -> str:
        """Return `secret` encrypted. `place` names its row (associated data): moved elsewhere, it can't be read."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._keys[self._newest].encrypt(nonce, secret.encode(), place.encode())
        return f"{FORM}.{self._newest}.{base64.urlsafe_b64encode(sealed).decode()}"

    def decrypt(self, kept: str, place: str) -> str:
        """Return the secret. Raises `MynaError` if the key is gone, or the text was changed or moved."""
        form, _, rest = kept.partition(".")
        name, _, sealed = rest.partition(".")
        if name not in self._keys and self._read_again is not None:
            self._set_keys(self._read_again())
        if form != FORM or name not in self._keys:
            raise MynaError(
                "A stored secret was encrypted with a key that is not there any more. Add the old key at the end of "
                "MYNA_ENCRYPTION_KEYS (or put encryption.key back into MYNA_DATA), or install the Slack app again."
            )
        try:
            content = base64.urlsafe_b64decode(sealed)
            return self._keys[name].decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], place.encode()).decode()
        except (InvalidTag, ValueError) as error:
            raise MynaError("A stored secret is damaged. Install the Slack app again.") from error

    def is_newest(self, kept: str) -> bool:
        """Return True if a secret is encrypted with the first key."""
        return kept.startswith(f"{FORM}.{self._newest}.")


def new_key() -> str:
    """Return a new random key, in the form that the settings take."""
    return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def stored_keys(data: Path) -> list[str]:
    """Return the keys stored in the data folder, newest first. Makes the first key if there is none."""
    path = data / "encryption.key"
    if not path.is_file():
        write_keys(data, [new_key()])
    return path.read_text(encoding="ascii").split()


def add_key(data: Path) -> list[str]:
    """Put a new key first. The earlier keys stay, as a running server may still encrypt with one of them."""
    keys = [new_key(), *stored_keys(data)]
    write_keys(data, keys)
    return keys


def forget_old_keys(data: Path) -> None:
    """Drop all but the two newest keys. Call it once nothing is encrypted with the older keys."""
    write_keys(data, stored_keys(data)[:2])


def write_keys(data: Path, keys: Sequence[str]) -> None:
    """Write the keys, newest first, atomically: after a crash the file is either the new or the old file."""
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = data / f".encryption-{secrets.token_hex(4)}"
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write("\n".join(keys) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(data / "encryption.key")


def stored_secret(data: Path) -> str:
    """Return the key that signs visitors' cookies, made at the first start and kept, so that people keep their chats.

    It is written under another name first: a file cut short by a crash would sign everybody's cookies with nothing.
    """
    path = data / "secret.key"
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        draft = data / f".secret-{secrets.token_hex(4)}"
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
        draft.replace(path)
    return path.read_text(encoding="utf-8").strip()


def _decode(key: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(key)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != KEY_BYTES:
        raise MynaError(
            "MYNA_ENCRYPTION_KEYS: each key is 32 random bytes in base64: `openssl rand -base64 32 | tr +/ -_`."
        )
    return decoded


def _name(key: bytes) -> str:
    """Return an id of the key that reveals nothing about it."""
    return hashlib.sha256(b"myna key " + key).hexdigest()[:8]
