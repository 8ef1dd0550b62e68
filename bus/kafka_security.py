"""Who connects how: `security.protocol`, `sasl.*` and `ssl.*` put together and held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

from ..core.errors import ConfigError
from ..core.registry import did_you_mean
from .kafka_jaas import EXAMPLE, MECHANISMS, Login, parse_jaas
from .kafka_oauth import TokenSource, provider
from .kafka_tls import Say, Tls, tls_of

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
KNOWN_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI", "AWS_MSK_IAM")
NEEDS = {"GSSAPI": "gssapi", "AWS_MSK_IAM": "botocore"}
WITH_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
CREDENTIALS = "write sasl.username and sasl.password (as ${NAME} or ${file:/path}), or sasl.jaas.config"


@dataclass(frozen=True)
class Security:
    """How a connection is secured. `tls` is there also without TLS: a token endpoint may need its trusted authorities."""

    protocol: str = "PLAINTEXT"
    mechanism: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    tokens: TokenSource | None = None
    tls: Tls = field(default_factory=Tls)

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self.protocol.endswith("SSL")

    @property
    def authenticates(self) -> bool:
        """Whether SASL is spoken."""
        return self.protocol.startswith("SASL")

    def arguments(self) -> dict[str, object]:
        """kafka-python's keyword arguments. Reads the certificates: ConfigError with what is wrong with them."""
        made: dict[str, object] = {"security_protocol": self.protocol}
        if self.encrypted:
            made["ssl_context"] = self.tls.context()
        if not self.authenticates:
            return made
        needed = NEEDS.get(self.mechanism)
        if needed and find_spec(needed) is None:
            raise ConfigError(f"sasl.mechanism {self.mechanism} needs the package {needed}", f"pip install {needed}")
        made["sasl_mechanism"] = self.mechanism
        if self.mechanism in WITH_PASSWORD:
            made |= {"sasl_plain_username": self.username, "sasl_plain_password": self.password}
        elif self.tokens is not None:
            made["sasl_oauth_token_provider"] = provider(self.tokens, self.tls)
        return made


def security_of(values: Mapping[str, str], say: Say) -> Security:
    """What the keys say, without reading a file; what is wrong goes to `say` (key, what, what to do)."""
    login = _login(values, say)
    protocol = _protocol(values, say)
    tls = tls_of(values, say)
    if not protocol.startswith("SASL"):
        return Security(protocol, tls=tls)
    mechanism = _mechanism(values, login, say)
    options = login.options if login else {}
    tokens = _tokens(values, options, say) if mechanism == "OAUTHBEARER" else None
    username = values.get("sasl.username") or options.get("username", "")
    password = values.get("sasl.password") or options.get("password", "")
    if mechanism in WITH_PASSWORD:
        for key, given in (("sasl.username", username), ("sasl.password", password)):
            if not given:
                say("sasl.mechanism", f"{mechanism} needs {key}", CREDENTIALS)
        if login and values.get("sasl.username", username) != options.get("username", username):
            say("sasl.username", "sasl.jaas.config names another user", "keep one of them")
    return Security(protocol, mechanism, username, password, tokens, tls)


def _login(values: Mapping[str, str], say: Say) -> Login | None:
    text = values.get("sasl.jaas.config")
    if not text:
        return None
    try:
        login = parse_jaas(text)
    except ValueError as error:
        say("sasl.jaas.config", str(error), f"write {EXAMPLE}")
        return None
    if login.module not in MECHANISMS:
        say("sasl.jaas.config", f"the login module {login.module} is not known", did_you_mean(login.module, list(MECHANISMS)))
        return None
    return login


def _protocol(values: Mapping[str, str], say: Say) -> str:
    stated = values.get("security.protocol")
    if stated is None:
        given = next((key for key in values if key.startswith(("sasl.", "ssl.")) and key != "sasl.kerberos.service.name"), None)
        if given is not None:
            wanted = "SASL_SSL" if given.startswith("sasl.") else "SSL"
            say(given, "has no effect without security.protocol", f"write security.protocol: {wanted}")
        return "PLAINTEXT"
    protocol = stated.upper()
    if protocol not in PROTOCOLS:
        say("security.protocol", f'"{stated}" is not known', did_you_mean(protocol, list(PROTOCOLS)))
        return "PLAINTEXT"
    return protocol


def _mechanism(values: Mapping[str, str], login: Login | None, say: Say) -> str:
    fitting = MECHANISMS[login.module] if login else ()
    stated = values.get("sasl.mechanism", "").upper()
    if not stated:
        if len(fitting) == 1:
            return fitting[0]
        hint = " or ".join(f"sasl.mechanism: {one}" for one in fitting or ("SCRAM-SHA-512", "PLAIN"))
        say("security.protocol", "needs sasl.mechanism beside it", f"write {hint}")
        return ""
    if stated not in KNOWN_MECHANISMS:
        say("sasl.mechanism", f'"{stated}" is not known', did_you_mean(stated, list(KNOWN_MECHANISMS)))
    elif login and stated not in fitting:
        say("sasl.mechanism", f"{stated} does not go with {login.module}", f"{login.module} goes with {' and '.join(fitting)}")
    return stated


def _tokens(values: Mapping[str, str], options: Mapping[str, str], say: Say) -> TokenSource:
    claim = "unsecuredLoginStringClaim_"
    source = TokenSource(
        file=values.get("sasl.oauthbearer.token.file", ""),
        endpoint=values.get("sasl.oauthbearer.token.endpoint.url", ""),
        client=values.get("sasl.oauthbearer.client.id") or options.get("clientId", ""),
        secret=values.get("sasl.oauthbearer.client.secret") or options.get("clientSecret", ""),
        scope=values.get("sasl.oauthbearer.scope") or options.get("scope", ""),
        claims={name.removeprefix(claim): one for name, one in options.items() if name.startswith(claim)},
        extensions={name.removeprefix("extension_"): one for name, one in options.items() if name.startswith("extension_")},
    )
    if source.endpoint.startswith("file://"):  # Java's way to name a token's file
        return TokenSource(file=source.endpoint.removeprefix("file://"), extensions=source.extensions)
    if source.endpoint and not source.endpoint.startswith(("https://", "http://")):
        say("sasl.oauthbearer.token.endpoint.url", "is no address", "write https://host/path")
    elif source.endpoint and not (source.client and source.secret):
        hint = "write sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret, the latter as ${NAME} or ${file:/path}"
        say("sasl.oauthbearer.token.endpoint.url", "needs the client's id and secret", hint)
    elif not (source.endpoint or source.file or source.claims):
        hint = "write sasl.oauthbearer.token.endpoint.url (client credentials) or sasl.oauthbearer.token.file"
        say("sasl.mechanism", "OAUTHBEARER needs a source of tokens", hint)
    return source
