"""Tokens: everything about one must hold, and keys come from where the settings say and nowhere else."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import RSAAlgorithm

from cld.config import Http
from cld.errors import ConfigError
from cld.server import tokens
from cld.server.tokens import InvalidToken, TokenVerifier

pytestmark = pytest.mark.anyio

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = "0123456789abcdef0123456789abcdef"


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def claims(**more: Any) -> dict[str, Any]:
    given = {"sub": "ada", "aud": "cld", "iss": "https://issuer", "exp": time.time() + 60, **more}
    return {name: value for name, value in given.items() if value is not None}


def verifier(folder: Path, key: bytes, **more: Any) -> TokenVerifier:
    file = folder / "key"
    file.write_bytes(key)
    given = {"jwt_key_file": str(file), "issuer": "https://issuer", "roles_claim": "roles", **more}
    return TokenVerifier.open(msgspec.convert(given, Http), "user:me")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def by_hand(header: dict[str, Any], body: dict[str, Any], sign: Any) -> str:
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}"
    return f"{signed}.{b64(sign(signed.encode()))}"


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")], ids=["RS256", "ES256", "EdDSA"]
)
async def test_a_good_token_is_its_principal(tmp_path: Path, key: Any, algorithm: str) -> None:
    expires = int(time.time()) + 60
    token = jwt.encode(claims(roles=["editor", "reader"], exp=expires), key, algorithm=algorithm)
    identity = await verifier(tmp_path, pem(key)).verify(token)
    assert identity.principal.id == "user:ada" and identity.principal.kind == "user"
    assert identity.principal.roles == ("editor", "reader")
    assert identity.principal.on_behalf_of is None
    assert identity.expires == expires


async def test_a_shared_secret_works_where_it_is_configured(tmp_path: Path) -> None:
    checks = verifier(tmp_path, f"{SECRET}\n".encode(), algorithms=["HS256"])
    assert (await checks.verify(jwt.encode(claims(), SECRET, algorithm="HS256"))).principal.id == "user:ada"
    with pytest.raises(InvalidToken):
        await checks.verify(jwt.encode(claims(), SECRET[::-1], algorithm="HS256"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": None},
        {"exp": 1_000_000_000},
        {"exp": "soon"},
        {"nbf": 100_000_000_000},
        {"aud": None},
        {"aud": "another service"},
        {"iss": None},
        {"iss": "https://somebody-else"},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "with spaces"},
        {"sub": "root:ada"},
        {"sub": "../ada"},
        {"roles": 7},
        {"roles": ["editor", 7]},
        {"roles": {"editor": True}},
    ],
    ids=repr,
)
async def test_a_claim_that_is_missing_or_wrong_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    body = claims(**wrong)
    header = {"alg": "RS256", "typ": "JWT"}
    signer = RSAAlgorithm(RSAAlgorithm.SHA256)
    token = by_hand(header, body, lambda data: signer.sign(data, RSA))
    with pytest.raises(InvalidToken):
        await verifier(tmp_path, pem(RSA)).verify(token)


async def test_an_audience_may_be_one_of_several_and_roles_one_text(tmp_path: Path) -> None:
    token = jwt.encode(claims(aud=["x", "cld"], roles="editor reader"), RSA, algorithm="RS256")
    assert (await verifier(tmp_path, pem(RSA)).verify(token)).principal.roles == ("editor", "reader")


async def test_claims_may_have_other_names(tmp_path: Path) -> None:
    checks = verifier(tmp_path, pem(RSA), principal_claim="email", roles_claim="groups", issuer="")
    token = jwt.encode(claims(sub=None, iss=None, email="service:ci", groups=["g"]), RSA, algorithm="RS256")
    found = (await checks.verify(token)).principal
    assert (found.id, found.kind, found.roles) == ("service:ci", "service", ("g",))


async def test_unsigned_tokens_are_refused(tmp_path: Path) -> None:
    checks = verifier(tmp_path, pem(RSA))
    for algorithm in ("none", "None", "NONE", "nOnE", "", None):
        with pytest.raises(InvalidToken):
            await checks.verify(by_hand({"alg": algorithm, "typ": "JWT"}, claims(), lambda data: b""))


async def test_a_public_key_is_no_shared_secret(tmp_path: Path) -> None:
    checks = verifier(tmp_path, pem(RSA))
    for secret in (pem(RSA), pem(RSA).strip(), (tmp_path / "key").read_bytes()):
        token = by_hand({"alg": "HS256"}, claims(), lambda data, key=secret: hmac.digest(key, data, hashlib.sha256))
        with pytest.raises(InvalidToken, match="algorithms"):
            await checks.verify(token)
    for algorithms in (["HS256", "RS256"], ["HS256"]):
        with pytest.raises(ConfigError, match="secret"):
            verifier(tmp_path, pem(RSA), algorithms=algorithms)


async def test_another_key_an_algorithm_not_configured_and_rubbish_are_refused(tmp_path: Path) -> None:
    checks = verifier(tmp_path, pem(RSA), algorithms=["RS256"])
    for token in (
        jwt.encode(claims(), OTHER_RSA, algorithm="RS256"),
        jwt.encode(claims(), RSA, algorithm="RS512"),
        jwt.encode(claims(), EC, algorithm="ES256"),
        jwt.encode(claims(), RSA, algorithm="RS256")[:-3],
        "rubbish",
        "a.b.c",
        "",
        "\ud800",
    ):
        with pytest.raises(InvalidToken):
            await checks.verify(token)


async def test_a_key_in_the_token_itself_is_not_looked_at(tmp_path: Path) -> None:
    jwk = json.loads(RSAAlgorithm.to_jwk(OTHER_RSA.public_key()))
    for header in ({"jwk": jwk}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}, {"kid": "../key"}):
        token = jwt.encode(claims(), OTHER_RSA, algorithm="RS256", headers=header)
        with pytest.raises(InvalidToken):
            await verifier(tmp_path, pem(RSA)).verify(token)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"algorithms": ["none"]}, "not usable"),
        ({"algorithms": []}, "not usable"),
        ({"algorithms": ["RS256", "none"]}, "not usable"),
        ({"audience": ""}, "audience"),
        ({"jwks_url": "https://issuer/keys"}, "not both"),
    ],
)
def test_settings_that_would_let_anybody_in_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        verifier(tmp_path, pem(RSA), **settings)


@pytest.mark.parametrize("url", ["http://issuer/keys", "file:///etc/passwd", "issuer", "ftp://issuer/keys"])
def test_keys_are_fetched_by_https_only(url: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        TokenVerifier.open(Http(jwks_url=url))


def test_key_files_that_cannot_be_used_are_told_in_words(tmp_path: Path) -> None:
    private = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for key, more, said in (
        (b"rubbish", {}, "no PEM public key"),
        (private, {}, "no PEM public key"),
        (b"short", {"algorithms": ["HS256"]}, "shorter than 32"),
    ):
        with pytest.raises(ConfigError, match=said):
            verifier(tmp_path, key, **more)
    with pytest.raises(ConfigError, match="cannot be read"):
        TokenVerifier.open(Http(jwt_key_file=str(tmp_path / "none")))


class Issuer:
    """An HTTP server with keys at /keys, that counts how often it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b"{}")
        self.asked: list[str] = []
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                status, body = issuer.answer
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/keys"

    def has(self, **keys: Any) -> None:
        listed = [{**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": kid} for kid, key in keys.items()]
        self.answer = (200, json.dumps({"keys": listed}).encode())


@pytest.fixture
def issuer() -> Generator[Issuer]:
    made = Issuer()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def signed(key: Any, kid: str | None) -> str:
    return jwt.encode(claims(), key, algorithm="RS256", headers={"kid": kid} if kid else {})


async def test_keys_from_a_url_are_kept_and_fetched_anew_for_a_new_key(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.has(one=RSA)
    checks = TokenVerifier.open(Http(jwks_url=issuer.url))
    for _ in range(3):
        await checks.verify(signed(RSA, "one"))
    await checks.verify(signed(RSA, None))
    assert issuer.asked == ["/keys"]

    issuer.has(two=OTHER_RSA)
    for _ in range(3):
        with pytest.raises(InvalidToken):
            await checks.verify(signed(OTHER_RSA, "two"))
    assert issuer.asked == ["/keys"]  # made-up ids do not make it ask again at once
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.0)
    await checks.verify(signed(OTHER_RSA, "two"))
    assert issuer.asked == ["/keys"] * 2
    with pytest.raises(InvalidToken):
        await checks.verify(signed(RSA, "one"))


async def test_keys_fetched_before_are_used_while_the_url_fails_but_not_for_ever(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.0)
    issuer.has(one=RSA)
    checks = TokenVerifier.open(Http(jwks_url=issuer.url))
    await checks.verify(signed(RSA, "one"))
    issuer.answer = (500, b"")
    monkeypatch.setattr(tokens, "FRESH_SECONDS", 0.0)
    await checks.verify(signed(RSA, "one"))
    monkeypatch.setattr(tokens, "LAST_SECONDS", 0.0)
    with pytest.raises(InvalidToken, match="500"):
        await checks.verify(signed(RSA, "one"))


async def test_redirects_rubbish_and_floods_from_the_url_are_refused(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.0)
    checks = TokenVerifier.open(Http(jwks_url=issuer.url))
    for answer in (
        (302, b""),
        (200, b"rubbish"),
        (200, b"[]"),
        (200, b'{"keys": [7]}'),
        (200, b'{"keys": [{"kty": "RSA", "kid": "one"}]}'),
        (200, b" " * (tokens.MAX_JWKS_BYTES + 1)),
    ):
        issuer.answer = answer
        with pytest.raises(InvalidToken):
            await checks.verify(signed(RSA, "one"))
    assert set(issuer.asked) == {"/keys"}


async def test_secrets_and_keys_for_other_uses_at_the_url_sign_nothing(issuer: Issuer) -> None:
    public = json.loads(RSAAlgorithm.to_jwk(RSA.public_key()))
    keys = [
        {"kty": "oct", "kid": "secret", "k": b64(SECRET.encode())},
        {**public, "kid": "enc", "use": "enc"},
        {**public, "kid": "rs512", "alg": "RS512"},
    ]
    issuer.answer = (200, json.dumps({"keys": keys}).encode())
    checks = TokenVerifier.open(Http(jwks_url=issuer.url))
    for token in (
        jwt.encode(claims(), SECRET, algorithm="HS256", headers={"kid": "secret"}),
        signed(RSA, "enc"),
        signed(RSA, "rs512"),
        signed(RSA, "none"),
    ):
        with pytest.raises(InvalidToken):
            await checks.verify(token)
    with pytest.raises(ConfigError, match="HS"):
        TokenVerifier.open(Http(jwks_url=issuer.url, algorithms=("HS256",)))


async def test_a_token_brings_roles_only_where_the_claim_is_set(tmp_path: Path) -> None:
    assert Http().roles_claim == ""
    token = jwt.encode(claims(roles=["owner"]), RSA, algorithm="RS256")
    assert (await verifier(tmp_path, pem(RSA), roles_claim="").verify(token)).principal.roles == ()


@pytest.mark.parametrize("name", ["local", "user:local", "me", "user:me"])
async def test_no_token_is_the_principal_of_this_machine_unless_that_is_set(tmp_path: Path, name: str) -> None:
    token = jwt.encode(claims(sub=name), RSA, algorithm="RS256")
    with pytest.raises(InvalidToken, match="principal of this machine"):
        await verifier(tmp_path, pem(RSA)).verify(token)
    identity = await verifier(tmp_path, pem(RSA), local_principal=True).verify(token)
    assert identity.principal.id == f"user:{name.removeprefix('user:')}"
