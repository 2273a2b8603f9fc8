"""Settings are read once, checked with a message that names the variable, and then frozen."""

from __future__ import annotations

import pytest

from sidecar.errors import SettingsError
from sidecar.settings import VARIABLES, Settings, describe

EXAMPLES = {
    "GATEWAY_URL": ("http://gw:1", "http://gw:1"),
    "LAKEHOUSE_URL": ("https://lake", "https://lake"),
    "OVERSEER_CORRECTIONS_PATH": ("c.jsonl", "c.jsonl"),
    "OBSERVER_CYCLE": ("0.5", 0.5),
    "OBSERVER_HOST": ("::1", "::1"),
    "OBSERVER_PORT": ("0", 0),
    "OBSERVER_HEALTH_HOST": ("0.0.0.0", "0.0.0.0"),
    "OBSERVER_HEALTH_PORT": ("9", 9),
    "OBSERVER_GRPC_PORT": ("-1", -1),
    "OBSERVER_OTLP_HTTP_PORT": ("4318", 4318),
    "OBSERVER_EXPORT_SUCCESS_RATIO": ("0.1", 0.1),
    "OBSERVER_PROXY_HOST": ("0.0.0.0", "0.0.0.0"),
    "OBSERVER_PROXY_PORT": ("-1", -1),
    "OBSERVER_PROXY_EXPOSE": ("true", True),
    "OBSERVER_FSYNC": ("always", "always"),
    "OBSERVER_DATA_MAX_BYTES": ("20000000", 20_000_000),
    "OBSERVER_RING": ("10", 10),
    "OBSERVER_RING_BYTES": ("65536", 65536),
    "OBSERVER_INFLIGHT_BYTES": ("1048576", 1048576),
    "OBSERVER_ALLOW_ANONYMOUS": ("TRUE", True),
    "OBSERVER_TLS_CERT": ("pem", "pem"),
    "OBSERVER_TLS_KEY": ("pem", "pem"),
    "OBSERVER_HOLDOUT": ("0.25", 0.25),
    "OBSERVER_PROXY_ADVICE": ("both", "both"),
    "OBSERVER_REQUIRE_GATEWAY": ("1", True),
    "OBSERVER_LOG_FORMAT": ("json", "json"),
    "OBSERVER_LOG_LEVEL": ("debug", "debug"),
    "OBSERVER_MODEL_API": ("openai", "openai"),
    "OBSERVER_WEBHOOK_URL": ("https://hooks/1", "https://hooks/1"),
    "OBSERVER_GATEWAY_LOG": ("false", False),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://c:4317", "http://c:4317"),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("http://t:4318/v1/traces", "http://t:4318/v1/traces"),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("http/protobuf", "http/protobuf"),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("grpc", "grpc"),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("gzip", "gzip"),
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": ("none", "none"),
    "OBSERVER_SPOOL_MAX_BYTES": ("2000000", 2_000_000),
    "OBSERVER_SPOOL_MAX_AGE": ("60", 60.0),
    "OTEL_METRICS_EXPORTER": ("none", "none"),
    "OTEL_METRIC_EXPORT_INTERVAL": ("500", 500.0),
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": ("http://m:4318/v1/metrics", "http://m:4318/v1/metrics"),
    "OTEL_TRACES_EXPORTER": ("none", "none"),
    "OTEL_TRACES_SAMPLER": ("traceidratio", "traceidratio"),
    "OTEL_TRACES_SAMPLER_ARG": ("0.25", 0.25),
    "OTEL_SDK_DISABLED": ("true", True),
    "OTEL_SERVICE_NAME": ("me", "me"),
    "OBSERVER_PROXY_PATHS": ("/tools", "/tools"),
}
EXAMPLES.update(dict.fromkeys(["LANGFUSE_FORWARD_URL", "LANGFUSE_PULL_URL"], ("http://lf:3000", "http://lf:3000")))


def refusal(env: dict[str, str], flags: dict[str, str] | None = None) -> str:
    """The message with which *env* is refused."""
    with pytest.raises(SettingsError) as refused:
        Settings.from_env(env, flags)
    return str(refused.value)


def test_defaults_are_those_callers_know() -> None:
    """An empty environment gives the addresses, ports and paths that existing callers use, on loopback."""
    settings = Settings.from_env({"PATH": "/bin", "HOME": "/"})
    assert settings.gateway_url == "http://localhost:3700"
    assert settings.lakehouse_url == "http://localhost:3100"
    assert settings.overseer_corrections_path == "data/_kb/overseer_corrections.jsonl"
    assert (settings.cycle, settings.port, settings.ring) == (30.0, 3800, 2000)
    assert (settings.host, settings.health_host, settings.data_dir) == ("127.0.0.1", "127.0.0.1", "data/_observer")
    assert (settings.export_endpoint, settings.fsync_every_s) == ("", 1.0)


@pytest.mark.parametrize(("field", "variable"), VARIABLES.items())
def test_every_variable_is_read(field: str, variable: str) -> None:
    """Each setting comes from its variable, with its own type."""
    kind = type(getattr(Settings(), field))
    text, value = EXAMPLES.get(variable, ("7", kind("7")))
    env = {variable: text}
    if field.startswith("tls_"):
        env = {"OBSERVER_TLS_CERT": text, "OBSERVER_TLS_KEY": text}
    if field == "proxy_host":
        env["OBSERVER_PROXY_EXPOSE"] = "true"
    if variable.startswith("LANGFUSE_"):
        prefix = "_".join(variable.split("_")[:2])
        env = {
            f"{prefix}_URL": "http://langfuse:3000",
            f"{prefix}_PUBLIC_KEY": "pk",
            f"{prefix}_SECRET_KEY": "sk",
            **env,
        }
    read = getattr(Settings.from_env(env), field)
    assert (read, type(read)) == (value, type(value))
    assert getattr(Settings.from_env({}), field) != value


def test_flags_go_over_the_environment() -> None:
    """A flag on the command line wins over the variable, with the same checks."""
    assert Settings.from_env({"OBSERVER_CYCLE": "5"}, {"cycle": "7"}).cycle == 7.0
    assert "OBSERVER_CYCLE='0'" in refusal({"OBSERVER_CYCLE": "5"}, {"cycle": "0"})


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf", "1e999", "30s", "0x10"])
@pytest.mark.parametrize("variable", ["OBSERVER_CYCLE", "OBSERVER_COMMIT_TIMEOUT", "OBSERVER_GRACE"])
def test_an_unusable_number_is_refused_by_name(variable: str, text: str) -> None:
    """Zero, negative, infinite and unreadable times are refused; the message says which variable and what it held."""
    message = refusal({variable: text})
    assert variable in message
    assert repr(text) in message


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OBSERVER_PORT", "65536"),
        ("OBSERVER_PORT", "-1"),
        ("OBSERVER_PORT", "80.5"),
        ("OBSERVER_RING", "9"),
        ("OBSERVER_ALLOW_ANONYMOUS", "yes"),
        ("OBSERVER_LOG_LEVEL", "loud"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("GATEWAY_URL", "localhost:3700"),
        ("GATEWAY_URL", "ftp://x"),
        ("LAKEHOUSE_URL", "http://"),
        ("LAKEHOUSE_URL", "http://[::1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:99999"),
    ],
)
def test_an_unusable_value_is_refused_by_name(variable: str, text: str) -> None:
    """Whatever is out of bounds or not of its kind is refused before any port is bound."""
    assert variable in refusal({variable: text})


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("OBSERVER_CYCLES", "OBSERVER_CYCLE"),
        ("OBSERVER_TOKENS_FILE", "OBSERVER_TOKEN_FILE"),
        ("OBSERVER_GATEWAYURL", "GATEWAY_URL"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    """A misspelt name is an error that offers the nearest known one, and does not show the value."""
    message = refusal({name: "hush"})
    assert message.startswith(f"{name} is not a setting")
    assert f"Did you mean {nearest}" in message
    assert "hush" not in message


@pytest.mark.parametrize("name", ["OBSERVER_FOO", "OBSERVER_", "OBSERVER_COLOUR"])
def test_a_name_that_resembles_none_gets_no_suggestion(name: str) -> None:
    """The prefix alone is no likeness."""
    message = refusal({name: "hush"})
    assert message.startswith(f"{name} is not a setting")
    assert "Did you mean" not in message
    assert "settings table" in message


def test_all_wrong_settings_are_told_at_once() -> None:
    """Unknown names, values, flags and contradictions, in one line; a wrong value is not taken for its default."""
    env = {
        "OBSERVER_CYCEL": "3",
        "OBSERVER_FOO": "1",
        "OBSERVER_PORT": "many",
        "OBSERVER_HEALTH_PORT": "3800",
        "OBSERVER_MODEL_API": "grpc",
        "OBSERVER_TLS_CERT": "c",
        "GATEWAY_URL": "gateway:3700",
        "OBSERVER_FSYNC": "sometimes",
    }
    message = refusal(env, {"ring": "5"})
    assert message.startswith("8 settings are wrong: (1) OBSERVER_CYCEL is not a setting")
    for said in (
        "Did you mean OBSERVER_CYCLE?",
        "OBSERVER_FOO is not a setting",
        "OBSERVER_PORT='many' is not usable: expected 0 to 65,535",
        "OBSERVER_MODEL_API='grpc' is not usable: expected one of `lakehouse`, `openai`",
        "OBSERVER_RING='5' is not usable: expected 10 to 100,000",
        "TLS is half set",
        "GATEWAY_URL='gateway:3700' is not usable: expected an http:// or https:// address",
        "OBSERVER_FSYNC='sometimes' is not usable: expected `always`, `never` or seconds above 0",
    ):
        assert said in message
    assert "OBSERVER_HEALTH_PORT" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OBSERVER_PORT", "tcp://10.0.0.1:3800"),
        ("OBSERVER_SERVICE_HOST", "10.0.0.1"),
        ("OBSERVER_SERVICE_PORT", "3800"),
        ("OBSERVER_SERVICE_PORT_HTTP", "3800"),
        ("OBSERVER_PORT_3800_TCP", "tcp://10.0.0.1:3800"),
        ("OBSERVER_PORT_3800_TCP_ADDR", "10.0.0.1"),
        ("OBSERVER_PORT_3800_TCP_PROTO", "tcp"),
        ("OBSERVER_PORT_53_UDP_PORT", "53"),
        ("OBSERVER_HEALTH_PORT", "tcp://10.0.0.1:3802"),
    ],
)
def test_service_links_are_recognised(name: str, value: str) -> None:
    """Variables that Kubernetes injects for a Service are explained, with the way out."""
    message = refusal({name: value})
    assert name in message
    assert "enableServiceLinks: false" in message


def test_no_credential_is_shown_in_an_error() -> None:
    """Neither the token nor a password in an address appears in a message."""
    secret = "correct-horse-battery"
    environments = [
        {"OBSERVER_TOKEN": secret, "OBSERVER_CYCLE": "0"},
        {"OBSERVER_TOKEN": secret, "OBSERVER_TLS_CERT": "x"},
        {"OBSERVER_TOKENN": secret},
        {"GATEWAY_URL": f"ftp://me:{secret}@gw"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:{secret}@localhost:3800"},
    ]
    for env in environments:
        assert secret not in refusal(env)


def test_an_empty_value_means_unset() -> None:
    """A variable that is there but empty changes nothing, as the OpenTelemetry specification has it."""
    assert Settings.from_env(dict.fromkeys(VARIABLES.values(), "")) == Settings()


@pytest.mark.parametrize(("text", "every_s"), [("always", 0.0), ("never", None), ("1", 1.0), ("0.25", 0.25)])
def test_fsync_forms(text: str, every_s: float | None) -> None:
    """`always` is each commit, `never` is None, a number is the seconds between."""
    assert Settings.from_env({"OBSERVER_FSYNC": text}).fsync_every_s == every_s


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "sometimes", "ALWAYS"])
def test_other_fsync_forms_are_refused(text: str) -> None:
    """Everything else is refused by name."""
    assert "OBSERVER_FSYNC" in refusal({"OBSERVER_FSYNC": text})


def test_settings_are_frozen() -> None:
    """Nothing changes a setting once it is read."""
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]  # the point of the test


def test_every_setting_is_described() -> None:
    """Each has a variable of its own, a meaning for the README's table, and a default."""
    rows = describe()
    assert [field for field, *_ in rows] == list(VARIABLES)
    assert len(set(VARIABLES.values())) == len(rows)
    assert all(meaning for _, _, meaning, _ in rows)
    assert {field: default for field, _, _, default in rows} == {f: getattr(Settings(), f) for f in VARIABLES}
