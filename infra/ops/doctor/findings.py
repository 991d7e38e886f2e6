"""A finding, the rules that statements are judged by, and the outcome of one run of `doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final

from infra.ops.outcome import Exit


class Severity(StrEnum):
    """How bad a finding is, the worst first."""

    # It gives wrong results, harms other clients, or stops the path.
    CRITICAL = "critical"
    # It fails, or holds only some of the time; or it will get worse.
    WARNING = "warning"
    # It deserves a look and may be as intended.
    NOTE = "note"


_ORDER: Final = tuple(Severity)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a rule finds, and what to do instead, each in one or two sentences."""

    name: str
    severity: Severity
    meaning: str
    remedy: str


_DIRECT: Final = (
    "A migration or a script does it on a direct connection to PostgreSQL, as the owner."
)

SEARCH_PATH: Final = Rule(
    "session-search-path",
    Severity.CRITICAL,
    "search_path set for the session: the next client of the server connection reads and writes "
    "the tables of another schema.",
    "SET LOCAL search_path in each transaction, names with their schema, or ALTER ROLE ... SET. "
    + _DIRECT,
)
ROLE: Final = Rule(
    "session-role",
    Severity.CRITICAL,
    "Role set for the session: the next client of the server connection has its rights.",
    "SET LOCAL ROLE in each transaction, or a login role and a PgBouncer entry of its own.",
)
SETTING: Final = Rule(
    "session-setting",
    Severity.WARNING,
    "Setting set for the session: it stays with the server connection and holds for other "
    "clients, not for this one.",
    "SET LOCAL (or set_config with true) in each transaction, or ALTER ROLE ... SET for all "
    "sessions of a role. " + _DIRECT,
)
TRACKED: Final = Rule(
    "tracked-setting",
    Severity.NOTE,
    "Setting that PgBouncer keeps for each client: it holds, at the cost of a SET whenever the "
    "client gets a server connection with another value.",
    "Give it at connection start, or ALTER ROLE ... SET.",
)
LISTEN: Final = Rule(
    "listen",
    Severity.CRITICAL,
    "LISTEN through the pool: the server connection listens, and its notifications reach "
    "whichever client has it, or nobody.",
    "Listen on a direct connection to PostgreSQL, or poll. NOTIFY through the pool is fine.",
)
ADVISORY_LOCK: Final = Rule(
    "session-advisory-lock",
    Severity.CRITICAL,
    "Advisory lock of the session: it stays with the server connection after the transaction, "
    "other clients of that connection hold it too, and the unlock may run on another one.",
    "pg_advisory_xact_lock (pg_try_advisory_xact_lock) in the transaction that it guards. "
    + _DIRECT,
)
TEMPORARY: Final = Rule(
    "temporary-object",
    Severity.CRITICAL,
    "Temporary object that outlives its transaction: it stays with the server connection, gone "
    "for this client and in the way of others.",
    "ON COMMIT DROP, created and used in one transaction; a CTE; or an UNLOGGED table with a key "
    "of the job. " + _DIRECT,
)
HOLD: Final = Rule(
    "cursor-with-hold",
    Severity.WARNING,
    "Cursor WITH HOLD: the next FETCH may run on a server connection that does not have it.",
    "Fetch all within one transaction, or read in pages by key.",
)
PREPARE: Final = Rule(
    "sql-prepare",
    Severity.WARNING,
    "PREPARE, EXECUTE or DEALLOCATE as SQL: PgBouncer follows only statements that the driver "
    "prepares by the protocol.",
    "Have the driver prepare it (psycopg's prepare=True, asyncpg, pgjdbc); PgBouncer follows "
    "those from connection to connection.",
)
LOAD: Final = Rule(
    "load-library",
    Severity.WARNING,
    "LOAD: the library is loaded into one server connection only.",
    "session_preload_libraries of the role, or shared_preload_libraries.",
)
SEQUENCE_VALUE: Final = Rule(
    "sequence-value",
    Severity.NOTE,
    "currval or lastval without the statement that made the value: in another transaction it "
    "is a value of another client, or an error.",
    "INSERT ... RETURNING, or both statements in one transaction.",
)
STARTUP: Final = Rule(
    "startup-options",
    Severity.WARNING,
    "Settings as startup options of a connection: PgBouncer refuses or ignores them.",
    "ALTER ROLE ... SET, or SET LOCAL in each transaction.",
)

STATEMENT_RULES: Final = (
    SEARCH_PATH,
    ROLE,
    SETTING,
    TRACKED,
    LISTEN,
    ADVISORY_LOCK,
    TEMPORARY,
    HOLD,
    PREPARE,
    LOAD,
    SEQUENCE_VALUE,
    STARTUP,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: where (a file and its line, a role, a process), what, and what to do.

    `evidence` names objects, functions and settings. It never has a value of a setting or of a
    parameter, which may be a secret.
    """

    severity: Severity
    rule: str
    where: str
    evidence: str
    meaning: str
    remedy: str
    line: int | None = None

    @property
    def place(self) -> str:
        """Return where it is as one word for a reader: `file:line`."""
        return self.where if self.line is None else f"{self.where}:{self.line}"


def found(rule: Rule, where: str, evidence: str, line: int | None = None) -> Finding:
    """Return a finding of a rule."""
    return Finding(rule.severity, rule.name, where, evidence, rule.meaning, rule.remedy, line)


@dataclass(frozen=True, slots=True)
class NotJudged:
    """What could not be judged, and why."""

    what: str
    reason: str


@dataclass(slots=True)
class Diagnosis:
    """All that one run found; `judged` counts what it looked at, by kind."""

    findings: list[Finding] = field(default_factory=list)
    not_judged: list[NotJudged] = field(default_factory=list)
    judged: dict[str, int] = field(default_factory=dict)

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings."""
        self.findings += findings

    def skip(self, what: str, reason: str) -> None:
        """Note what could not be judged."""
        self.not_judged.append(NotJudged(what, reason))

    def count(self, kind: str, number: int = 1) -> None:
        """Count what was judged."""
        self.judged[kind] = self.judged.get(kind, 0) + number

    def ordered(self) -> list[Finding]:
        """Return the findings, the worst first, each rule's together."""
        return sorted(
            self.findings,
            key=lambda one: (_ORDER.index(one.severity), one.rule, one.where, one.line or 0),
        )

    def counts(self) -> dict[str, int]:
        """Return how many findings there are of each severity."""
        return {str(one): sum(f.severity == one for f in self.findings) for one in Severity}

    @property
    def exit_code(self) -> Exit:
        """Return 1 when a finding is above a note."""
        above = any(one.severity is not Severity.NOTE for one in self.findings)
        return Exit.FAILED if above else Exit.OK

    def as_dict(self) -> dict[str, object]:
        """Return the diagnosis as JSON holds it."""
        return {
            "exit_code": int(self.exit_code),
            "faults": [],
            "counts": self.counts(),
            "findings": [asdict(one) for one in self.ordered()],
            "not_judged": [asdict(one) for one in self.not_judged],
            "judged": self.judged,
        }
