"""Authenticated encryption with a key of its own. Imported only where something is to be sealed, for the library is large."""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class Cipher:
    """AES-256-GCM with a key that nobody else knows, and that dies with this object."""

    def __init__(self) -> None:
        self._key = AESGCM(AESGCM.generate_key(256))

    def __repr__(self) -> str:
        return "<Cipher>"

    def encrypt(self, content: bytes, bound_to: bytes) -> bytes:
        """What gives `content` back only to who knows what it is bound to."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._key.encrypt(nonce, content, bound_to)

    def decrypt(self, hidden: bytes, bound_to: bytes) -> bytes:
        """What was encrypted. Raises ValueError for anything that was not, or was bound to something else."""
        try:
            return self._key.decrypt(hidden[:NONCE_BYTES], hidden[NONCE_BYTES:], bound_to)
        except InvalidTag as error:
            raise ValueError("it was altered, or is bound to something else") from error
