# The images that run Python: infra (config and ops), app (api, worker, migrate), and loadtest.
# ROOM is the target's own name: it picks the hashed requirements.
ARG BASE_IMAGE=debian:trixie-slim

FROM ${BASE_IMAGE} AS python
# hadolint ignore=DL3008  # the distribution's security updates are wanted at every build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/opt/sluice PYTHONUNBUFFERED=1
WORKDIR /opt/sluice

FROM python AS venv
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
ARG ROOM
COPY requirements/${ROOM}.txt /tmp/requirements.txt
# A TLS-inspecting proxy needs the host's CA bundle; without one the secret is empty.
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi \
    && python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --quiet \
        --require-hashes --only-binary :all: --requirement /tmp/requirements.txt \
    && /opt/venv/bin/pip uninstall --yes --quiet pip

# uPlot, the charts of the console's page. npm comes from PyPI: the distribution's is hundreds of
# packages.
FROM python AS page
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/npm.txt /tmp/requirements.txt
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export PIP_CERT=/run/secrets/ca-bundle; fi \
    && python3 -m venv /opt/npm \
    && /opt/npm/bin/pip install --no-cache-dir --disable-pip-version-check --quiet \
        --require-hashes --only-binary :all: --requirement /tmp/requirements.txt
WORKDIR /tmp/page
COPY requirements/page.sha512 ./
RUN --mount=type=secret,id=ca-bundle \
    if [ -s /run/secrets/ca-bundle ]; then export NODE_EXTRA_CA_CERTS=/run/secrets/ca-bundle; fi \
    && /opt/npm/bin/npm pack --silent uplot@1.6.32 \
    && sha512sum --check --strict page.sha512 \
    && tar --extract --file uplot-1.6.32.tgz --strip-components 2 \
        package/dist/uPlot.iife.min.js package/dist/uPlot.min.css

# The compiler (`config`) and the operator commands (`ops`).
FROM python AS infra
RUN useradd --uid 10075 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ops
COPY --from=venv /opt/venv /opt/venv
COPY infra infra
COPY pgbouncer pgbouncer
# Bytecode is made here because the root file system is read-only at run time.
RUN python3 -m compileall -q .
USER 10075:10075
ENTRYPOINT ["python", "-m", "infra.ops"]
CMD ["plan"]

# An image of its own, so that whoever does not run the console need not fetch npm.
FROM infra AS console
COPY --from=page /tmp/page/uPlot.* infra/console/page/
USER 10080:10080
ENTRYPOINT ["python", "-m", "infra.console"]
CMD []

# Makes backups of PostgreSQL and restores them: as the server's own user, who owns the files of both. A
# restored cluster is looked at by a server of its own in the same container.
FROM infra AS backup
USER 0:0
# hadolint ignore=DL3008
RUN groupadd --gid 10070 postgres \
    && useradd --uid 10070 --gid postgres --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin postgres \
    && mkdir -p /etc/postgresql-common \
    && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf \
    && apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-17 pgbackrest ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner postgres --group postgres --mode 0700 \
        /var/lib/postgresql/data /var/lib/pgbackrest
ENV PATH=/usr/lib/postgresql/17/bin:$PATH
USER 10070:10070
ENTRYPOINT ["python", "-m", "infra.backup"]
CMD ["serve"]

# The risk service; compose gives api, worker and migrate each its own user.
FROM python AS app
RUN useradd --uid 10072 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin api \
    && useradd --uid 10073 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin worker \
    && useradd --uid 10074 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin migrate
COPY --from=venv /opt/venv /opt/venv
COPY app app
RUN python3 -m compileall -q .
USER 10072:10072
CMD ["python", "-m", "app.api"]

FROM ${BASE_IMAGE} AS pgbench
# create_main_cluster: the package would else make a cluster inside the image.
# hadolint ignore=DL3008
RUN mkdir -p /etc/postgresql-common \
    && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf \
    && apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-17 \
    && rm -rf /var/lib/apt/lists/*

# The load generators: pgbench, Locust, the incident's access pattern, and the report.
FROM python AS loadtest
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libpq5 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10073 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin worker
COPY --from=pgbench /usr/lib/postgresql/17/bin/pgbench /usr/local/bin/pgbench
COPY --from=venv /opt/venv /opt/venv
# The same risk model as the service's: equal results are a condition of every comparison.
COPY app app
# The one reader of env files, and what it knows of the settings.
COPY infra/__init__.py infra/
COPY infra/config infra/config
COPY loadtest loadtest
RUN python3 -m compileall -q . && pgbench --version
ENV HOME=/tmp
USER 10073:10073
ENTRYPOINT ["python", "-m", "loadtest"]
CMD ["--help"]
