# The observer's image: `docker build -t lakehouse-observer:0.1.0 .`, then `docker run lakehouse-observer:0.1.0 doctor`.
# For a reproducible build, pin the base image by digest: --build-arg PYTHON=python:3.11-slim@sha256:...
# For a package index mirror or your own certificate: `--secret id=pip,src=pip.conf`.
ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
WORKDIR /src
# Every package comes from a lock file with hashes, and as a wheel: nothing is compiled here.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock requirements-dev.lock ./
# The shipped environment contains no pip; the one that builds the project's wheel is not shipped.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf,mode=0444 \
    python -m venv --without-pip /opt/observer \
    && python -m venv /opt/build \
    && /opt/build/bin/python -m pip --python /opt/observer/bin/python install --no-compile \
        --no-deps --require-hashes -r requirements.lock \
    && /opt/build/bin/python -m pip install --no-deps --require-hashes -r requirements-dev.lock
COPY pyproject.toml README.md LICENSE ./
COPY sidecar ./sidecar
# Hash-based bytecode, without source times, is identical in every build.
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/build/bin/python -m pip --python /opt/observer/bin/python install --no-compile --no-deps --no-index /dist/*.whl \
    && find /opt/observer -name direct_url.json -delete \
    && /opt/observer/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/observer/lib \
    && install -d -o 65532 -g 65532 /data

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="lakehouse-observer" \
    org.opencontainers.image.description="The third-party witness beside an AI-agent gateway" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
# Remove the base image's package installers, which are not needed at run time. /opt/observer keeps the dist-info of every
# package, from which scanners build a bill of materials.
RUN find / -xdev \( -name pip -o -name 'pip-*' -o -name setuptools -o -name 'setuptools-*' -o -name ensurepip \) \
        -path '*python3*' -type d -prune -exec rm -rf {} + \
    && find / -xdev \( -path '*/bin/pip' -o -path '*/bin/pip[0-9]*' \) -delete
COPY --from=build /opt/observer /opt/observer
COPY --from=build --chown=65532:65532 /data /data
# The root file system may be read-only: bytecode is precompiled, and only /data is written to.
ENV PATH=/opt/observer/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 OBSERVER_DATA_DIR=/data
VOLUME /data
USER 65532:65532
EXPOSE 3701 3800 3802 4317
# ENTRYPOINT and CMD are separate, so that the image can also run `doctor`, `stats` and `tail`.
ENTRYPOINT ["observer"]
CMD ["run"]
