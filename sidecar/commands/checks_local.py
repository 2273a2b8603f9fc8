"""The checks of `observer doctor` that need no other service: access, corrections file, data folder, clock."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sidecar.clock import rfc3339_ms
from sidecar.commands.finding import Finding
from sidecar.errors import StartError
from sidecar.pipeline.observer import Observer
from sidecar.settings import Settings
from sidecar.settings_checks import is_loopback

_LITTLE_SPACE_BYTES = 512 * 2**20
_LEAST_SPACE_BYTES = 16 * 2**20
_SHORT_TOKEN = 16  # characters; as hexadecimal digits that are 64 bits
_EARLIEST_NS = 1_735_689_600 * 10**9  # 2025-01-01: before this program was written
_LATEST_NS = 4_102_444_800 * 10**9  # 2100-01-01


def access(settings: Settings, env: Mapping[str, str]) -> Finding:
    """Who may call the doors. Reads token file and TLS files as `run` does. Raises SettingsError as it would."""
    try:
        quiet = msgspec.structs.replace(settings, otlp_endpoint="", otlp_traces_endpoint="")
        observer = Observer(quiet, env=env)  # builds everything but opens nothing
        observer.metrics.shutdown()
    except StartError as exc:
        return Finding("access", "fail", f"{exc.args[0]}: {exc.args[1]}", exc.args[2])
    if observer.tokens.required and not observer.tokens.known:
        fix = "Add lines of the form `TOKEN scope,scope`; the file is re-read on change"
        return Finding("access", "warn", f"nobody can get in: {settings.token_file} has no tokens", fix)
    if settings.token or settings.token_file:
        if 0 < len(settings.token) < _SHORT_TOKEN:
            fix = "Take a long random one, such as of `openssl rand -hex 32`"
            return Finding(
                "access", "warn", f"OBSERVER_TOKEN has {len(settings.token)} characters: it can be guessed", fix
            )
        source = " and ".join(filter(None, [settings.token and "OBSERVER_TOKEN", settings.token_file]))
        return Finding("access", "ok", f"callers need a token, from {source}")
    if is_loopback(settings.host):
        return Finding("access", "ok", f"no token needed, and only this machine gets in ({settings.host})")
    return Finding(
        "access",
        "warn",
        f"whoever reaches {settings.host}:{settings.port} may read and write",
        "Set OBSERVER_TOKEN or OBSERVER_TOKEN_FILE, and unset OBSERVER_ALLOW_ANONYMOUS",
    )


def corrections(settings: Settings) -> Finding:
    """Whether overseer corrections can be read; a missing file is no error."""
    path = Path(settings.overseer_corrections_path)
    try:
        with path.open("rb") as file:
            file.read(1)
        return Finding("corrections", "ok", f"{path} can be read ({_size(path.stat().st_size)})")
    except FileNotFoundError:
        what = path if path.parent.is_dir() else f"{path.parent}/"
        return Finding("corrections", "ok", f"{what} is not there yet: corrections are read once it is")
    except OSError as exc:
        fix = "Make it a file that this user can read, or name another in OVERSEER_CORRECTIONS_PATH"
        return Finding("corrections", "fail", f"{path}: {exc.strerror}", fix)


def data_folder(settings: Settings) -> Finding:
    """Whether the data folder is writable and has space, and which observer uses it now."""
    folder = Path(settings.data_dir)
    there = _nearest_existing(folder)
    fix = "Make it writable, or name another with OBSERVER_DATA_DIR"
    if not there.is_dir():
        return Finding("data folder", "fail", f"{there} is not a folder", fix)
    try:
        _write_probe(there)
    except OSError as exc:
        return Finding("data folder", "fail", f"{there} cannot be written to: {exc.strerror}", fix)
    free = shutil.disk_usage(there).free
    if free < _LITTLE_SPACE_BYTES:
        found = f"{folder} has only {_size(free)} of space left"
        is_full = free < _LEAST_SPACE_BYTES
        return Finding("data folder", "fail" if is_full else "warn", found, "Free some space, or move it")
    state = "can be written to" if there == folder else "will be created"
    holder = _holder(folder / "observer.lock")
    if holder:
        return Finding("data folder", "ok", f"{folder} is in use by a running observer ({holder}); {_size(free)} free")
    return Finding("data folder", "ok", f"{folder} {state}, {_size(free)} free")


def clock(skew_s: float | None) -> Finding:
    """Whether the clock is plausible; *skew_s* is our time minus the gateway's, None if unknown."""
    now = time.time_ns()
    fix = "Set the clock (NTP): timestamps order the operations and bound the retention"
    if not _EARLIEST_NS < now < _LATEST_NS:
        return Finding("clock", "fail", f"it says {rfc3339_ms(now)}", fix)
    if skew_s is not None and abs(skew_s) > 5:
        side = "ahead of" if skew_s > 0 else "behind"
        return Finding("clock", "warn", f"{abs(skew_s):.0f} s {side} the gateway's", fix)
    agrees = "" if skew_s is None else ", as the gateway's does"
    return Finding("clock", "ok", f"it says {rfc3339_ms(now)}{agrees}")


def _nearest_existing(path: Path) -> Path:
    """*path*, or its nearest parent that exists."""
    return next((place for place in (path, *path.absolute().parents) if place.exists()), Path("/"))


def _write_probe(folder: Path) -> None:
    """Write to *folder*: permissions do not show a full disk or a read-only mount."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"probe\n")
        probe.flush()
        os.fsync(probe.fileno())


def _holder(lock: Path) -> str:
    """The holder of the folder's lock; "" if there is none, or if the lock file cannot be read."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = file.read(32).decode("ascii", "replace").strip()
                return f"pid {pid}" if pid.isdecimal() else "its pid is not known yet"
    except OSError:
        pass
    return ""


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
