# An image for workers, a Prefect server and single commands: see docs/how-to/docker.md.
FROM python:3.11.15-slim-bookworm AS build
WORKDIR /build
COPY pyproject.toml requirements.lock README.md LICENSE ./
# The tools of the build, with the hashes of the lock.
RUN sed -n -e '/^uv==/,/[^\\]$/p' -e '/^setuptools==/,/[^\\]$/p' requirements.lock > tools.txt \
    && python -m venv /opt/tools \
    && /opt/tools/bin/python -m pip install --no-cache-dir --require-hashes --no-deps -r tools.txt
# What pyproject.toml asks for, in the versions of the lock; a file that has no hash there is refused.
RUN python -m venv --without-pip /opt/parquill \
    && /opt/tools/bin/uv pip install --python /opt/parquill/bin/python --no-cache --compile-bytecode \
    --require-hashes --constraints requirements.lock --requirements pyproject.toml --extra postgres --extra hf --extra azure
COPY tasks tasks
COPY flows flows
COPY data data
RUN /opt/tools/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
    && /opt/tools/bin/uv pip install --python /opt/parquill/bin/python --no-cache --compile-bytecode --no-deps wheels/*.whl

FROM python:3.11.15-slim-bookworm
# The numbers are fixed, so that files on volumes keep their owner.
RUN groupadd --gid 10001 parquill \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/parquill --shell /usr/sbin/nologin parquill \
    && mkdir -p /srv/parquill/jobs /srv/parquill/runs /var/lib/parquill \
    && chown 10001:10001 /srv/parquill/runs /var/lib/parquill
COPY --from=build /opt/parquill /opt/parquill
WORKDIR /srv/parquill
# What `prefect deploy` and workers read.
COPY prefect.yaml ./
COPY flows flows
COPY data data
ENV PATH=/opt/parquill/bin:$PATH \
    LANG=C.UTF-8 \
    TZ=UTC \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/parquill \
    PREFECT_HOME=/var/lib/parquill/prefect \
    XDG_STATE_HOME=/var/lib/parquill \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1
USER 10001:10001
# Outputs and `state`, which is what was paid for; the ledger and Prefect's own files.
VOLUME ["/srv/parquill/runs", "/var/lib/parquill"]
CMD ["parquill", "--help"]
