"""The gRPC messages: generated from what is in `proto/`, and able to say all that the model says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from proto.generate import PACKAGE, PROTO, REPOSITORY, generate, out_of_date
from sidecar.model import Diagnosis, Incident, ObservedOp
from sidecar.model_learning import PlaybookEntry
from sidecar.normalize import INT64_MAX, INT64_MIN
from sidecar.pb.v1 import observer_pb2

MIRRORED = [ObservedOp, Incident, Diagnosis, PlaybookEntry]
KINDS = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
# Text without lone surrogates is what the normal form holds; protobuf can say nothing else.
SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.booleans()
    | st.integers(INT64_MIN, INT64_MAX)
    | st.floats(allow_nan=False)
)


def test_the_generated_code_is_what_the_proto_files_say() -> None:
    """Generating anew gives the committed files, byte for byte."""
    assert out_of_date() == [], "run `make proto`"


def test_an_edited_a_missing_and_a_left_over_file_are_all_out_of_date(tmp_path: Path) -> None:
    """The comparison sees a change, a removal and a file that no `.proto` makes any more."""
    generate(tmp_path)
    assert out_of_date(tmp_path) == []
    folder = tmp_path / PACKAGE / "v1"
    (folder / "observer_pb2.py").write_text("# edited\n")
    (folder / "observer_pb2.pyi").unlink()
    (folder / "older_pb2.py").touch()
    assert [path.rpartition("/")[2] for path in out_of_date(tmp_path)] == [
        "observer_pb2.py",
        "observer_pb2.pyi",
        "older_pb2.py",
    ]


def test_importing_the_generated_code_warns_of_nothing() -> None:
    """Generated code and installed runtimes fit each other."""
    command = [sys.executable, "-W", "error", "-c", "import sidecar.pb.v1.observer_pb2_grpc"]
    subprocess.run(command, check=True, cwd=REPOSITORY)


@pytest.mark.parametrize("struct", MIRRORED, ids=lambda struct: struct.__name__)
def test_a_message_has_the_fields_of_its_struct(struct: type[msgspec.Struct]) -> None:
    """Same names: JSON and protobuf are two spellings of one message."""
    message = observer_pb2.DESCRIPTOR.message_types_by_name[struct.__name__]
    assert {field.name for field in message.fields} == set(struct.__struct_fields__)


@pytest.mark.parametrize("struct", MIRRORED, ids=lambda struct: struct.__name__)
def test_what_may_be_absent_in_the_struct_can_be_unset_in_the_message(struct: type[msgspec.Struct]) -> None:
    """None and "" (or 0, or false) stay apart on the wire; an empty map or list is the same as none."""
    message = observer_pb2.DESCRIPTOR.message_types_by_name[struct.__name__]
    absent = [field.name for field in msgspec.structs.fields(struct) if field.default is None]
    unable = [
        name
        for name in absent
        if not message.fields_by_name[name].has_presence and not message.fields_by_name[name].is_repeated
    ]
    assert unable == []


def test_numbers_that_may_be_whole_or_not_are_messages_that_keep_it() -> None:
    """Each `int | float` field of an op is a Number."""
    message = observer_pb2.DESCRIPTOR.message_types_by_name["ObservedOp"]
    for name in ("duration_ms", "count", "applied_at_turn"):
        field = message.fields_by_name[name]
        assert field.type == FieldDescriptor.TYPE_MESSAGE
        assert field.message_type.name == "Number"


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), SCALARS, max_size=8))
def test_a_scalar_comes_back_as_what_it_was(features: dict[str, str | bool | int | float]) -> None:
    """Text, booleans, whole and fractional numbers stay apart: 1, 1.0, true and "1" are four values."""
    op = observer_pb2.ObservedOp()
    for key, value in features.items():
        setattr(op.features[key], KINDS[type(value)], value)
    back = observer_pb2.ObservedOp.FromString(op.SerializeToString()).features
    found = {key: getattr(scalar, str(scalar.WhichOneof("kind"))) for key, scalar in back.items()}
    assert {key: (type(value), value) for key, value in found.items()} == {
        key: (type(value), value) for key, value in features.items()
    }


@pytest.mark.skipif(shutil.which("buf") is None, reason="buf is not installed")
def test_the_proto_files_pass_bufs_lint() -> None:
    """Names, suffixes and comments are as `proto/buf.yaml` wants them."""
    done = subprocess.run(["buf", "lint"], cwd=PROTO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
