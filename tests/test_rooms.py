"""Rooms know the shared ground and the span contract, never each other; no file grows too long."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SIDECAR = Path(__file__).resolve().parents[1] / "sidecar"
GROUND = {
    "model",
    "model_learning",
    "protocols",
    "protocols_langfuse",
    "protocols_posts",
    "retry_after",
    "errors",
    "settings",
    "settings_checks",
    "settings_fields",
    "settings_lists",
    "settings_together",
    "clock",
    "normalize",
    "redaction",
    "credentials",
    "entry_text",
    "ids",
    "version",
}
GROUND |= {"kept_rows", "packed", "plain_words", "rare_lines", "call_fields", "data_shares", "measured_words"}
GROUND |= {"gateway_address", "open_place"}
SPAN_CONTRACT = {"spans.attributes", "spans.op_span", "spans.span_note"}
EDGE = {"cli.py", "__main__.py", "commands", "demo"}
"""The command line: reads the environment, and calls the pipeline that joins the rooms."""
NO_ROOMS = {"pb", "commands", "pipeline"}
ROOMS = sorted({path.parent.name for path in SIDECAR.glob("*/__init__.py")} - NO_ROOMS)
PROGRAMS = {"demo": {"pipeline.observer", "logs"}}
"""A program of its own may run the whole observer."""
MOST_LINES = 400
_LEAST_REASON = 4  # characters


def sources(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "pb" not in path.relative_to(SIDECAR).parts)


def imported(path: Path) -> set[str]:
    """Modules of ours that *path* imports, without the leading `sidecar.`; a name from a package counts as one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            module = node.module or ""
            is_package = (SIDECAR.parent / module.replace(".", "/")).is_dir()
            found |= {f"{module}.{alias.name}" for alias in node.names} if is_package else {module}
    return {name.removeprefix("sidecar.") for name in found if name.split(".")[0] == "sidecar"}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_never_import_each_other(room: str) -> None:
    """A room imports the shared ground, the span contract, generated messages and itself."""
    allowed = GROUND | SPAN_CONTRACT | PROGRAMS.get(room, set())
    strangers = {
        f"{path.relative_to(SIDECAR)}: {name}"
        for path in sources(SIDECAR / room)
        for name in imported(path)
        if name not in allowed and name.split(".")[0] not in (room, "pb")
    }
    assert strangers == set()


@pytest.mark.parametrize("module", sorted(GROUND | {"logs", "lifecycle"}))
def test_the_shared_ground_stands_on_itself(module: str) -> None:
    """What every room imports imports no room."""
    assert imported(SIDECAR / f"{module}.py") <= GROUND


def test_imports_never_go_in_a_circle() -> None:
    """Those for type hints neither: what a module is handed can be read before the module itself."""
    modules = {".".join(path.relative_to(SIDECAR).with_suffix("").parts): path for path in sources(SIDECAR)}
    homes = {name.removesuffix(".__init__"): name for name in modules}
    graph = {
        module: {
            homes.get(name) or homes.get(name.rpartition(".")[0], "__init__")
            for name in imported(path)
            if not name.startswith("pb.")  # generated
        }
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
        circle: list[str] = []
    except CycleError as exc:
        circle = exc.args[1]
    assert circle == []


def test_settings_alone_come_from_the_environment() -> None:
    """Only the program's edge reads `os.environ`; everything else is handed what it needs."""
    readers = {
        str(path.relative_to(SIDECAR))
        for path in sources(SIDECAR)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert {path for path in readers if Path(path).parts[0] not in EDGE} == set()


def test_files_stay_short() -> None:
    """Past the limit a file is split by concern, a test as well."""
    files = [
        *sources(SIDECAR),
        *(SIDECAR.parent / "tests").rglob("*.py"),
        *(SIDECAR.parent / "benchmarks").rglob("*.py"),
    ]
    long = {str(path): n for path in files if (n := len(path.read_text().splitlines())) > MOST_LINES}
    assert long == {}


def test_the_map_of_the_code_names_every_room_and_module() -> None:
    """Whoever adds one says there what it is for."""
    text = (SIDECAR.parent / "docs" / "code.md").read_text()
    rooms = {path.parent.name for path in SIDECAR.glob("*/__init__.py")}
    modules = {path.stem for path in SIDECAR.glob("*.py")} - {"__init__", "__main__"}
    assert {name for name in rooms | modules if f"`{name}`" not in text} == set()


def test_every_exception_from_the_rules_says_why() -> None:
    """What a checker is told to pass over, and a test that is left out, has its reason beside it."""
    mark = re.compile(r"# (?:noqa: [A-Z]+\d+(?:, ?[A-Z]+\d+)*|type: ignore\[[^\]]*\])(?P<why>.*)$")
    found = []
    for folder in (SIDECAR, SIDECAR.parent / "tests", SIDECAR.parent / "benchmarks"):
        for path in folder.rglob("*.py"):
            if "pb" in path.parts or path == Path(__file__):
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                why = mark.search(line)
                if why is not None and len(why["why"].strip(" -#")) < _LEAST_REASON:
                    found.append(f"{path.name}:{number}: {line.strip()}")
    assert found == []
