#!/usr/bin/env bash
# Builds the real Collector and Jaeger that the peer tests run against, once for all checkouts. Needs Go.
# What was built lies in ${XDG_CACHE_HOME:-~/.cache}/lakehouse-observer/peers, by a hash of what it was made of;
# build/peers/bin leads there.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly COLLECTOR_VERSION=v0.155.0
readonly JAEGER_VERSION=v1.76.0
readonly CONFIG="$PWD/tests/peers/collector.yaml"

command -v go >/dev/null || {
  echo "make peers needs Go (1.25 or newer) to build the Collector and Jaeger: https://go.dev/dl" >&2
  exit 1
}
readonly CACHE="${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/lakehouse-observer/peers"
made_of=$( (go version; cat tests/peers/build.sh "$CONFIG") | sha256sum | cut -c 1-16)
readonly MADE="$CACHE/$made_of"
mkdir -p "$MADE" build/peers
exec 9>"$CACHE/lock"
flock 9 # another checkout may be building the same

export GOFLAGS=-mod=mod CGO_ENABLED=0 GOTOOLCHAIN=local
work=$(mktemp -d "$CACHE/work.XXXXXX")
readonly work
trap 'rm -rf "$work"' EXIT

collector() {
  echo "building the Collector $COLLECTOR_VERSION"
  GOBIN="$work" go install "go.opentelemetry.io/collector/cmd/builder@$COLLECTOR_VERSION"
  mkdir -p "$work/build/peers" # the configuration says output_path: build/peers/collector
  cd "$work"
  # Compiling by itself the builder would tidy the modules first, and so fetch what only their own tests need.
  ./builder --config "$CONFIG" --skip-get-modules --skip-compilation
  cd build/peers/collector
  go mod init otelcol
  go mod edit "-require=go.opentelemetry.io/collector/otelcol@$COLLECTOR_VERSION" \
    "-require=go.opentelemetry.io/collector/service@$COLLECTOR_VERSION"
  sed -n 's/.*gomod: \(.*\) \(.*\)/-require=\1@\2/p' "$CONFIG" | xargs go mod edit
  go build -trimpath -o "$work/otelcol" .
  mv "$work/otelcol" "$MADE/otelcol"
}

jaeger() {
  echo "building Jaeger $JAEGER_VERSION"
  # Its module replaces others, which `go install` of a version refuses: built from the module's own folder instead.
  source=$(go mod download -json "github.com/jaegertracing/jaeger@$JAEGER_VERSION" | sed -n 's/.*"Dir": "\(.*\)",\{0,1\}/\1/p')
  cp "$source/go.mod" "$work/jaeger.mod"
  cp "$source/go.sum" "$work/jaeger.sum"
  chmod u+w "$work/jaeger.mod" "$work/jaeger.sum"
  cd "$source"
  go build -mod=mod -modfile="$work/jaeger.mod" -trimpath -o "$work/jaeger" ./cmd/jaeger
  mv "$work/jaeger" "$MADE/jaeger"
}

[ -x "$MADE/otelcol" ] || (collector)
[ -x "$MADE/jaeger" ] || (jaeger)
rm -rf build/peers/bin
ln -sfn "$MADE" build/peers/bin
build/peers/bin/otelcol --version
build/peers/bin/jaeger version | head -3
