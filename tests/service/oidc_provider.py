"""An OpenID provider for tests: a server on this machine with real keys, that can be told to misbehave."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

CLIENT, SECRET = "lockhouse at work", "s3cret:/+ ü"


class OpenIdProvider:
    """Signs in whom `person` names. `bend` changes the claims, `forge` the token, `described` discovery."""

    def __init__(self) -> None:
        self.keys = {
            "RS256": RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"}),
            "ES256": ECKey.generate_key("P-256", {"kid": "ec", "use": "sig"}),
        }
        self.alg = "RS256"
        self.person: dict[str, Any] = {"sub": "u-17"}
        self.bend: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.forge: Callable[[dict[str, Any]], str | None] = lambda claims: None
        self.described: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.token_answers: list[int] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.answer_get(self)

            def do_POST(self) -> None:
                provider.answer_token(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_address[1]}/realm"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer_get(self, handler: BaseHTTPRequestHandler) -> None:
        place = urlsplit(handler.path)
        if place.path == "/realm/.well-known/openid-configuration":
            described = {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
            }
            send(handler, 200, {**described, **self.described})
        elif place.path == "/realm/keys":
            keys = KeySet(list(self.keys.values()))
            send(handler, 200, keys.as_dict(private=False))
        elif place.path == "/realm/authorize":
            # Whoever asks is signed in: a page with a password would only be in the way.
            asked = {name: values[0] for name, values in parse_qs(place.query).items()}
            handler.send_response(303)
            handler.send_header("Location", self.signed_in(asked))
            handler.end_headers()
        else:
            send(handler, 404, {})

    def signed_in(self, asked: dict[str, str]) -> str:
        """Give the address to which the browser is sent back."""
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        back = {"code": code, "state": asked["state"], "iss": self.issuer}
        return f"{asked['redirect_uri']}?{urlencode(back)}"

    def answer_token(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        asked = self.codes.pop(form.get("code", ""), None)
        status = self._judged(handler, form, asked)
        self.token_answers.append(status)
        if status != 200 or asked is None:
            send(handler, status, {"error": "invalid_grant"})
            return
        now = int(time.time())
        times = {"iat": now, "exp": now + 60}
        claims = self.bend({"iss": self.issuer, "aud": CLIENT, **times, "nonce": asked["nonce"], **self.person})
        header = {"alg": self.alg, "kid": self.keys[self.alg].kid}
        token = self.forge(claims) or jwt.encode(header, claims, self.keys[self.alg])
        send(handler, 200, {"access_token": "x", "token_type": "Bearer", "id_token": token})

    def _judged(
        self, handler: BaseHTTPRequestHandler, form: dict[str, str], asked: dict[str, str] | None
    ) -> int:
        kind, _, given = handler.headers.get("Authorization", "").partition(" ")
        name, _, secret = base64.b64decode(given).decode().partition(":") if kind == "Basic" else ("", "", "")
        if (unquote(name), unquote(secret)) != (CLIENT, SECRET):
            return 401
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        fits = asked is not None and asked["code_challenge"] == challenge
        return 200 if fits and asked and form.get("redirect_uri") == asked["redirect_uri"] else 400


def send(handler: BaseHTTPRequestHandler, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
