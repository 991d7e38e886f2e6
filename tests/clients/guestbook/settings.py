import os

INSTALLED_APPS += ["guestbook"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        # Host, user, password file and TLS are in libpq's variables.
        "NAME": os.environ["PGDATABASE"],
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }
}
