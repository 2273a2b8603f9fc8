#!/usr/bin/env bash
# Builds the observer's image with podman and without an image registry: the base is made of Debian's packages, once.
# Needs root and: apt-get install podman runc catatonit netavark aardvark-dns nftables iptables debootstrap
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly BASE=localhost/python:3.11-slim IMAGE=localhost/lakehouse-observer:0.1.0
export CONTAINERS_CONF="$PWD/tests/k8s/containers.conf"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

if ! podman image exists "$BASE"; then
  echo "making $BASE of Debian's packages"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/root" >"$work/log" || {
    tail "$work/log" >&2
    exit 1
  }
  ln -s /usr/bin/python3 "$work/root/usr/local/bin/python"
  # A certificate of one's own, should the package index be behind one.
  cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists" "$work/root/usr/share/doc" "$work/root/usr/share/man"
  tar -C "$work/root" -c . | podman import --quiet --change 'CMD ["python3"]' - "$BASE"
fi

# How pip reaches its index here, handed to the build as a secret: none of it stays in a layer.
{
  echo "[global]"
  echo "cert = /etc/ssl/certs/ca-certificates.crt"
  python3 -m pip config list | sed -nE "s/^(global|:env:)\.(index-url|extra-index-url|trusted-host|proxy)='(.*)'$/\2 = \3/p" | sort -u
} >"$work/pip.conf"

podman build --quiet --network host --secret "id=pip,src=$work/pip.conf" --build-arg "PYTHON=$BASE" \
  --build-arg "REVISION=$(git rev-parse HEAD)" --timestamp "$(git log -1 --format=%ct)" --tag "$IMAGE" "$@" .
