"""PostgreSQL's and PgBouncer's parameters that have no setting: what an extra file may set.

`postgresql.extra.conf` and `pgbouncer.extra.ini` lie beside the env file, or are absent. Their
lines are checked against what the servers say of their parameters
(infra/host/server-parameters.sh), and become a part of postgresql.conf and pgbouncer.ini.
"""

import csv
import difflib
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

from infra.config import catalogue, clients, envfile
from infra.config.derived import derived_settings
from infra.config.envfile import Entry
from infra.config.faults import Fault
from infra.config.settings import (
    SERVER_DEFAULT,
    BadValueError,
    Change,
    Form,
    Setting,
    Tier,
    Value,
    Values,
)

POSTGRES_FILE: Final = "postgresql.extra.conf"
PGBOUNCER_FILE: Final = "pgbouncer.extra.ini"
FILES: Final = (POSTGRES_FILE, PGBOUNCER_FILE)
_KEYS: Final = tuple(f"{file}:" for file in FILES)

_HERE: Final = Path(__file__).resolve().parent
_TEMPLATES: Final = {
    POSTGRES_FILE: _HERE.parent / "templates" / "postgresql.conf.j2",
    PGBOUNCER_FILE: _HERE.parents[1] / "pgbouncer" / "pgbouncer.ini.j2",
}
_RENDERED: Final = re.compile(r"([a-z_.]+) =(.*)\Z")
_SETTING: Final = re.compile(r"setting\['([A-Z_]+)'\]")
# Without leading zeros, which the servers take for octal.
_PLAIN_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,17})(\.\d{1,6})?\Z")
_WITH_UNIT: Final = re.compile(r"(-?(?:0|[1-9]\d{0,17})(?:\.\d{1,6})?) ?([A-Za-z]+)\Z")
# PostgreSQL's units, in kB and in ms.
UNITS: Final = {
    "B": Decimal(1) / 1024,
    "kB": Decimal(1),
    "MB": Decimal(1024),
    "GB": Decimal(1024**2),
    "ms": Decimal(1),
    "s": Decimal(1000),
    "min": Decimal(60_000),
    "h": Decimal(3_600_000),
}
_MEMORY: Final = ("B", "kB", "MB", "GB")
_TIMES: Final = ("ms", "s", "min", "h")

# Categories of pg_settings, by their beginning, and names: why nobody may set what is in them.
_LEAKS: Final = (
    "a password's verifier could reach the log; POSTGRES_SLOW_STATEMENT_MS logs slow ones"
)
_APP: Final = "the app relies on PostgreSQL's default"
_LOG: Final = "the log goes to standard error, which Docker keeps"
_ACCESS: Final = "who may connect, and how, is the same in every stack"
_RECOVERY: Final = (
    "backups own the archive, and there is no standby: what keeps the log for one fills the disk"
)
_MEMORY_BUDGET: Final = (
    "it is memory of the budget: set POSTGRES_MEMORY_MB, POSTGRES_SHARED_BUFFERS_PERCENT, "
    "POSTGRES_WORK_MEM_KB or POSTGRES_MAINTENANCE_WORK_MEM_MB"
)
_POSTGRES_CATEGORIES: Final = {
    "Client Connection Defaults / Locale": _APP,
    "Client Connection Defaults / Other": _APP,
    "Client Connection Defaults / Shared Library": "code to load comes with the image",
    "Client Connection Defaults / Statement": _APP,
    "Connections and Authentication": _ACCESS,
    "Developer Options": "it is for work on PostgreSQL itself; some of them lose data",
    "Error Handling": "what follows a crash is decided by Docker's restart policy",
    "File Locations": "where the files are is decided by the image",
    "Replication": _RECOVERY,
    "Reporting and Logging / Where": _LOG,
    "Resource Usage / Memory": _MEMORY_BUDGET,
    "Version and Platform Compatibility": _APP,
    "Write-Ahead Log / Archiv": _RECOVERY,
    "Write-Ahead Log / Recovery": _RECOVERY,
    "Write-Ahead Log / Summarization": _RECOVERY,
}
_POSTGRES_NAMES: Final = {
    **dict.fromkeys(("log_min_duration_sample", "log_statement_sample_rate"), _LEAKS),
    "log_transaction_sample_rate": _LEAKS,
    **dict.fromkeys(("debug_print_parse", "debug_print_plan", "debug_print_rewritten"), _LEAKS),
    "log_statement_stats": "PostgreSQL refuses it beside those of its parts; set those",
    "application_name": "every client states its own",
    "track_activities": "make status reads it",
    "track_counts": "autovacuum reads it",
    "update_process_title": "make psql lists sessions by it where no slot is free",
    "wal_sync_method": "an acknowledged write is on disk, by the method that Linux has for it",
}
# Shared memory beside the budget: a table of 1,024 locks a session takes about 0.4 MB for each.
_POSTGRES_MAXIMA: Final = dict.fromkeys(
    ("max_locks_per_transaction", "max_pred_locks_per_transaction"), "1024"
)
# Of a refused category, and harmless.
_POSTGRES_ALLOWED: Final = re.compile(r"vacuum_(?!buffer)|gin_")
_POOL_LIMITS: Final = (
    "connections are budgeted: set PGBOUNCER_MAX_CLIENT_CONNECTIONS or the pools' sizes"
)
_IN_CONTAINER: Final = "it is decided by the container that PgBouncer runs in"
_PGBOUNCER_NAMES: Final = {
    r"auth_": _ACCESS,
    r"(client|server)_tls": _ACCESS,
    r"(logfile|syslog)": _LOG,
    r"max_(db|user)_": _POOL_LIMITS,
    r"pkt_buf": "it is memory of the budget: set PGBOUNCER_MEMORY_MB",
    r"disable_pqexec": "Sluice operates PgBouncer by its admin console, which speaks it",
    r"(conffile|job_name|peer_id|pidfile|so_reuseport|unix_socket_group|user)\Z": _IN_CONTAINER,
}
# SHOW CONFIG does not tell a flag from a number.
_PGBOUNCER_FLAGS: Final = ("server_fast_close",)
_PGBOUNCER_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter as its server describes it; `refused` says why no extra file may set it.

    `kind` is one of bool, integer, real, enum and string, `unit` that of `minimum` and `maximum`.
    """

    name: str
    kind: str
    unit: str = ""
    minimum: Decimal = Decimal(0)
    maximum: Decimal = Decimal(0)
    choices: tuple[str, ...] = ()
    default: str = ""
    restart: bool
    refused: str = ""

    @property
    def rule(self) -> str:
        """What a value must be."""
        if self.choices:
            return " | ".join(self.choices)
        if self.kind == "string":
            return "text"
        span = f"{_short(self.minimum)}..{_short(self.maximum)}"
        whole = "a whole number" if self.kind == "integer" else "a number"
        if not self.unit:
            return f"{whole}, {span}"
        units = _MEMORY if self._memory else _TIMES
        return f"a number with its unit ({', '.join(units)}), {span} x {self.unit}"

    def parse(self, text: str) -> str:
        """Return a value as it is written into the server's file; ValueError says what is wrong."""
        if self.choices:
            if text not in self.choices:
                raise ValueError("is not one of them")
        elif self.kind != "string":
            self._check_number(text)
        return text

    def shown(self, number: Decimal) -> str:
        """Return a number in kB, ms or no unit as a value of this parameter."""
        unit = "" if not self.unit or number <= 0 else "kB" if self._memory else "ms"
        return f"{number.normalize():f}{unit}"

    @property
    def _memory(self) -> bool:
        return self.unit.endswith("B")

    def _check_number(self, text: str) -> None:
        number = self._number(text)
        if not self.minimum <= number <= self.maximum:
            raise ValueError("is outside the range")
        if self.kind == "integer" and number != number.to_integral_value():
            raise ValueError(f"is no whole number{f' of {self.unit}' if self.unit else ''}")

    def _number(self, text: str) -> Decimal:
        """Return the number in the parameter's own unit."""
        if _PLAIN_NUMBER.match(text):
            number = Decimal(text)
            # Bare numbers that mean the same in every unit: off, and the default.
            if self.unit and number > 0:
                raise ValueError("has no unit")
            return number
        found = _WITH_UNIT.match(text)
        if found is None:
            raise ValueError("is not a number")
        if not self.unit or found[2] not in (_MEMORY if self._memory else _TIMES):
            raise ValueError(f"has the unit {found[2]}")
        size, unit = re.fullmatch(r"(\d*)(\w+)", self.unit).groups()  # type: ignore[union-attr]
        return Decimal(found[1]) * UNITS[found[2]] / (UNITS[unit] * int(size or 1))


@functools.cache
def parameters(file: str) -> dict[str, Parameter]:
    """Return every parameter that the server of an extra file knows, by name."""
    known = _postgres() if file == POSTGRES_FILE else _pgbouncer()
    return {one.name: one for one in known}


def key(file: str, name: str) -> str:
    """Return the name under which Values hold a parameter."""
    return f"{file}:{name}"


def find(name: str) -> Setting | None:
    """Return the setting of a key; None where no extra file may set it, or it is no key."""
    file, colon, parameter = name.partition(":")
    found = parameters(file).get(parameter) if colon and file in FILES else None
    return None if found is None or found.refused else _setting(file, found)


def read(env_file: Path, shown: str) -> tuple[dict[str, Value], tuple[Fault, ...]]:
    """Return what the extra files beside an env file set, by key, and every fault in them.

    `shown` is how faults call the env file.
    """
    values: dict[str, Value] = {}
    faults: list[Fault] = []
    directory = Path(shown).parent
    if directory.name == "presets":
        # A preset is judged with the operator's own extra files, which lie above the presets.
        directory = directory.parent
    for file in FILES:
        path = env_file.parent / file
        if not os.path.lexists(path):
            continue
        name = str(directory / file)
        found = envfile.read(path, name=name, syntax=envfile.PARAMETERS)
        faults += found.faults
        broken = {fault.line for fault in found.faults}
        for entry in (one for one in found.entries if one.line not in broken):
            try:
                values[key(file, entry.name)] = _value(file, entry)
            except BadValueError as error:
                faults.append(Fault(name, str(error), entry.line))
    return values, tuple(faults)


def given(*values: Values) -> tuple[str, ...]:
    """Return the keys that any of these values hold, in the order of the files and of the names."""
    keys = {name for one in values for name in one.as_dict() if name.startswith(_KEYS)}
    return tuple(sorted(keys, key=lambda name: (FILES.index(name.partition(":")[0]), name)))


def concerned(*values: Values) -> tuple[Setting, ...]:
    """Return every setting of the table, of clients' files and of extra files in any values."""
    found = (setting_of(name) for name in (*clients.keys(*values), *given(*values)))
    return (*catalogue.all_settings(), *(setting for setting in found if setting))


def setting_of(name: str) -> Setting | None:
    """Return the setting of a key of a client's file or an extra file; None where it is none."""
    return clients.find(name) or find(name)


def lines(file: str, values: Values) -> list[tuple[str, str]]:
    """Return the names and values that an extra file adds to its server's file.

    For PgBouncer also the defaults of what may be set live: RELOAD would keep the value of a line
    that is gone.
    """
    found = {}
    if file == PGBOUNCER_FILE:
        live = (one for one in parameters(file).values() if not (one.refused or one.restart))
        found = {one.name: one.default for one in live}
    chosen = {name.partition(":")[2]: str(values[name]) for name in given(values) if file in name}
    return sorted((found | chosen).items())


def _setting(file: str, parameter: Parameter) -> Setting:
    tier, restart = Tier.POSTGRES, Change.RESTART_POSTGRES
    if file == PGBOUNCER_FILE:
        tier, restart = Tier.PGBOUNCER, Change.RESTART_PGBOUNCER
    return Setting(
        name=key(file, parameter.name),
        tier=tier,
        meaning=f"The parameter {parameter.name}.",
        unit=parameter.unit,
        form=Form(parameter.rule, parameter.parse),
        default=SERVER_DEFAULT,
        change=restart if parameter.restart else Change.LIVE,
    )


def _value(file: str, entry: Entry) -> str:
    line = f"{entry.name} = {entry.text[:40]}"
    known = parameters(file)
    parameter = known.get(entry.name)
    if parameter is None:
        near = difflib.get_close_matches(entry.name, known, n=1, cutoff=0.7)
        server = "PostgreSQL" if file == POSTGRES_FILE else "PgBouncer"
        advice = f"did you mean {near[0]}?" if near else "remove it"
        raise BadValueError(f"{line}: {server} has no such parameter; {advice}")
    if parameter.refused:
        raise BadValueError(f"{line} cannot be set here: {parameter.refused}")
    try:
        return parameter.parse(entry.text)
    except ValueError as error:
        raise BadValueError(f"{line} {error}; write {parameter.rule}") from None


def _postgres() -> Iterator[Parameter]:
    rendered = _owned(POSTGRES_FILE)
    derived = {one.name: one for one in derived_settings(catalogue.defaults())}
    for row in _rows("postgresql.tsv"):
        name, kind, context = row["name"], row["type"], row["context"]
        number = kind in ("integer", "real")
        refused = "the server reports it" if context == "internal" else ""
        if name in derived:
            refused = _derived_reason(derived[name].formula, row["category"])
        yield Parameter(
            name=name,
            kind=kind,
            unit=row["unit"],
            minimum=Decimal(row["min"] or 0) if number else Decimal(0),
            maximum=Decimal(_POSTGRES_MAXIMA.get(name) or row["max"] or 0)
            if number
            else Decimal(0),
            choices=(
                ("on", "off") if kind == "bool" else tuple(filter(None, row["values"].split("|")))
            ),
            restart=context == "postmaster",
            refused=rendered.get(name) or refused or _postgres_reason(name, row["category"]),
        )


def _derived_reason(formula: str, category: str) -> str:
    if category == "Resource Usage / Memory":
        return _MEMORY_BUDGET
    settings = [name for name in catalogue.by_name() if name in formula]
    if settings:
        return f"set {' or '.join(settings)} in stack.env instead"
    return f"Sluice derives it: {formula}"


def _postgres_reason(name: str, category: str) -> str:
    if name in _POSTGRES_NAMES:
        return _POSTGRES_NAMES[name]
    if _POSTGRES_ALLOWED.match(name):
        return ""
    found = (why for begin, why in _POSTGRES_CATEGORIES.items() if category.startswith(begin))
    return next(found, "")


def _pgbouncer() -> Iterator[Parameter]:
    rendered = _owned(PGBOUNCER_FILE)
    for row in _rows("pgbouncer.tsv"):
        name, default = row["key"], row["default"]
        refused = (why for form, why in _PGBOUNCER_NAMES.items() if re.match(form, name))
        flag = name in _PGBOUNCER_FLAGS
        yield Parameter(
            name=name,
            kind="bool" if flag else "integer" if default.isdigit() else "string",
            maximum=Decimal(_PGBOUNCER_MAX),
            choices=("0", "1") if flag else (),
            default=default,
            restart=row["changeable"] == "no",
            refused=rendered.get(name) or next(refused, ""),
        )


def _owned(file: str) -> dict[str, str]:
    """Return why what the server's template has cannot be set: its setting, or its comment."""
    found: dict[str, str] = {}
    comment: list[str] = []
    goes_on = False
    for line in _TEMPLATES[file].read_text("utf-8").splitlines():
        if line.startswith(("# ", "; ")):
            comment = [*comment, line[2:]] if goes_on else [line[2:]]
        elif match := _RENDERED.match(line):
            setting = _SETTING.search(match[2])
            found[match[1]] = (
                f"set {setting[1]} in stack.env instead"
                if setting
                else f"it is the same in every stack. {' '.join(comment)}"
            )
        goes_on = line.startswith(("# ", "; "))
    return found


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (_HERE / "parameters" / name).open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)


def _short(number: Decimal) -> str:
    return f"{number:.6g}" if abs(number) > 10**15 else f"{number.normalize():f}"
