#!/usr/bin/env bash
# Installs the agents of test_agents.py into build/agents, once: a Python environment, and Node packages where npm is.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly OUT="$PWD/build/agents" FROM="$PWD/tests/agents"
readonly PYTHON="${PYTHON:-python3}"
mkdir -p "$OUT"

if ! cmp -s "$FROM/requirements.txt" "$OUT/requirements.installed"; then
  echo "installing the Python agent: about a minute, once"
  "$PYTHON" -m venv --clear "$OUT/venv"
  "$OUT/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$FROM/requirements.txt"
  cp "$FROM/requirements.txt" "$OUT/requirements.installed"
fi
cp "$FROM/agent.mjs" "$FROM/package.json" "$FROM/package-lock.json" "$OUT"
if ! command -v npm >/dev/null; then
  echo "without the JavaScript agent: npm is not there"
elif ! cmp -s "$FROM/package-lock.json" "$OUT/package-lock.installed"; then
  npm ci --silent --no-audit --no-fund --prefix "$OUT"
  cp "$FROM/package-lock.json" "$OUT/package-lock.installed"
fi
