"""Java's `sasl.jaas.config`: a login module and its options."""

from __future__ import annotations

import re
from typing import NamedTuple

MECHANISMS = {
    "PlainLoginModule": ("PLAIN",),
    "ScramLoginModule": ("SCRAM-SHA-256", "SCRAM-SHA-512"),
    "OAuthBearerLoginModule": ("OAUTHBEARER",),
    "Krb5LoginModule": ("GSSAPI",),
}
EXAMPLE = 'org.apache.kafka.common.security.scram.ScramLoginModule required username="…" password="…";'
WORD = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][\w.]*)\s*=\s*(?:"(?P<double>(?:\\.|[^"\\])*)"|'(?P<single>(?:\\.|[^'\\])*)'|(?P<bare>[^\s;"']+)))"""
)


class Login(NamedTuple):
    """The module's short name and its options."""

    module: str
    options: dict[str, str]


def parse_jaas(text: str) -> Login:
    """ValueError says what is wrong, and never repeats what may be a password.

    >>> parse_jaas('a.b.PlainLoginModule required username="u" password="p\\\\"w";')
    Login(module='PlainLoginModule', options={'username': 'u', 'password': 'p"w'})
    """
    head = re.match(r"\s*([\w.]+)\s+(required|requisite|sufficient|optional)\b", text)
    if head is None:
        raise ValueError("does not begin with a login module and `required`")
    at, options = head.end(), {}
    while found := WORD.match(text, at):
        quoted = found["double"] if found["double"] is not None else found["single"]
        options[found["name"]] = found["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = found.end()
    if text[at:].strip() != ";":
        last = f" behind {list(options)[-1]}" if options else ""
        raise ValueError(f'is not understood{last}: options are name="value", and a semicolon ends it')
    return Login(head[1].rpartition(".")[2], options)
