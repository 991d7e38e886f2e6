"""What the tiers have logged, as lines of one schema; the schema is in docs/observability.md.

It reads what `docker compose logs --timestamps` prints: `CONTAINER | TIME TEXT`. The time is
Docker's, one clock for all tiers.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TextIO

from infra.config.names import INSTANCES
from infra.ops.outcome import Exit

# Compose clears the terminal's line first, on a pipe too.
_PRINTED = re.compile(r"(?:\x1b\[2K)?(?P<container>\S+) +\| (?P<time>\d\S+Z) (?P<text>.*)")
# By log_line_prefix of infra/templates/postgresql.conf.j2; the server's own have no session.
_POSTGRES = re.compile(
    r"\S+ \S+ \S+ \[(?P<pid>\d+)\] (?P<sqlstate>\w{5}) "
    r"(?:(?P<role>\S*)@(?P<database>\S*) (?P<application>.*?) (?P<query_id>-?\d+) )?"
    r"(?P<level>[A-Z]+\d?):  (?P<message>.*)"
)
_PGBOUNCER = re.compile(
    r"\S+ \S+ \S+ \[\d+\] (?P<level>[A-Z]+) "
    r"(?:(?P<side>[CS])-\w+: (?P<database>[^/ ]+)/(?P<role>[^@ ]+)@(?P<address>\S+) )?"
    r"(?P<message>.*)"
)
_APP_TEXT = re.compile(r"\S+ (?P<level>[a-z]+) +(?P<logger>\S+): (?P<message>.*)")
_WORDS = re.compile(r'(request_id|assessment_id|address)=([^\s"]+)')
# Of a server; the app's levels have these names already.
_LEVELS = {
    **dict.fromkeys(("LOG", "INFO", "NOTICE"), "info"),
    **dict.fromkeys(("DEBUG", "NOISE"), "debug"),
    **dict.fromkeys(("FATAL", "PANIC"), "critical"),
}
_SIDES = {"C": "client", "S": "server"}
# A connection's port is used again, but not so soon.
_NEAR = timedelta(seconds=5)
_APPLICATION_MAX = 63
_COLOURS = {"critical": "1;31", "error": "31", "warning": "33", "debug": "2"}
_TIER_COLOURS = {"api": "36", "worker": "34", "pgbouncer": "35", "postgres": "32"}


@dataclass(slots=True)
class Line:
    """One line of a log; `fields` is all that is not common to every tier.

    `continues`: it belongs to the line before it of its container, as those of a traceback do.
    """

    time: str
    container: str
    level: str
    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    continues: bool = False

    @property
    def tier(self) -> str:
        """Return the service, which the container is a replica of."""
        service = self.container.rpartition("-")[0] or self.container
        return "postgres" if service in INSTANCES else service

    @property
    def at(self) -> datetime:
        """Return the time to the microsecond."""
        return datetime.fromisoformat(self.time[:26].rstrip("Z"))

    def as_dict(self) -> dict[str, Any]:
        """Return the line in the one schema."""
        common = {"time": self.time, "tier": self.tier, "container": self.container}
        return common | {"level": self.level, "message": self.message} | self.fields

    def as_text(self, *, colour: bool) -> str:
        """Return the line in columns; lines of a traceback follow, indented."""
        rest = dict(self.fields)
        traceback = str(rest.pop("exception", "")).splitlines()
        own = _COLOURS.get(self.level, "")
        cells = [
            (f"{self.container:<12}", _TIER_COLOURS.get(self.tier, "")),
            (f"{self.level:<8}", own),
            (_printable(self.message), own),
            (" ".join(f"{name}={_value(value)}" for name, value in rest.items()), "2"),
        ]
        painted = [_painted(text, code if colour else "") for text, code in cells if text]
        first = "  ".join([self.time[:23].replace("T", " "), *painted])
        return "\n    ".join([first.rstrip(), *map(_printable, traceback)])


def run(printed: TextIO, request: str | None, *, colour: bool, as_json: bool) -> int:
    """Print every line, or those of one request in the order of time; return the exit code.

    For a request the lines of the api must come first: they say what the other tiers know it by.
    """
    count = 0
    try:
        for line in read(printed) if request is None else _of_request(read(printed), request):
            shown = json.dumps(line.as_dict()) if as_json else line.as_text(colour=colour)
            print(shown)  # noqa: T201  # what it is for
            count += 1
    except KeyboardInterrupt:
        # Whoever follows a log ends it so.
        return Exit.OK
    if request is not None and not count:
        print(f"no line of the api has the request id {request}", file=sys.stderr)  # noqa: T201
        return Exit.FAILED
    return Exit.OK


def read(printed: Iterable[str]) -> Iterator[Line]:
    """Yield a line for each that `docker compose logs` printed; its own remarks are left out."""
    for one in printed:
        match = _PRINTED.match(one)
        if match:
            yield _parse(match["container"], match["time"], match["text"])


def _parse(container: str, time: str, text: str) -> Line:
    line = Line(time, container, "", text)
    if text.startswith("{"):
        _take_json(line, text)
        return line
    form = {"postgres": _POSTGRES, "pgbouncer": _PGBOUNCER}.get(line.tier, _APP_TEXT)
    match = form.match(text)
    if match is None:
        line.continues = True
        return line
    parts = {name: value for name, value in match.groupdict().items() if value is not None}
    level = parts.pop("level")
    line.level = _LEVELS.get(level.rstrip("12345"), level.lower())
    line.message = parts.pop("message")
    if "side" in parts:
        parts["side"] = _SIDES[parts["side"]]
    line.fields = parts
    if form is _APP_TEXT:
        line.fields |= dict(_WORDS.findall(line.message))
    return line


def _take_json(line: Line, text: str) -> None:
    try:
        parts = json.loads(text)
    except ValueError:
        return
    line.level, line.message = str(parts.pop("level", "")), str(parts.pop("event", ""))
    # Docker's time and the name of the container say the same.
    line.fields = {name: parts[name] for name in parts if name not in ("timestamp", "service")}


def _of_request(lines: Iterable[Line], request: str) -> list[Line]:
    """Return the lines of a request, in the order of time.

    Those of the api have its id. By its assessment go the worker's; by both, in the
    application_name of a transaction, PostgreSQL's; by the address of a connection that the
    api gave up, for a few seconds, PgBouncer's.
    """
    ids, connections = {request}, list[tuple[str, datetime]]()
    found: list[Line] = []
    belongs: dict[str, bool] = {}
    for line in lines:
        if not line.continues:
            belongs[line.container] = _belongs(line, ids, connections)
        if not belongs.get(line.container):
            continue
        found.append(line)
        if line.fields.get("request_id") == request:
            if "assessment_id" in line.fields:
                ids.add(str(line.fields["assessment_id"]))
            if line.fields.get("address"):
                connections.append((line.fields["address"], line.at))
    return sorted(found, key=lambda line: line.time)


def _belongs(line: Line, ids: set[str], connections: list[tuple[str, datetime]]) -> bool:
    if line.tier == "pgbouncer":
        address = line.fields.get("address")
        return any(address == known and abs(line.at - at) < _NEAR for known, at in connections)
    if line.tier == "postgres":
        return _done_for(line.fields.get("application", ""), ids)
    return line.fields.get("request_id") in ids or (
        line.tier != "api" and line.fields.get("assessment_id") in ids
    )


def _done_for(application: str, ids: set[str]) -> bool:
    """Return True if the application_name of a transaction names one of the ids: NAME/WORK/ID."""
    _, _, done_for = application.partition("/")[2].partition("/")
    if len(application) < _APPLICATION_MAX:
        return done_for in ids
    return any(known.startswith(done_for) for known in ids)


def _painted(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _value(value: object) -> str:
    plain = isinstance(value, str) and value.isprintable() and not re.search(r'[\s"=]', value)
    return str(value) if plain else json.dumps(value)


def _printable(text: str) -> str:
    # What a caller sent may be in it: no control character must reach a terminal.
    return text if text.isprintable() else json.dumps(text)[1:-1]
