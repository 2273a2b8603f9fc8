"""Settings in combination: no loops, no door left open by mistake, nothing half set."""

from __future__ import annotations

import pytest

from sidecar.settings import Settings, doubts
from sidecar.settings_checks import is_loopback
from tests.test_settings import refusal


def test_a_host_beyond_loopback_needs_a_token() -> None:
    """Without a token, or the express wish, no door opens to the network."""
    for host in ("0.0.0.0", "::", "10.1.2.3", "observer.example"):
        assert "OBSERVER_TOKEN" in refusal({"OBSERVER_HOST": host})
        for way in ({"OBSERVER_TOKEN": "t"}, {"OBSERVER_TOKEN_FILE": "f"}, {"OBSERVER_ALLOW_ANONYMOUS": "true"}):
            assert Settings.from_env({"OBSERVER_HOST": host, **way}).host == host


def test_loopback_is_what_stays_on_this_machine() -> None:
    """Names and addresses of the machine itself are loopback; everything else, and what cannot be read, is not."""
    assert all(is_loopback(host) for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1", "[::1]"))
    assert not any(is_loopback(host) for host in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "127.1"))


@pytest.mark.parametrize(
    "env",
    [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:3800"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OBSERVER_OTLP_HTTP_PORT": "4318"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:3800/v1/metrics"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://LocalHost:3802/"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1]:3800/v1/traces"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://0.0.0.0:3800"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost", "OBSERVER_PORT": "80"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://10.0.0.5:3800",
            "OBSERVER_HOST": "10.0.0.5",
            "OBSERVER_TOKEN": "t",
        },
    ],
)
def test_our_own_door_is_no_collector(env: dict[str, str]) -> None:
    """Exporting to ourselves would feed the observer with itself; it is refused unless export is off."""
    assert "is the observer itself" in refusal(env)
    off = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    assert Settings.from_env({**env, **off}).export_endpoint == ""


@pytest.mark.parametrize("url", ["http://localhost:3800/hook", "http://127.0.0.1:3701", "http://[::1]:3802/x"])
@pytest.mark.parametrize("name", ["GATEWAY_URL", "LAKEHOUSE_URL", "OBSERVER_WEBHOOK_URL"])
def test_whom_we_call_is_not_ourselves(name: str, url: str) -> None:
    """Gateway, model and webhook are others; by our own doors each call would make the next one."""
    assert f"{name} is the observer itself" in refusal({name: url})


def test_the_endpoint_for_traces_goes_first() -> None:
    """The traces variables win over the general ones; the off switches over both."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4317",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4318/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
    settings = Settings.from_env(env)
    assert settings.export_endpoint == "http://traces:4318/v1/traces"
    assert settings.export_protocol == "http/protobuf"
    assert Settings.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4317"}).export_protocol == "grpc"
    assert Settings.from_env({**env, "OTEL_SDK_DISABLED": "true"}).export_endpoint == ""


def test_tls_needs_both_files() -> None:
    """A certificate without a key, or a key without a certificate, is refused."""
    assert "OBSERVER_TLS_KEY" in refusal({"OBSERVER_TLS_CERT": "c"})
    assert "OBSERVER_TLS_CERT" in refusal({"OBSERVER_TLS_KEY": "k"})


def test_two_doors_need_two_ports() -> None:
    """The health port is not the HTTP door's, unless both are left to the system."""
    assert "OBSERVER_HEALTH_PORT" in refusal({"OBSERVER_PORT": "3802"})
    assert "OBSERVER_GRPC_PORT" in refusal({"OBSERVER_OTLP_HTTP_PORT": "4317"})
    assert Settings.from_env({"OBSERVER_GRPC_PORT": "-1", "OBSERVER_OTLP_HTTP_PORT": "-1"}).grpc_port == -1
    assert Settings.from_env({"OBSERVER_PORT": "0", "OBSERVER_HEALTH_PORT": "0"}).port == 0


@pytest.mark.parametrize("part", ["FORWARD", "PULL"])
def test_a_langfuse_server_is_whole_or_not_set(part: str) -> None:
    """URL and both keys go together, and the observer does not name itself."""
    whole = {
        f"LANGFUSE_{part}_URL": "http://langfuse:3000",
        f"LANGFUSE_{part}_PUBLIC_KEY": "pk",
        f"LANGFUSE_{part}_SECRET_KEY": "sk",
    }
    Settings.from_env(whole)
    for missing in whole:
        message = refusal({name: text for name, text in whole.items() if name != missing})
        assert f"{missing} is missing" in message
    assert "the observer itself" in refusal({**whole, f"LANGFUSE_{part}_URL": "http://localhost:3800"})


@pytest.mark.parametrize(
    ("entry", "fix"),
    [
        *(
            (name, "Write names such as `agent-gateway`")
            for name in ("gw:3701", "http://gw", "gw/", "*.local", "a b", "[gw]", "*")
        ),
        *(
            (name, "Leave it out")
            for name in ("localhost:3800", "10.0.0.5:3800", "[::1]:3800", "http://localhost", "LOCALHOST:1/")
        ),
    ],
)
@pytest.mark.parametrize("beside", ["", "other,"])
def test_an_allowed_host_that_no_host_equals_is_told(entry: str, fix: str, beside: str) -> None:
    """And no more than told: localhost and addresses pass whatever is listed, and so do the other names."""
    (doubt,) = doubts(Settings.from_env({"OBSERVER_ALLOWED_HOSTS": f"{beside} {entry} ,"}))
    assert doubt.args[0] == f"OBSERVER_ALLOWED_HOSTS has {entry!r}, which never matches"
    assert doubt.args[2].startswith(fix)


NEVER = ["tools", "/tools/*", "/**/x", "/a/../b", "/a?b=c", "/caf%C3%A9", "/a b", "\\a"]


@pytest.mark.parametrize("entry", NEVER)
def test_paths_of_which_no_call_has_any_are_refused(entry: str) -> None:
    """The proxy would refuse all calls; beside another path, or without the proxy, they are only told."""
    message = refusal({"OBSERVER_PROXY_PATHS": f"{entry},"})
    assert message.startswith(f"OBSERVER_PROXY_PATHS has {entry!r}, which never matches")
    assert "such as `/tools`" in message
    for env in ({"OBSERVER_PROXY_PATHS": f"/v1,{entry}"}, {"OBSERVER_PROXY_PATHS": entry, "OBSERVER_PROXY_PORT": "-1"}):
        (doubt,) = doubts(Settings.from_env(env))
        assert str(doubt) == message
    assert all(repr(each) in refusal({"OBSERVER_PROXY_PATHS": ",".join(NEVER)}) for each in NEVER)


@pytest.mark.parametrize("entry", ["/v1/a*", "/a*/b", "/caf\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_path_that_could_be_meant_so_is_told(entry: str) -> None:
    """It matches calls that are spelt just so, as it always did."""
    (doubt,) = doubts(Settings.from_env({"OBSERVER_PROXY_PATHS": entry}))
    assert doubt.args[0] == f"OBSERVER_PROXY_PATHS has {entry!r}, which matches only what is written exactly so"


def test_what_can_match_is_taken() -> None:
    """Names with dots, digits, underscores; addresses, which always match; paths with a slash at their end."""
    hosts, paths = "gw, GW.svc.cluster.local., my_gw-1,10.0.0.1, ::1, [::1],", "/, /tools/ ,/v1/a;b,/@x,"
    settings = Settings.from_env({"OBSERVER_ALLOWED_HOSTS": hosts, "OBSERVER_PROXY_PATHS": paths})
    assert (settings.allowed_hosts, settings.proxy_paths) == (hosts, paths)
    assert doubts(settings) == []
