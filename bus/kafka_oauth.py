"""Tokens for SASL/OAUTHBEARER: from a file that somebody renews, from a token endpoint (client credentials), or unsecured."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.clock import Clock, SystemClock
from ..core.errors import ConfigError, Unavailable
from .kafka_tls import Tls

TIMEOUT_S = 3.0
RENEW_AT = 0.8
"""A token is fetched anew when this share of its life is over."""
LIFE_S = 300.0
"""How long a token is used whose endpoint does not say how long it lives."""
MAX_ANSWER = 256 * 1024


@dataclass(frozen=True)
class TokenSource:
    """Where tokens come from: one of `file`, `endpoint` (with the client's credentials) and `claims` (unsecured, for tests)."""

    file: str = ""
    endpoint: str = ""
    client: str = ""
    secret: str = field(default="", repr=False)
    scope: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    extensions: Mapping[str, str] = field(default_factory=dict)


def read_token(path: str) -> str:
    """The file's only content. ConfigError where there is none."""
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(MAX_ANSWER).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "") or "is no token"
        raise ConfigError(f"sasl.oauthbearer.token.file: {path}: {why}", "check the path, and what renews the token") from error
    if not token:
        raise ConfigError(f"sasl.oauthbearer.token.file: {path} is empty", "check what renews the token")
    return token


def unsecured(claims: Mapping[str, str], now: float) -> str:
    """A token without a signature, which only a broker for tests accepts."""
    body = {"iat": int(now), "exp": int(now + 3600), **claims}
    parts = ({"alg": "none"}, body)
    return ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in parts) + "."


class Tokens:
    """A thread-safe store of one token, renewed before it ends. Unavailable where the endpoint does not give one."""

    def __init__(self, source: TokenSource, tls: Tls, clock: Clock | None = None) -> None:
        self._source, self._tls, self._clock = source, tls, clock or SystemClock()
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0

    def token(self) -> str:
        """One that is good for a while."""
        if self._source.file:
            return read_token(self._source.file)
        if not self._source.endpoint:
            return unsecured(self._source.claims, self._clock.now())
        with self._lock:
            if not self._token or self._clock.monotonic() >= self._renew_at:
                asked = self._clock.monotonic()
                self._token, life_s = self._fetch()
                self._renew_at = asked + RENEW_AT * life_s
            return self._token

    def _fetch(self) -> tuple[str, float]:
        import urllib.error
        import urllib.parse
        import urllib.request

        source = self._source
        form = {"grant_type": "client_credentials"} | ({"scope": source.scope} if source.scope else {})
        credentials = f"{urllib.parse.quote(source.client)}:{urllib.parse.quote(source.secret)}"
        headers = {
            "Authorization": "Basic " + base64.b64encode(credentials.encode()).decode(),
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        request = urllib.request.Request(source.endpoint, urllib.parse.urlencode(form).encode(), headers)
        context = self._tls.context() if source.endpoint.startswith("https:") else None
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
                found: Any = json.loads(answer.read(MAX_ANSWER))
            token = str(found["access_token"])
        except urllib.error.HTTPError as error:
            with error:
                raise self._away(
                    f"answers {error.code} {error.reason}", "check sasl.oauthbearer.client.id, its secret and the scope"
                ) from error
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise self._away(f"gives no token: {why}", "check the address and that it is reachable from here") from error
        except (KeyError, TypeError) as error:
            raise self._away("answers without an access_token", "check that it is the token endpoint") from error
        life = found.get("expires_in")
        return token, float(life) if isinstance(life, int | float) and life > 0 else LIFE_S

    def _away(self, what: str, hint: str) -> Unavailable:
        from urllib.parse import urlsplit

        shown = urlsplit(self._source.endpoint)
        return Unavailable(f"the token endpoint {shown.scheme}://{shown.hostname}{shown.path} {what}", hint)


def provider(source: TokenSource, tls: Tls) -> object:
    """The same for kafka-python, which asks for a token at each connection."""
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Provider(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
        """Hands the tokens on."""

        def __init__(self) -> None:
            super().__init__()
            self._tokens = Tokens(source, tls)

        def token(self) -> str:
            """For one connection."""
            return self._tokens.token()

        def extensions(self) -> dict[str, str]:
            """Goes with the token (KIP-342)."""
            return dict(source.extensions)

    return Provider()
