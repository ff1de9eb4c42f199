"""Streamable HTTP: many clients, each as the principal its bearer token names.

A token is always needed. Where none is configured, on loopback only, one is made at start for whoever can
read this user's files. Host and Origin are checked before anything else, so that no web page reaches a
local server through a name of its own (DNS rebinding).
"""

import contextlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cld.config import Http, Settings
from cld.errors import ConfigError
from cld.runtime import Runtime
from cld.server.access import Identity, RequestContext
from cld.server.application import Application
from cld.server.tokens import InvalidToken, TokenVerifier

log = logging.getLogger("cld.server")

PATH = "/mcp"
IDENTITY = "cld.identity"
"""Where in the ASGI scope the verified identity is."""

GRACE_SECONDS = 3
BODY_OVERHEAD = 64 * 1024
"""What a request may be larger than the largest resource."""

_NAME = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?"
_HOST = re.compile(_NAME)
_ORIGIN = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://{_NAME}")

Verify = Callable[[str], Awaitable[Identity]]


async def serve_http(runtime: Runtime, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; port 0 takes a free one. The address is logged once it answers.

    Raises:
        ConfigError: tokens cannot be verified as configured, or `host` may not be bound that way.
    """
    auth = runtime.settings.auth
    verifier = TokenVerifier.open(auth, runtime.principal.id) if auth.jwt_key_file or auth.jwks_url else None
    if verifier is None and not is_loopback(host):
        raise ConfigError(
            f"http: {host} can be reached from other machines, and no tokens are configured, so everybody who "
            "reaches it would be let in or nobody; set auth.jwt_key_file or auth.jwks_url, or bind 127.0.0.1"
        )
    if not is_loopback(host) and not auth.allowed_hosts:
        raise ConfigError(f"http: to serve on {host}, set auth.allowed_hosts to the names clients use for it")
    with _bound(host, port) as listening, contextlib.ExitStack() as stack:
        bound_port: int = listening.getsockname()[1]
        if verifier is None:
            token = secrets.token_urlsafe(32)
            verify = one_token(token, Identity(runtime.principal))
            stack.enter_context(_told(token, runtime.settings, bound_port))
        else:
            verify = verifier.verify
        app = http_app(Application(runtime, identity_of), verify, security(host, auth), _body_limit(runtime.settings))
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound_port}{PATH}"
        await _Server(config, url).serve(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn's, which on a signal ends by returning: raising it again would skip what is left to close.

    Says where it listens once it does, and signals are heeded.
    """

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log.warning("listening on %s", self._url)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def http_app(
    application: Application,
    verify: Verify,
    checked: TransportSecuritySettings,
    body_limit: int,
    *,
    name: str = "cld",
    **options: Any,
) -> Starlette:
    """The ASGI application: Host and Origin, then the token, then MCP. `options` go to the SDK's manager."""
    manager = StreamableHTTPSessionManager(
        application.server(name), security_settings=checked, max_request_body_size=body_limit, **options
    )
    guarded = Bearer(StreamableHTTPASGIApp(manager), verify)
    return Starlette(
        routes=[Route(PATH, endpoint=guarded)],
        middleware=[Middleware(Names, checked)],
        lifespan=lambda _: manager.run(),
    )


def identity_of(ctx: RequestContext) -> Identity:
    """Who the HTTP request behind `ctx` is from; fails where there is no verified one."""
    request: Any = ctx.request
    identity = request.scope[IDENTITY]
    assert isinstance(identity, Identity)
    return identity


def security(host: str, auth: Http) -> TransportSecuritySettings:
    """The Host and Origin headers that are let in: loopback's own, or those configured."""
    hosts = [*auth.allowed_hosts]
    origins = [*auth.allowed_origins]
    if is_loopback(host):
        for name in ("127.0.0.1", "localhost", "[::1]"):
            hosts += [name, f"{name}:*"]
            origins += [f"http://{name}", f"http://{name}:*"]
    return TransportSecuritySettings(enable_dns_rebinding_protection=True, allowed_hosts=hosts, allowed_origins=origins)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def one_token(token: str, identity: Identity) -> Verify:
    """A check that lets in whoever has `token`, as `identity`."""

    async def verify(given: str) -> Identity:
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise InvalidToken("it is not the token of this server's start")
        return identity

    return verify


class Names:
    """Lets requests through whose Host and Origin are ours; before anything else looks at them, redirects too."""

    def __init__(self, app: ASGIApp, checked: TransportSecuritySettings) -> None:
        self._app = app
        self._checked = checked
        self._security = TransportSecurityMiddleware(checked)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            refusal = await self._security.validate_request(request) or self._malformed(request)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _malformed(self, request: Request) -> Response | None:
        """The refusal of a name that only begins like ours: the SDK lets anything be the port."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin", "")
        if host not in self._checked.allowed_hosts and not _HOST.fullmatch(host):
            return Response("Invalid Host header", status_code=421)
        if origin and origin not in self._checked.allowed_origins and not _ORIGIN.fullmatch(origin):
            return Response("Invalid Origin header", status_code=403)
        return None


class Bearer:
    """Lets requests through that bring a token which holds, and says whose it is."""

    def __init__(self, app: ASGIApp, verify: Verify) -> None:
        self._app = app
        self._verify = verify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        given = request.headers.getlist("authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if kind.lower() != "bearer" or not token:
            await _unauthorized("", "a bearer token is needed")(scope, receive, send)
            return
        try:
            identity = await self._verify(token.strip())
        except InvalidToken as error:
            log.warning("a token was refused: %s", error)
            await _unauthorized(' error="invalid_token"', "the token does not hold")(scope, receive, send)
            return
        scope[IDENTITY] = identity
        # The SDK's own notion of it, by which a session stays with the principal that began it.
        principal = identity.principal
        owner = AccessToken(token="", client_id=principal.id, scopes=[], subject=principal.id)
        scope["user"] = AuthenticatedUser(owner)
        await self._app(scope, receive, send)


def _unauthorized(detail: str, description: str) -> JSONResponse:
    headers = {"WWW-Authenticate": f'Bearer realm="cld"{"," if detail else ""}{detail}'}
    return JSONResponse({"error": "unauthorized", "error_description": description}, 401, headers)


def _body_limit(settings: Settings) -> int:
    return settings.limits.body_bytes + BODY_OVERHEAD


@contextlib.contextmanager
def _bound(host: str, port: int) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise ConfigError(f"http: {host}:{port} cannot be bound: {error.strerror}") from error
        listening.listen(128)
        listening.setblocking(False)
        yield listening


@contextlib.contextmanager
def _told(token: str, settings: Settings, port: int) -> Generator[None]:
    """The token where its user finds it, and nobody else: the log, and a file that only they can read."""
    log.warning("no tokens are configured; use this one until the server ends: %s", token)
    if not settings.is_local:
        yield
        return
    file = settings.root_path / ".cld" / f"http-{port}.token"
    _write_private(file, token)
    try:
        log.warning("it is also in %s", file)
        yield
    finally:
        file.unlink(missing_ok=True)


def _write_private(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    # New, or not at all: what somebody else put there is not written to.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{text}\n")
