"""A condition as a person writes it, read by a parser of our own and never evaluated: `patience(patience=5) & ~improvement`.

`~` binds strongest, then `&`, then `|`; parentheses group. Options stand as in docs/policies.md, with `=`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn

from ..core.errors import UsageError
from ..core.ports import Policy
from ..core.silence import JudgesSilence
from .conditions import NAME, Composite, Condition, Joined, Leaf, Not
from .policies import REGISTRY

MOST_CONDITIONS = 16
MOST_DEPTH = 16
MOST_LETTERS = 1000
TOKEN = re.compile(
    r"""\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<text>"[^"]*"|'[^']*')|(?P<sign>[&|~(),=]))"""
)
WORDS = {"true": True, "false": False, "none": None}


def composite(name: str, when: object, then: object = "prune") -> Composite:
    """The rule that a person called `name`; UsageError says what is wrong with it, and where."""
    if name in REGISTRY:
        raise UsageError(f"{name} is the name of a policy", "give the rule with `when` a name of its own")
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a rule", "use letters, digits, _ and -, and start with a letter")
    if then not in ("prune", "alert"):
        raise UsageError(f"then: {then!r} is neither prune nor alert", "write then: prune, or then: alert")
    return Composite(name, parse(when), "prune" if then == "prune" else "alert")


def parse(text: object) -> Condition:
    """The condition that is written; UsageError tells the character (counted from 1) at which it goes wrong.

    >>> parse("(patience(patience=5)|plateau) & ~~divergence").text
    '(patience(patience=5) | plateau) & divergence'
    """
    if not isinstance(text, str) or not text.strip():
        raise UsageError("when: names no condition", 'write when: "patience(patience=5) & ~divergence"')
    if len(text) > MOST_LETTERS:
        raise UsageError(f"when: is longer than {MOST_LETTERS} characters", "split it into several rules")
    return _Parser(text).whole()


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            _stop(at, f"{text[at]!r} means nothing here", "write NAME(option=value), joined by & | ~ and grouped by ( )")
        tokens.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        at = match.end()
    return [*tokens, _Token("end", "", len(text.rstrip()))]


def _stop(at: int, message: str, hint: str) -> NoReturn:
    raise UsageError(f"when, character {at + 1}: {message}", hint)


class _Parser:
    """By recursive descent, of bounded depth."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._conditions = 0

    def whole(self) -> Condition:
        """All of it is one condition."""
        found = self._joined("|", 0)
        token = self._next()
        if token.kind != "end":
            _stop(token.at, f"{token.text!r} after the end of the condition", "join conditions by & or |")
        return found

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at += token.kind != "end"
        return token

    def _takes(self, sign: str) -> bool:
        found = self._tokens[self._at].text == sign and self._tokens[self._at].kind == "sign"
        self._at += found
        return found

    def _joined(self, sign: Literal["&", "|"], depth: int) -> Condition:
        inner: Callable[[], Condition] = (lambda: self._joined("&", depth)) if sign == "|" else (lambda: self._single(depth))
        parts = [inner()]
        while self._takes(sign):
            parts.append(inner())
        return parts[0] if len(parts) == 1 else Joined(sign, tuple(parts))

    def _single(self, depth: int) -> Condition:
        token = self._tokens[self._at]
        if depth > MOST_DEPTH:
            _stop(token.at, f"is nested deeper than {MOST_DEPTH} levels", "split it into several rules")
        if self._takes("~"):
            inner = self._single(depth + 1)
            return inner.inner if isinstance(inner, Not) else Not(inner)
        if self._takes("("):
            found = self._joined("|", depth + 1)
            if not self._takes(")"):
                here = self._tokens[self._at]
                _stop(here.at, f"the ( of character {token.at + 1} is not closed", "write a )")
            return found
        self._next()
        if token.kind != "word":
            _stop(token.at, f"a condition belongs here, not {token.text or 'the end'!r}", f"conditions: {', '.join(REGISTRY)}")
        return self._leaf(token)

    def _leaf(self, token: _Token) -> Condition:
        self._conditions += 1
        if self._conditions > MOST_CONDITIONS:
            _stop(token.at, f"more than {MOST_CONDITIONS} conditions", "split it into several rules")
        options = self._options() if self._takes("(") else {}
        shown = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(options.items()))
        try:
            return Leaf(_asked(token.text, options), f"{token.text}({shown})" if shown else token.text)
        except UsageError as error:
            _stop(token.at, error.message, error.hint or "see docs/policies.md")

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        while not self._takes(")"):
            name = self._next()
            if name.kind != "word" or not self._takes("="):
                _stop(name.at, "an option belongs here", "write NAME(option=value, option=value)")
            if name.text in options:
                _stop(name.at, f"{name.text} stands here twice", "keep one of them")
            options[name.text] = self._value()
            here = self._tokens[self._at]
            if not self._takes(",") and here.text != ")":
                _stop(here.at, "a comma or a ) belongs here", "write NAME(option=value, option=value)")
        return options

    def _value(self) -> Any:
        token = self._next()
        if token.kind == "number":
            return int(token.text) if token.text.lstrip("+-").isdigit() else float(token.text)
        if token.kind == "text":
            return token.text[1:-1]
        if token.kind == "word":
            return WORDS.get(token.text.lower(), token.text)
        return _stop(token.at, "a value belongs here", "write a number, true, false or a word")


def _asked(name: str, options: Mapping[str, Any]) -> Policy:
    """The policy as a condition. One that tells or ends is asked for the points at which it would end a run: those are all
    points at which its condition holds."""
    if "then" in options:
        raise UsageError(f"{name}: then is said once, of the whole rule", "write then: beside when:")
    policy = REGISTRY.make(name, **options)
    if isinstance(policy, JudgesSilence):
        raise UsageError(f"{name}: looks at the time between points, and no point", "name it as a policy of its own")
    if "then" in inspect.signature(type(policy)).parameters:
        policy = REGISTRY.make(name, **options, then="prune")
    return policy
