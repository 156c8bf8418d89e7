"""An issuer's public keys, each with the algorithms it may be used with. Pure: where keys come from is in `jwks`.

A token says which algorithm and key it was signed with, and may lie. So each key is bound beforehand to the algorithms of
its own kind, and a token's word only chooses among those.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from mcpgateway.errors import InvalidToken

_log = logging.getLogger("mcpgateway.auth")

_FITTING: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("oct", ""): ("HS256", "HS384", "HS512"),
}
"""Type and curve of a key, and what it may sign with."""


class Key(NamedTuple):
    """One key, ready for each algorithm that it may be used with."""

    id: str | None
    uses: dict[str, jwt.PyJWK]
    mark: str
    """Tells it from every other key."""

    def __repr__(self) -> str:
        return f"<Key {self.id!r} for {', '.join(self.uses)}>"


class KeySet:
    """The keys that an issuer signs with."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = tuple(keys)
        self._marks = frozenset(key.mark for key in keys)

    def __repr__(self) -> str:
        return f"<KeySet of {len(self._keys)}>"

    def __len__(self) -> int:
        return len(self._keys)

    def lacks_some_of(self, other: KeySet) -> bool:
        """Whether `other` has a key that is not among these."""
        return not other._marks <= self._marks

    def find(self, id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key that a token names, for this algorithm; None where there is no such key. Raises InvalidToken."""
        named = self._named(id)
        for key in named:
            if algorithm in key.uses:
                return key.uses[algorithm]
        if named:
            raise InvalidToken("the token's key is not for the algorithm it names")
        return None

    def _named(self, id: str | None) -> list[Key]:
        if id is None and len(self._keys) > 1:
            raise InvalidToken("the token names no key (kid), and its issuer has several")
        if len(self._keys) == 1 and (id is None or self._keys[0].id is None):
            return list(self._keys)
        return [key for key in self._keys if key.id == id]


def parse_keys(data: bytes, algorithms: Sequence[str]) -> KeySet:
    """The keys in a JWKS, a single JWK or a PEM public key that can be used with some of `algorithms`.

    Keys of other kinds, for encryption, or too short are passed over. Raises ValueError where none is left.
    """
    found = [_pem_to_jwk(data)] if data.lstrip().startswith(b"-----BEGIN") else _jwks(data)
    keys = [key for jwk in found if (key := _key_of(jwk, algorithms)) is not None]
    if not keys:
        raise ValueError(f"holds no key that can be used with {', '.join(algorithms)}")
    return KeySet(keys)


def _jwks(data: bytes) -> list[Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is neither a JWKS (JSON) nor a PEM public key") from None  # the cause would show what stands there
    if isinstance(document, dict) and "kty" in document:
        return [document]
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise ValueError('is no JWKS: expected {"keys": […]}')
    return keys


def _pem_to_jwk(data: bytes) -> dict[str, Any]:
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is no PEM public key (-----BEGIN PUBLIC KEY-----)") from None
    if isinstance(key, RSAPublicKey):
        return RSAAlgorithm.to_jwk(key, as_dict=True)
    if isinstance(key, EllipticCurvePublicKey):
        return ECAlgorithm.to_jwk(key, as_dict=True)
    if isinstance(key, Ed25519PublicKey):
        return OKPAlgorithm.to_jwk(key, as_dict=True)
    raise ValueError("is a key of a kind that signs no tokens here: expected RSA, EC or Ed25519")


def _key_of(jwk: Any, algorithms: Sequence[str]) -> Key | None:
    if not isinstance(jwk, dict) or not _is_for_signatures(jwk):
        return None
    kind, id = (str(jwk.get("kty")), str(jwk.get("crv", ""))), jwk.get("kid")
    fitting = [each for each in _FITTING.get(kind, ()) if each in algorithms and jwk.get("alg", each) == each]
    uses = {each: key for each in fitting if (key := _bound(jwk, each)) is not None}
    if not uses or not (id is None or isinstance(id, str)):
        return None
    return Key(id, uses, json.dumps(jwk, sort_keys=True))


def _is_for_signatures(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _bound(jwk: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(jwk, algorithm)
    except (jwt.PyJWTError, LookupError, ValueError):
        _log.warning("a key for %s is malformed and passed over", algorithm)
        return None
    if key.Algorithm.check_key_length(key.key):
        _log.warning("a key for %s is too short to be safe and passed over", algorithm)
        return None
    return key
