"""Tokens: who a JWT says the caller is, once everything about it held.

The algorithms are the configured ones, never the token's word alone; a key is used only with algorithms of
its own kind, so that a public key can never serve as a shared secret. Keys come from one configured file
or one configured URL, never from anything in a token.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import msgspec

from cld.config import Http, Settings
from cld.errors import ConfigError
from cld.principal import parse_principal
from cld.server.access import Identity

log = logging.getLogger("cld.server")

LEEWAY_SECONDS = 10
FRESH_SECONDS = 300.0
"""How long fetched keys are used without asking again."""

LAST_SECONDS = 3600.0
"""How long they are used while asking again fails."""

RETRY_SECONDS = 30.0
"""How soon an unknown key id may have the keys fetched again, so that made-up ids cost nothing."""

TIMEOUT_SECONDS = 5.0
MAX_JWKS_BYTES = 1024 * 1024
MIN_SECRET_BYTES = 32

LOCAL = Settings().principal
"""Who owns the tree in the default data; an issuer whose users choose their names must not make it."""

KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP", "HS": "oct"}
"""The JWK key type that algorithms of a prefix need."""


class InvalidToken(Exception):
    """A token that does not hold; the message is for the log, callers are told nothing of it."""


@dataclass(frozen=True)
class Key:
    """A key and what it is good for: its kind, and its one algorithm where it names one."""

    kind: str
    key: Any
    algorithm: str | None = None


class Keys(Protocol):
    """Where keys come from: a file, or a URL."""

    async def find(self, key_id: str | None, kind: str) -> Key | None:
        """The key of that id and kind; without an id, the only one of that kind."""
        ...


class TokenVerifier:
    """Verifies bearer tokens as the settings say."""

    def __init__(self, settings: Http, keys: Keys, local: str) -> None:
        self._settings = settings
        self._keys = keys
        self._local: frozenset[str] = frozenset() if settings.local_principal else frozenset({LOCAL, local})

    @classmethod
    def open(cls, settings: Http, local: str = LOCAL) -> "TokenVerifier":
        """A verifier with the configured keys; `local` is the principal of this machine, which no token is.

        Raises:
            ConfigError: the settings contradict themselves, or the key file cannot be used.
        """
        if settings.jwt_key_file and settings.jwks_url:
            raise ConfigError("auth: set jwt_key_file or jwks_url, not both")
        kinds = {_kind(algorithm) for algorithm in settings.algorithms}
        if not settings.algorithms or None in kinds:
            allowed = "RS*, PS*, ES*, EdDSA, or HS* with a shared secret"
            raise ConfigError(
                f"auth.algorithms: {list(settings.algorithms)} is not usable; name one or more of {allowed}"
            )
        if "oct" in kinds and len(kinds) > 1:
            raise ConfigError(
                "auth.algorithms: HS* uses a shared secret and the others a public key; name one sort only"
            )
        if not settings.audience:
            raise ConfigError("auth.audience: name it, or tokens meant for other services would be let in")
        if settings.jwks_url:
            if "oct" in kinds:
                raise ConfigError("auth.algorithms: HS* cannot be used with jwks_url, which anybody may read")
            return cls(settings, KeysFromUrl(settings.jwks_url), local)
        return cls(settings, KeyFromFile.read(Path(settings.jwt_key_file), shared="oct" in kinds), local)

    async def verify(self, token: str) -> Identity:
        """Who the token is from.

        Raises:
            InvalidToken: anything about it does not hold.
        """
        import jwt  # noqa: PLC0415 - slow to import, and needed over HTTP only

        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in self._settings.algorithms:
                raise InvalidToken(f"algorithm {algorithm!r} is not one of auth.algorithms")
            kind = _kind(str(algorithm))
            key = await self._keys.find(header.get("kid"), str(kind))
            if key is None or key.kind != kind or key.algorithm not in (None, algorithm):
                raise InvalidToken(f"there is no key {header.get('kid')!r} for {algorithm}")
            claim = self._settings.principal_claim
            claims = jwt.decode(
                token,
                key=key.key,
                algorithms=[str(algorithm)],
                audience=self._settings.audience,
                issuer=self._settings.issuer or None,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud", claim, *(["iss"] if self._settings.issuer else [])]},
            )
            return self._identity(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            # PyJWT lets through what its parts raise at some malformed tokens.
            raise InvalidToken(f"{type(error).__name__}: {error}") from error

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        name = claims[self._settings.principal_claim]
        if not isinstance(name, str):
            raise InvalidToken(f"claim {self._settings.principal_claim} is no text")
        try:
            principal = parse_principal(name if ":" in name else f"user:{name}", roles=_roles(claims, self._settings))
        except ConfigError as error:
            raise InvalidToken(str(error)) from error
        if principal.id in self._local:
            raise InvalidToken(f"{principal.id} is the principal of this machine; auth.local_principal lets it in")
        return Identity(principal, float(claims["exp"]))


def _roles(claims: Mapping[str, Any], settings: Http) -> tuple[str, ...]:
    """The roles claim, an array of texts or one text with spaces between; none when it is left out or not set."""
    if not settings.roles_claim:
        return ()
    given: Any = claims.get(settings.roles_claim, ())
    roles: Sequence[Any] = given.split() if isinstance(given, str) else given
    if not isinstance(roles, list | tuple) or not all(isinstance(role, str) for role in roles):
        raise InvalidToken(f"claim {settings.roles_claim} is no list of texts")
    return tuple(roles)


def _kind(algorithm: str) -> str | None:
    return KINDS.get(algorithm[:2])


class KeyFromFile:
    """The one key of a file: a PEM public key, or for HS* a shared secret."""

    def __init__(self, key: Key) -> None:
        self._key = key

    @classmethod
    def read(cls, file: Path, *, shared: bool) -> "KeyFromFile":
        """The key in `file`.

        Raises:
            ConfigError: it cannot be read, or is not what the algorithms need.
        """
        try:
            data = file.expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(f"auth.jwt_key_file: {file} cannot be read: {error.strerror}") from error
        if shared:
            secret = data.strip()
            if b"-----BEGIN" in secret or secret.startswith((b"ssh-", b"ecdsa-")):
                raise ConfigError(
                    f"auth.jwt_key_file: {file} holds a public key, which is no secret; name RS*, ES* or EdDSA"
                )
            if len(secret) < MIN_SECRET_BYTES:
                raise ConfigError(f"auth.jwt_key_file: the secret in {file} is shorter than {MIN_SECRET_BYTES} bytes")
            return cls(Key("oct", secret))
        return cls(_public_key(data, file))

    async def find(self, key_id: str | None, kind: str) -> Key | None:
        return self._key if self._key.kind == kind else None


def _public_key(data: bytes, file: Path) -> Key:
    # Slow to import, and needed over HTTP only.
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        raise ConfigError(f"auth.jwt_key_file: {file} is no PEM public key") from error
    match key:
        case rsa.RSAPublicKey():
            return Key("RSA", key)
        case ec.EllipticCurvePublicKey():
            return Key("EC", key)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return Key("OKP", key)
        case _:
            raise ConfigError(f"auth.jwt_key_file: {file} holds a key of a kind that signs no tokens")


class KeysFromUrl:
    """The keys at a JWKS URL, kept a while; fetched anew for a key id that is not among them."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
            raise ConfigError(f"auth.jwks_url: {url} is no https URL")
        self._url = url
        self._keys: dict[str | None, Key] = {}
        self._fetched = -FRESH_SECONDS
        self._tried = -RETRY_SECONDS
        self._lock = anyio.Lock()

    async def find(self, key_id: str | None, kind: str) -> Key | None:
        async with self._lock:
            now = time.monotonic()
            stale = now - self._fetched >= FRESH_SECONDS or self._pick(key_id, kind) is None
            if stale and now - self._tried >= RETRY_SECONDS:
                self._tried = now
                await self._refresh(now)
        return self._pick(key_id, kind)

    async def _refresh(self, now: float) -> None:
        """Fetch the keys; while that fails the ones there are good for an hour.

        Raises:
            InvalidToken: it failed, and there are none.
        """
        try:
            self._keys = await self._fetch()
            self._fetched = now
        except InvalidToken as error:
            if now - self._fetched >= LAST_SECONDS:
                self._keys = {}
            if not self._keys:
                raise
            log.warning("%s; the keys fetched before are used", error)

    def _pick(self, key_id: str | None, kind: str) -> Key | None:
        if key_id is not None:
            return self._keys.get(key_id)
        of_kind = [key for key in self._keys.values() if key.kind == kind]
        return of_kind[0] if len(of_kind) == 1 else None

    async def _fetch(self) -> dict[str | None, Key]:
        import httpx2  # noqa: PLC0415 - needed with this setting only
        import jwt  # noqa: PLC0415 - as above

        try:
            # No redirects, no proxies of the environment: this URL and no other.
            async with (
                httpx2.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client,
                client.stream("GET", self._url) as response,
            ):
                if response.status_code != 200:
                    raise InvalidToken(f"auth.jwks_url answered {response.status_code}")
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_JWKS_BYTES:
                        raise InvalidToken("auth.jwks_url answered with too much")
            found: dict[str | None, Key] = {}
            for one in msgspec.json.decode(bytes(data), type=dict[str, Any]).get("keys", []):
                kind = one.get("kty")
                # A shared secret in public is none, and keys for encryption sign nothing.
                if kind in ("RSA", "EC", "OKP") and one.get("use") in (None, "sig"):
                    key_id = one.get("kid")
                    found[key_id if isinstance(key_id, str) else None] = Key(kind, jwt.PyJWK(one).key, one.get("alg"))
            return found
        except (httpx2.HTTPError, msgspec.DecodeError, jwt.PyJWTError, AttributeError, TypeError) as error:
            raise InvalidToken(f"auth.jwks_url cannot be used: {error}") from error
