"""Who may ask the studio: host names, a token, requests of other pages. Also the headers that every answer has.

Covers: an ASGI layer around the whole application.
Does not cover: the address and TLS (`serve`), what is answered (`app`).

The page gets the token once, in its address, and keeps it as a cookie that scripts cannot read. Programs send it as
`Authorization: Bearer TOKEN`. A host name that is not ours means that another page made the browser ask for our address
under its own name (DNS rebinding). An `Origin` that is not ours is a page of somebody else that posts.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "daskt2i_studio"

OPEN = "/healthz"
"""Answered without a token, so that a program can wait until the studio is there."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Content security policy: no script, style or picture from elsewhere, and none inside the page."""

_HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Access:
    """Lets through what may be answered.

    Args:
        app: the application behind.
        token: what a visitor must know; None: nothing.
        hosts: host names under which the studio may be asked, without port; empty: any.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str] = ()) -> None:
        self._app, self._token, self._hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._refusal(scope)
        await (self._app if refused is None else refused)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that is not passed on; None for one that is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and _name_of(host) not in self._hosts:
            return PlainTextResponse("This host name is not one of the studio. Use the address that it printed.", 421)
        origin = headers.get("origin")
        if scope["method"] in _CHANGES and origin is not None and origin != f"{scope['scheme']}://{host}":
            return PlainTextResponse("Another page sent this request, so nothing was done. Use the studio's page.", 403)
        if self._token is None or scope["path"] == OPEN:
            return None
        return self._without_token(scope, headers, self._token)

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        asked = dict(query).get("token")
        if asked is not None and _same(asked, token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            # A relative address: behind a proxy the studio does not know its own.
            answer = RedirectResponse(f".?{rest}" if rest else ".", 303)
            secure = scope["scheme"] == "https"
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, path="/")
            return answer
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), token):
            return None
        if _same(_cookie(headers.get("cookie", "")), token):
            return None
        return PlainTextResponse(
            "The studio does not know this browser. Open the address that it printed when it started: it has a token.",
            401,
        )


def _name_of(host: str) -> str:
    """The name in a `Host` header, without port and brackets, in small letters."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing."""
    return hmac.compare_digest(one.encode(), other.encode())
