# The observer's image: `docker build -t lakehouse-observer:0.1.0 .`, then `docker run lakehouse-observer:0.1.0 doctor`.
# For a build that can be repeated, name the base by digest: --build-arg PYTHON=python:3.11-slim@sha256:...
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
WORKDIR /src
# Every package comes from a lock file with hashes, and as a wheel: nothing is compiled here.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock requirements-dev.lock ./
# The environment that is shipped has no pip of its own; the one that builds the project's wheel stays behind.
RUN python -m venv --without-pip /opt/observer \
    && python -m pip --python /opt/observer/bin/python install --no-deps --require-hashes -r requirements.lock
RUN python -m venv /opt/build \
    && /opt/build/bin/python -m pip install --no-deps --require-hashes -r requirements-dev.lock
COPY pyproject.toml README.md LICENSE ./
COPY sidecar ./sidecar
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && python -m pip --python /opt/observer/bin/python install --no-deps --no-index /dist/*.whl \
    && install -d -o 65532 -g 65532 /data

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lakehouse-observer" \
    org.opencontainers.image.description="The third-party witness beside an AI-agent gateway" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/observer /opt/observer
COPY --from=build --chown=65532:65532 /data /data
# The root file system may be read-only: everything is compiled to bytecode already, and all writing goes to /data.
ENV PATH=/opt/observer/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OBSERVER_DATA_DIR=/data
VOLUME /data
USER 65532:65532
EXPOSE 3800 3802
# Two parts, so that `doctor`, `stats` and `tail` can be run from the same image.
ENTRYPOINT ["observer"]
CMD ["run"]
