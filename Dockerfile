# One image; the command chooses the service: engine, archiver, api, or any `tcgx` command.
FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY tcgx tcgx
COPY core core
COPY observe observe
COPY engine engine
COPY exchange exchange
COPY streams streams
COPY api api
COPY archiver archiver
COPY cli cli
COPY lua lua
COPY bench bench
COPY testing testing
COPY testing testing
RUN python -m venv /opt/tcgx \
    && /opt/tcgx/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock \
    && /opt/tcgx/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin tcgx \
    && install --directory --owner tcgx /var/log/tcgx
COPY --from=build /opt/tcgx /opt/tcgx
ENV PATH=/opt/tcgx/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TCGX_HOST=0.0.0.0 \
    TCGX_LOG_FORMAT=json
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["tcgx", "api"]
