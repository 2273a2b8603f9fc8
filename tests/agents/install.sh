#!/usr/bin/env bash
# Installs the agents of test_agents.py into build/agents, once: two Python environments, and Node packages where npm is.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly OUT="$PWD/build/agents" FROM="$PWD/tests/agents"
readonly PYTHON="${PYTHON:-python3}"
mkdir -p "$OUT"

# environment DIRECTORY REQUIREMENTS PIP-OPTION...: installs REQUIREMENTS into DIRECTORY, unless they are there already.
environment() {
  local directory="$OUT/$1" requirements=$2
  shift 2
  if cmp -s "$FROM/$requirements" "$directory/installed.txt"; then
    return
  fi
  echo "installing $requirements: about a minute, once"
  "$PYTHON" -m venv --clear "$directory" &&
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check "$@" -r "$FROM/$requirements" &&
    cp "$FROM/$requirements" "$directory/installed.txt"
}

environment traceloop requirements-traceloop.txt --no-deps & # beside the others: together they have five minutes in .ci/run
readonly TRACELOOP=$!
trap 'wait' EXIT
environment venv requirements.txt
cp "$FROM/agent.mjs" "$FROM/package.json" "$FROM/package-lock.json" "$OUT"
if ! command -v npm >/dev/null; then
  echo "without the JavaScript agent: npm is not there"
elif ! cmp -s "$FROM/package-lock.json" "$OUT/package-lock.installed"; then
  npm ci --silent --no-audit --no-fund --prefix "$OUT"
  cp "$FROM/package-lock.json" "$OUT/package-lock.installed"
fi
if ! wait "$TRACELOOP"; then
  rm -rf "$OUT/traceloop" # its test is skipped then
  echo "without the agent on traceloop-sdk: its packages could not be installed"
fi
