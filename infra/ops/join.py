"""What an application needs to join the path: its file to begin with, then where to connect."""

import io
import sys
import tarfile
from collections.abc import Mapping
from textwrap import wrap
from typing import Any, Final

from infra.config import clients, names, sizing
from infra.config.names import Client
from infra.config.settings import Values
from infra.ops.operation import Paths
from infra.ops.outcome import Exit, Outcome, RefusedError, print_document, report
from infra.ops.rotation.pending import compiled_values

_LISTED: Final = (
    "DATABASE",
    "POOL_SIZE",
    "MAX_CLIENT_CONNECTIONS",
    "POOL_MODE",
    "DEADLINE_SECONDS",
)
_SECRETS: Final = "/run/secrets"
_COLUMNS: Final = 80
# What each driver has to be told; docs/clients.md says why, and what was measured.
_DRIVERS: Final = {
    "Django": "CONN_HEALTH_CHECKS, DISABLE_SERVER_SIDE_CURSORS: True; migrate as the owner",
    "SQLAlchemy": "create_engine(url, pool_pre_ping=True); no isolation_level on the engine",
    "psycopg": "ConnectionPool(check=ConnectionPool.check_connection); no SET without LOCAL",
    "asyncpg": "ask before use (docs/clients.md); no server_settings, no add_listener",
    "node-postgres": "ssl: {ca}; ask before use, handle 'error' (docs/clients.md); no LISTEN",
    "pgjdbc": "isValid() before use, as HikariCP does; no options, no currentSchema",
}


def template(name: str, *, as_json: bool) -> int:
    """Print the file of a new client; return the exit code."""
    if problem := clients.name_problem(name):
        return report(Outcome(Exit.BAD_INPUT, [f"NAME={name[:40]}: {problem}"]), as_json=as_json)
    table = clients.settings(name)
    lines = [
        f"# The application {name}: a client of the path. After a change: make plan, make apply.",
        "# Every setting: docs/clients.md.",
    ]
    for listed in _LISTED:
        setting = table[listed]
        lines += ["", f"# {setting.meaning}", f"# {setting.unit.capitalize()}, {setting.range}."]
        lines.append(f"{listed}={setting.default}")
    text = "\n".join(lines) + "\n"
    if as_json:
        print_document({"file": clients.file(name), "text": text})
    else:
        sys.stdout.write(text)
    return Exit.OK


def show(name: str, paths: Paths, project: str, *, as_json: bool) -> int:
    """Print how an application connects; return the exit code.

    `project` is the name of the Compose project, which begins the names of its networks.
    """
    try:
        values = compiled_values(paths)
        client = _find(name, values)
    except RefusedError as refusal:
        return report(Outcome(Exit.REFUSED, [f"refused: {refusal}"]), as_json=as_json)
    document = _document(client, values, project)
    if as_json:
        print_document(document)
    else:
        sys.stdout.write(_text(document))
    return Exit.OK


def files(name: str, paths: Paths, *, as_json: bool) -> int:
    """Write the secrets of an application to standard output, as a tar archive or as JSON."""
    try:
        client = _find(name, compiled_values(paths))
    except RefusedError as refusal:
        return report(Outcome(Exit.REFUSED, [f"refused: {refusal}"]), as_json=as_json)
    ops = paths.out / "ops"
    found = {"ca.crt": (ops / "ca.crt").read_bytes()}
    for role in _roles(client):
        password = (ops / "clients" / f"{role}.password").read_bytes()
        escaped = password.replace(b"\\", b"\\\\").replace(b":", b"\\:")
        found[f"{role}.password"] = password
        found[f"{role}.pgpass"] = b"*:*:*:%s:%s\n" % (role.encode(), escaped)
    if as_json:
        print_document({file: content.decode("ascii") for file, content in found.items()})
        return Exit.OK
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        for file, content in found.items():
            member = tarfile.TarInfo(file)
            member.size, member.mode = len(content), 0o600
            archive.addfile(member, io.BytesIO(content))
    return Exit.OK


def _find(name: str, values: Values) -> Client:
    known = {client.role: client for client in clients.applications(values)}
    if name in known:
        return known[name]
    listed = ", ".join(known) or "none"
    raise RefusedError(
        f"{name[:40]} is no client of what was compiled last (there: {listed}); "
        f"make client NAME={name[:40]}, then make apply"
    )


def _roles(client: Client) -> tuple[str, ...]:
    """Return its role, and that which migrates its database unless it is the services'."""
    return (client.role,) if client.owner == names.OWNER else (client.role, client.owner)


def _document(client: Client, values: Values, project: str) -> dict[str, object]:
    size, reserve, _ = client.sizes
    limit = values.integer(size) + values.integer(reserve)
    pooled = _libpq(client.role, "pgbouncer", 6432, client.entry)
    document: dict[str, object] = {
        "client": client.role,
        "database": client.database,
        "pool_mode": values.text(client.pool_mode),
        "server_connections": limit * values.integer("PGBOUNCER_REPLICAS"),
        "client_connections": values.integer(client.max_client_connections),
        "url": _url(pooled),
        "libpq": pooled,
        "network": f"{project}_pool",
        "secrets": [f"{role}.password" for role in _roles(client)],
        "drivers": dict(_DRIVERS),
    }
    if sizing.is_replicated(values):
        standbys = pooled | {"PGDATABASE": client.entry + names.STANDBY_SUFFIX}
        document["standbys"] = {"url": _url(standbys), "libpq": standbys}
    if port := values.integer("PGBOUNCER_PORT"):
        outside = _libpq(client.role, "localhost", port, client.entry, secrets="DIRECTORY")
        document["published"] = {"url": _url(outside), "libpq": outside}
    if client.owner != names.OWNER:
        direct = _libpq(client.owner, "postgres", 5432, client.database)
        migrations = {"url": _url(direct), "libpq": direct, "network": f"{project}_db"}
        document["migrations"] = migrations
    return document


def _libpq(
    role: str, host: str, port: int, database: str, *, secrets: str = _SECRETS
) -> dict[str, str]:
    return {
        "PGHOST": host,
        "PGPORT": str(port),
        "PGDATABASE": database,
        "PGUSER": role,
        "PGPASSFILE": f"{secrets}/{role}.pgpass",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": f"{secrets}/ca.crt",
    }


def _url(libpq: Mapping[str, str]) -> str:
    return (
        "postgresql://{PGUSER}@{PGHOST}:{PGPORT}/{PGDATABASE}"
        "?sslmode={PGSSLMODE}&sslrootcert={PGSSLROOTCERT}"
    ).format_map(libpq)


def _text(document: dict[str, Any]) -> str:
    """Return the document for a person: each part can be copied as it stands."""
    name, migrations, published, standbys = (
        document.get(part) for part in ("client", "migrations", "published", "standbys")
    )
    lines = [
        f"{name}: database {document['database']}, pool_mode {document['pool_mode']}, at most "
        f"{document['client_connections']} connections of",
        f"the application on {document['server_connections']} of PostgreSQL's.",
        "",
        "Secrets as files, for its owner alone:",
        f"  make client-url NAME={name} TO=DIRECTORY",
        "",
        "URL (with the password from its file):",
        f"  {document['url']}",
    ]
    if standbys:
        lines += ["", "Reads from the standbys, some seconds behind:", f"  {standbys['url']}"]
    lines += ["", "On this host, outside containers:"]
    if published:
        lines.append(f"  {published['url']}")
    else:
        lines.append("  add PGBOUNCER_PORT=6432 to stack.env, then: make apply RESTART=yes")
    if migrations:
        lines += [
            "",
            f"Migrations, straight to PostgreSQL on the network {migrations['network']}:",
            f"  {migrations['url']}",
        ]
    lines += ["", "libpq:"]
    lines += [f"  {variable}={value}" for variable, value in document["libpq"].items()]
    lines += ["", "compose.yaml of the application:", *_snippet(document), "", "Drivers:"]
    for driver, advice in document["drivers"].items():
        lines += wrap(f"  {driver:<13} {advice}", _COLUMNS, subsequent_indent=" " * 16)
    return "\n".join(lines) + "\n"


def _snippet(document: Mapping[str, Any]) -> list[str]:
    name = document["client"]
    files = [f"{name}.password", f"{name}.pgpass", "ca.crt"]
    return [
        "  services:",
        "    app:",
        "      networks: [default, pool]",
        f"      secrets: [{', '.join(files)}]",
        "  networks:",
        f"    pool: {{name: {document['network']}, external: true}}",
        "  secrets:",
        *(f"    {file}: {{file: DIRECTORY/{file}}}" for file in files),
    ]
