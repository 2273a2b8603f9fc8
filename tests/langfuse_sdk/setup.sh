#!/usr/bin/env bash
# Sets up the environments of `make test-langfuse` in the folder that is given: one for each SDK, at pinned versions.
set -euo pipefail
folder=$1
mkdir -p "$folder"
for version in 2.60.10 3.15.0 4.18.0 5.0.4; do
    environment="$folder/py${version%%.*}"
    [ -f "$environment/.$version" ] && continue
    python3 -m venv --clear "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "langfuse==$version"
    touch "$environment/.$version"
done
packages() {  # folder, then packages
    mkdir -p "$folder/$1"
    [ -f "$folder/$1/package.json" ] || echo '{"private": true}' >"$folder/$1/package.json"
    npm install --silent --no-audit --no-fund --prefix "$folder/$1" "${@:2}"
}
packages js5 @langfuse/otel@5.11.1 @langfuse/tracing@5.11.1 @langfuse/client@5.11.1 @opentelemetry/sdk-node@0
packages js3 langfuse@3.39.2
