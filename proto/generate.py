"""Generates `sidecar/pb/` from the `.proto` files beside this script; `--check` only says what is out of date.

The path under `proto/` is the package path, so the generated imports work as they are. The generator is the
`grpcio-tools` that pyproject.toml pins: another version writes other bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
REPOSITORY = PROTO.parent
PACKAGE = Path("sidecar/pb")
_MARKER = '"""Generated from proto/ by proto/generate.py; never edited."""\n'


def generate(root: Path) -> None:
    """Write the Python modules, stubs and package markers under *root*. Raises `CalledProcessError`."""
    sources = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.glob("sidecar/pb/**/*.proto"))
    root.mkdir(parents=True, exist_ok=True)
    outputs = [f"--{kind}={root}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=.", *outputs, *sources]
    subprocess.run(command, cwd=PROTO, check=True)  # noqa: S603 - our own interpreter, our own files
    for folder in {PACKAGE, *(Path(source).parent for source in sources)}:
        (root / folder / "__init__.py").write_text(_MARKER, encoding="utf-8")


def out_of_date(root: Path = REPOSITORY) -> list[str]:
    """Paths under *root* that generating anew would add, change or remove; empty when all is current."""
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        wanted, found = _contents(Path(fresh)), _contents(root)
    return sorted(path for path in wanted | found if wanted.get(path) != found.get(path))


def _contents(root: Path) -> dict[str, bytes]:
    files = (path for path in (root / PACKAGE).rglob("*") if path.is_file() and path.suffix in (".py", ".pyi"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def main() -> None:
    """The command line: no argument generates, `--check` exits 1 naming what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if something is out of date")
    if not parser.parse_args().check:
        generate(REPOSITORY)
        return
    if stale := out_of_date():
        sys.exit(f"not what proto/ says: {', '.join(stale)}. Run `make proto`")


if __name__ == "__main__":
    main()
