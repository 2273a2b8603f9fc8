#!/usr/bin/env bash
# Builds the real Collector and Jaeger that the peer tests run against, into build/peers, once. Needs Go.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly COLLECTOR_VERSION=v0.155.0
readonly JAEGER_VERSION=v1.76.0
readonly OUT="$PWD/build/peers"

command -v go >/dev/null || {
  echo "make peers needs Go (1.25 or newer) to build the Collector and Jaeger: https://go.dev/dl" >&2
  exit 1
}
mkdir -p "$OUT/bin"
export GOBIN="$OUT/bin" GOFLAGS=-mod=mod CGO_ENABLED=0 GOTOOLCHAIN=local

if ! cmp -s tests/peers/collector.yaml "$OUT/collector.built"; then
  echo "building the Collector $COLLECTOR_VERSION"
  go install "go.opentelemetry.io/collector/cmd/builder@$COLLECTOR_VERSION"
  rm -rf "$OUT/collector"
  # Compiling by itself the builder would tidy the modules first, and so fetch what only their own tests need.
  "$OUT/bin/builder" --config tests/peers/collector.yaml --skip-get-modules --skip-compilation
  (
    cd "$OUT/collector"
    go mod init otelcol
    go mod edit "-require=go.opentelemetry.io/collector/otelcol@$COLLECTOR_VERSION" \
      "-require=go.opentelemetry.io/collector/service@$COLLECTOR_VERSION"
    sed -n 's/.*gomod: \(.*\) \(.*\)/-require=\1@\2/p' ../../../tests/peers/collector.yaml | xargs go mod edit
    go build -trimpath -o "$OUT/bin/otelcol" .
  )
  cp tests/peers/collector.yaml "$OUT/collector.built"
fi

if [ ! -x "$OUT/bin/jaeger" ]; then
  echo "building Jaeger $JAEGER_VERSION"
  # Its module replaces others, which `go install` of a version refuses: built from the module's own folder instead.
  source=$(go mod download -json "github.com/jaegertracing/jaeger@$JAEGER_VERSION" | sed -n 's/.*"Dir": "\(.*\)",\{0,1\}/\1/p')
  cp "$source/go.mod" "$OUT/jaeger.mod"
  cp "$source/go.sum" "$OUT/jaeger.sum"
  chmod u+w "$OUT/jaeger.mod" "$OUT/jaeger.sum"
  (cd "$source" && go build -mod=mod -modfile="$OUT/jaeger.mod" -trimpath -o "$OUT/bin/jaeger" ./cmd/jaeger)
fi
"$OUT/bin/otelcol" --version
"$OUT/bin/jaeger" version | head -3
