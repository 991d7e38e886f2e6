"""Run one long query through the pool without PostgreSQL's own limits; tell who ended it, when."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psycopg

settings = json.loads(Path(os.environ["SLUICE_SETTINGS"]).read_text(encoding="utf-8"))["database"]
connection = psycopg.connect(
    host=settings["host"],
    port=settings["port"],
    dbname=settings["dbname"],
    user=settings["user"],
    password=Path(settings["password_file"]).read_text(encoding="ascii"),
    sslmode=settings["sslmode"],
    sslrootcert=settings["sslrootcert"],
)
message = ""
with connection.transaction():
    connection.execute("SET LOCAL statement_timeout = 0")
    connection.execute("SET LOCAL transaction_timeout = 0")
    started = time.monotonic()
    try:
        connection.execute("SELECT pg_sleep(%s)", [float(sys.argv[1])])
    except psycopg.Error as error:
        message = str(error)
        ended = time.monotonic() - started
        print(json.dumps({"seconds": ended, "message": message}))
        sys.exit(0)
print(json.dumps({"seconds": time.monotonic() - started, "message": message}))
