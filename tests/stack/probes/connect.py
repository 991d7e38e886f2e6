"""Connect with the service's settings and the changes given as NAME=VALUE; run statements.

Prints {"connected": bool, "error": str, "errors": [one per statement, "" when it succeeded]}.
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import psycopg


def parameters() -> dict[str, Any]:
    """Return connection parameters from the settings file."""
    settings = json.loads(Path(os.environ["SLUICE_SETTINGS"]).read_text())["database"]
    return {
        "host": settings["host"],
        "port": settings["port"],
        "dbname": settings["dbname"],
        "user": settings["user"],
        "password": Path(settings["password_file"]).read_text(),
        "sslmode": settings["sslmode"],
        "sslrootcert": settings["sslrootcert"],
        "connect_timeout": 5,
    }


def changed(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Apply NAME=VALUE changes; ``sql:...`` arguments are statements."""
    result = parameters()
    statements = []
    for argument in arguments:
        if argument.startswith("sql:"):
            statements.append(argument.removeprefix("sql:"))
            continue
        name, value = argument.split("=", 1)
        if value.startswith("resolve:"):
            value = socket.gethostbyname(value.removeprefix("resolve:"))
        result[name] = value
    return {name: value for name, value in result.items() if value != ""}, statements


def attempt(connection: psycopg.Connection, statement: str) -> str:
    """Return the error of one statement, or nothing."""
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        return f"{error.sqlstate} {error}".strip()
    return ""


def main() -> None:
    """Connect, run, report."""
    keywords, statements = changed(sys.argv[1:])
    try:
        with psycopg.connect(autocommit=True, **keywords) as connection:
            errors = [attempt(connection, one) for one in statements]
    except psycopg.Error as error:
        print(json.dumps({"connected": False, "error": str(error), "errors": []}))
        return
    print(json.dumps({"connected": True, "error": "", "errors": errors}))


main()
