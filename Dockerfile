# One image that serves, migrates, reconciles, replays and purges: `station` is its entry point.
#
#   docker build -t station .
#   docker run --rm station --help
#
# PYTHON may name another base, for instance one pinned by digest: --build-arg PYTHON=python:3.13-slim@sha256:...
ARG PYTHON=python:3.13-slim

# --- the wheels: ours, and those that the lock file names, each with its hash --------------------------------------------
FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Build tools first: Spyne is published as source only, and is built with these and not with whatever is newest.
COPY requirements-build.lock requirements.lock ./
RUN python -m venv tools \
 && tools/bin/pip install --quiet --require-hashes -r requirements-build.lock \
 && tools/bin/pip wheel --quiet --no-build-isolation --require-hashes -r requirements.lock -w wheels
COPY pyproject.toml README.md LICENSE ./
COPY LICENSES LICENSES
COPY migrations migrations
COPY wsdl wsdl
COPY station station
RUN tools/bin/pip wheel --quiet --no-build-isolation --no-deps -w wheels . \
 && python -m venv --without-pip /opt/station \
 && tools/bin/pip --python /opt/station/bin/python install --quiet --no-index --find-links wheels pagopa-receipt-station

# --- what runs: the base, the installed wheels, a user, nothing else -----------------------------------------------------
FROM ${PYTHON}
LABEL org.opencontainers.image.title="pagopa-receipt-station" \
      org.opencontainers.image.description="Receipt station for pagoPA: receives, stores and acknowledges payment receipts" \
      org.opencontainers.image.source="https://code.example.invalid/pagopa-receipt-station" \
      org.opencontainers.image.licenses="EUPL-1.2"
RUN groupadd --gid 10001 station \
 && useradd --no-log-init --uid 10001 --gid station --home-dir /var/lib/station --shell /usr/sbin/nologin station \
 && install -d -o station -g station -m 0700 /var/lib/station
COPY --from=build /opt/station /opt/station
ENV PATH=/opt/station/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# The only folders that are written to: this one with SQLite alone, and /tmp and /dev/shm, which may be in memory.
WORKDIR /var/lib/station
USER 10001:10001
EXPOSE 8080 8081 8082
STOPSIGNAL SIGTERM
# The health door of `station serve`, on its default port. A kubelet asks for itself and does not look here.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/live', timeout=4)"]
# In the form of a list: `station` is the first process and gets the signals itself.
ENTRYPOINT ["station"]
CMD ["serve"]
