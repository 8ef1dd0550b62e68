"""`smart-tuner dead-letters`: what nobody could read, with its reason; and once more to where it came from."""

from __future__ import annotations

import base64
import datetime
import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .options import DataDir, Json, place

HEAD = ("time", "id", "from", "bytes", "tries", "status", "reason")
ASK_S = 60.0
MOST_HEX_BYTES = 64 << 10
commands = typer.Typer(no_args_is_help=True, pretty_exceptions_show_locals=False)
Id = Annotated[str, typer.Argument(metavar="ID", help="As list names it: dead_letters/0@17.")]


def register(app: typer.Typer) -> None:
    """Adds `dead-letters`."""
    app.add_typer(
        commands,
        name="dead-letters",
        help="Records that nobody could read: list, show, publish again.",
        epilog="Example: smart-tuner dead-letters list",
    )


def asked(context: typer.Context, data_dir: Any, **query: Any) -> dict[str, Any]:
    """The daemon's answer; Forbidden where it refuses."""
    from ...bus.query import ask
    from ...core.errors import Forbidden

    answer = ask(place(context, data_dir).listener, {"query": "dead_letters", **query}, ASK_S)
    if "refused" in answer:
        raise Forbidden(answer["refused"], answer.get("hint", ""))
    return answer


@commands.command("list", epilog="Example: smart-tuner dead-letters list --limit 20")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="The newest N.")] = 100,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """The newest letters, the newest last: when, where the record stood, why nobody could read it."""
    rows = [dated(row) for row in asked(context, data_dir, act="list", limit=limit)["letters"]]
    if as_json:
        for row in rows:
            print(json.dumps(row))
    elif rows:
        from .tables import print_table

        print_table(HEAD, [cells(row) for row in rows])
    else:
        print("smart-tuner: no dead letters", file=sys.stderr)


@commands.command(epilog="Example: smart-tuner dead-letters show dead_letters/0@17 --raw > body.json")
def show(
    context: typer.Context,
    letter: Id,
    raw: Annotated[bool, typer.Option("--raw", help="Exactly the bytes, nothing else.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """One letter with its bytes: JSON laid out, other text as it is, else as a hex dump."""
    found = dated(asked(context, data_dir, act="show", id=letter))
    body = base64.b64decode(found["body"])
    if as_json:
        print(json.dumps(found))
        return
    if raw:
        sys.stdout.buffer.write(body)
        return
    for name in ("id", "time", "from", "appended", "key", "by", "reason", "bytes", "tries", "retry_of", "status"):
        print(f"{name}: {harmless(str(found[name]))}")
    for name, value in found["headers"].items():
        print(f"header {harmless(name)}: {harmless(value)}")
    if found["kept"] < found["bytes"]:
        print(f"kept: the first {found['kept']} bytes")
    print()
    for line in laid_out(body):
        print(line)


@commands.command(epilog="Example: smart-tuner dead-letters retry --all")
def retry(
    context: typer.Context,
    letter: Annotated[str | None, typer.Argument(metavar="[ID]", help="As list names it.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="All that were not published again yet.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Publishes the bytes again to the topic they came from, once each: after an upgrade, say. What the daemon still cannot
    read it refuses (exit code 12) and leaves where it is. Points that were stored already are not stored twice."""
    from ...core.errors import Forbidden, UsageError

    if (letter is None) == (not every):
        raise UsageError("name one letter, or --all", "smart-tuner dead-letters list")
    results = list(all_of_them(context, data_dir)) if every else [asked(context, data_dir, act="retry", id=letter)]
    for one in results:
        print(json.dumps(one) if as_json else line(one))
    refused = sum(one["status"] == "refused" for one in results)
    if not results:
        print("smart-tuner: no dead letter waits", file=sys.stderr)
    elif refused:
        raise Forbidden(f"{refused} of {len(results)} letters were not published again", "see smart-tuner dead-letters show ID")


def all_of_them(context: typer.Context, data_dir: Any) -> Iterator[dict[str, Any]]:
    """What became of each letter that waited; the daemon answers a part at a time."""
    after: dict[str, int] = {}
    while True:
        answer = asked(context, data_dir, act="retry", all=True, after=after)
        yield from answer["results"]
        after = answer["after"]
        if not after:
            return


def line(one: dict[str, Any]) -> str:
    """What became of one letter."""
    if one["status"] == "retried":
        return f"{one['id']}: published again to {one['topic']}"
    return f"{one['id']}: {'not published again' if one['status'] == 'refused' else 'left alone'}: {one['reason']}"


def dated(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its times as RFC 3339."""
    for name in ("time", "appended"):
        at = datetime.datetime.fromtimestamp(row[name], datetime.UTC)
        row[name] = at.isoformat(timespec="microseconds").replace("+00:00", "Z") if row[name] else None
    return row


def harmless(text: str) -> str:
    """A stranger's text without what a terminal would obey."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One letter as cells."""
    told = (row["time"][:19], row["id"], row["from"], row["bytes"], row["tries"], row["status"], row["reason"])
    return tuple(harmless(str(one)) for one in told)


def laid_out(body: bytes) -> Iterator[str]:
    """JSON with indents, text as it is, anything else as a hex dump of its first 64 KiB."""
    try:
        yield json.dumps(json.loads(body), indent=2, ensure_ascii=False)
        return
    except (ValueError, RecursionError):
        pass
    try:
        text = body.decode()
        if text.isprintable() or all(one.isprintable() or one in "\r\n\t" for one in text):
            yield text
            return
    except UnicodeDecodeError:
        pass
    for at in range(0, min(len(body), MOST_HEX_BYTES), 16):
        row = body[at : at + 16]
        text = "".join(chr(one) if 32 <= one < 127 else "." for one in row)
        yield f"{at:08x}  {row.hex(' '):<47}  |{text}|"
    if len(body) > MOST_HEX_BYTES:
        yield f"… {len(body) - MOST_HEX_BYTES} more bytes: --raw gives them all"
