"""Connect COUNT times and print how many connections each PgBouncer address got."""

import collections
import json
import os
import sys
from pathlib import Path

import psycopg

database = json.loads(Path(os.environ["SLUICE_SETTINGS"]).read_text())["database"]
names = ("host", "port", "dbname", "user", "sslmode", "sslrootcert", "load_balance_hosts")
keywords = {name: database[name] for name in names}
password = Path(database["password_file"]).read_text()
addresses: collections.Counter[str] = collections.Counter()
for _ in range(int(sys.argv[1])):
    with psycopg.connect(password=password, connect_timeout=10, **keywords) as connection:
        addresses[connection.info.hostaddr] += 1
print(json.dumps(addresses))
