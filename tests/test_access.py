"""Who may use a door: tokens and scopes, `Host` and `Origin`, TLS; and that loopback is the default."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from falcon.asgi import Request, Response
from structlog.testing import capture_logs

from sidecar.errors import SettingsError, StartError
from sidecar.pipeline.observer import Observer
from sidecar.receivers.guards import Guard
from sidecar.receivers.http_app import create_app
from sidecar.receivers.tokens import TokenStore
from tests.fakes import ManualClock
from tests.observers import client, observer, raw, settings

_INGEST = (("POST", "/event"), ("POST", "/events"))
_READ = tuple(("GET", path) for path in ("/stats", "/ops", "/incidents", "/playbooks", "/metrics"))
_OPEN = tuple(("GET", path) for path in ("/health", "/livez", "/readyz", "/openapi.json"))


async def statuses(
    http: httpx.AsyncClient, calls: Iterable[tuple[str, str]], authorization: str | None = None, **headers: str
) -> set[int]:
    """Every status that *calls* give; each refusal among them says why."""
    if authorization is not None:
        headers["authorization"] = authorization
    found = set()
    for method, path in calls:
        answer = await http.request(method, path, content=b"{}" if method == "POST" else None, headers=headers)
        found.add(answer.status_code)
        assert answer.status_code < 400 or answer.json()["error"], path
    return found


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_without_a_token_set_every_door_is_open_on_loopback(tmp_path: Path) -> None:
    """The default: anyone on this machine, nobody else."""
    async with observer(tmp_path) as running, client(running) as http:
        assert await statuses(http, [*_INGEST, *_READ, *_OPEN]) == {200}
        assert await statuses(http, [*_INGEST, *_READ], "Bearer whatever") == {200}


async def test_the_token_opens_all_doors_and_health_needs_none(tmp_path: Path) -> None:
    """As Bearer, or as the password of Basic; anything else is 401 with a challenge."""
    async with observer(tmp_path, OBSERVER_TOKEN="correct horse") as running, client(running) as http:
        doors = [*_INGEST, *_READ]
        assert await statuses(http, _OPEN) == {200}
        for good in ("Bearer correct horse", "bearer  correct horse", basic("any one", "correct horse")):
            assert await statuses(http, doors, good) == {200}, good
        wrong = (
            "Bearer wrong",
            "Bearer",
            "",
            "correct horse",
            basic("correct horse", ""),
            "Basic !",
            "Digest x",
        )
        for bad in wrong:
            assert await statuses(http, doors, bad) == {401}, bad
        answer = await http.get("/ops/stream")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="observer"')
        assert running.guard.refused == len(wrong) * len(doors) + 1


async def test_a_token_does_what_its_scopes_say(tmp_path: Path) -> None:
    """A known token without the scope is 403, an unknown one 401."""
    tokens = tmp_path / "tokens"
    tokens.write_text("# who\n\nin-only ingest\nread-only read\nall read,ingest,admin,advice\n")
    async with observer(tmp_path, OBSERVER_TOKEN_FILE=str(tokens)) as running, client(running) as http:
        for token, ingest, read in (
            ("in-only", 200, 403),
            ("read-only", 403, 200),
            ("all", 200, 200),
            ("no", 401, 401),
        ):
            assert await statuses(http, _INGEST, f"Bearer {token}") == {ingest}
            assert await statuses(http, _READ, f"Bearer {token}") == {read}


async def test_nothing_of_a_refused_event_is_kept(tmp_path: Path) -> None:
    """The guard stands before the door."""
    async with observer(tmp_path, OBSERVER_TOKEN="t") as running, client(running) as http:
        assert await statuses(http, _INGEST) == {401}
        assert len(running.ring) == 0


async def test_the_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """New tokens count within a second or so; a half-written file leaves those known so far."""
    tokens, clock = tmp_path / "tokens", ManualClock()
    tokens.write_text("old read\n")
    store = TokenStore("", str(tokens), clock)
    assert store.scopes("Bearer old") == frozenset({"read"})
    tokens.write_text("new read,ingest\n")
    await clock.advance(2)
    assert (store.scopes("Bearer old"), store.scopes("Bearer new")) == (None, frozenset({"read", "ingest"}))
    tokens.write_text("newer re")
    await clock.advance(2)
    assert store.scopes("Bearer new") == frozenset({"read", "ingest"})
    tokens.unlink()
    await clock.advance(2)
    assert store.scopes("Bearer new") == frozenset({"read", "ingest"})
    tokens.write_text("")
    await clock.advance(2)
    assert (store.scopes("Bearer new"), store.required) == (None, True)


def test_a_token_file_that_cannot_be_used_is_refused_at_start(tmp_path: Path) -> None:
    """Missing, not text, or with a scope nobody knows; the error shows no token."""
    path = tmp_path / "tokens"
    with pytest.raises(SettingsError):
        TokenStore("", str(path), ManualClock())
    for content in (b"hush everything\n", b"hush\n", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(SettingsError) as refused:
            TokenStore("", str(path), ManualClock())
        assert "hush" not in str(refused.value)


async def test_a_foreign_host_is_misdirected(tmp_path: Path) -> None:
    """421 for a name that somebody may have pointed here; addresses, localhost and allowed names are ours."""
    async with (
        observer(tmp_path, OBSERVER_ALLOWED_HOSTS="observer.internal., Other, ,") as running,
        client(running) as http,
    ):
        for host in (
            "evil.example",
            "localhost.evil.example",
            "evil.example:3800",
            "",
            "[::1",
            "a b",
            "127.0.0.1.evil.example",
        ):
            assert await statuses(http, [*_INGEST, *_READ, *_OPEN], host=host) == {421}, host
        port = running.port
        ours = (
            "localhost",
            "LOCALHOST:1",
            f"127.0.0.1:{port}",
            "[::1]:3800",
            "10.1.2.3",
            "observer.internal",
            "Observer.Internal.",
            "other:9",
        )
        for host in ours:
            assert await statuses(http, [*_INGEST, *_READ, *_OPEN], host=host) == {200}, host


async def test_http_1_0_has_no_host_and_http_1_1_has_one(tmp_path: Path) -> None:
    """Plain checks of load balancers speak 1.0; no browser does. Two names are nobody's, whichever comes first."""
    async with observer(tmp_path) as running:
        port, ours, own = running.port, b"Host: localhost\r\n", b"Connection: close\r\n"
        for path in (b"/livez", b"/health", b"/stats"):
            assert (await raw(port, b"GET %b HTTP/1.0\r\n\r\n" % path)).startswith(b"HTTP/1.1 200"), path
        for origin in (b"null", b"", b"http://evil.example"):
            said = await raw(port, b"GET /stats HTTP/1.0\r\nOrigin: %b\r\n\r\n" % origin)
            assert said.startswith(b"HTTP/1.1 403"), origin
        assert (await raw(port, b"GET /stats HTTP/1.0\r\nHost: evil.example\r\n\r\n")).startswith(b"HTTP/1.1 421")
        for hosts in (b"", ours + ours, ours + b"Host: evil.example\r\n", b"Host: evil.example\r\n" + ours):
            said = await raw(port, b"GET /livez HTTP/1.1\r\n" + hosts + own + b"\r\n")
            assert said.startswith(b"HTTP/1.1 400"), hosts
            assert b"send one" in said


@pytest.mark.parametrize("version", [b"2.0", b"0.9"])
async def test_other_versions_of_http_are_refused_as_json_and_not_logged(tmp_path: Path, version: bytes) -> None:
    """Before any token, on both doors: nobody can fill the log with them."""
    async with observer(tmp_path, OBSERVER_TOKEN="correct horse") as running:
        with capture_logs() as logs:
            for port in (running.port, running.health_port):
                said = await raw(port, b"GET /livez HTTP/%b\r\nHost: localhost\r\n\r\n" % version)
                head, _, body = said.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 505")
                assert b"application/json" in head
                assert "HTTP/1.1" in msgspec.json.decode(body)["error"]
    assert not [each for each in logs if each["log_level"] not in ("debug", "info")]


async def test_health_is_told_to_head_as_well(tmp_path: Path) -> None:
    """The status alone, on both doors; a check without a body is common."""
    async with observer(tmp_path) as running, client(running) as http:
        for path in ("/livez", "/readyz", "/health", "/api/public/health"):
            said = await http.head(path)
            assert (said.status_code, said.content) == (200, b""), path
        said = await http.head(f"http://127.0.0.1:{running.health_port}/livez")
        assert (said.status_code, said.content) == (200, b"")


async def test_a_foreign_origin_is_refused(tmp_path: Path) -> None:
    """A web page of elsewhere has no access; one of ours has."""
    async with observer(tmp_path) as running, client(running) as http:
        own = f"localhost:{running.port}"
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost:1",
            f"http://{own}.evil.example",
            "http://[",
            "",
        ):
            assert await statuses(http, [*_INGEST, *_READ], host=own, origin=origin) == {403}, origin
        assert await statuses(http, [*_INGEST, *_READ], host=own, origin=f"http://{own}") == {200}


async def test_a_foreign_page_reads_nothing(tmp_path: Path) -> None:
    """Not with what has no `Origin` either (an image, a frame); our own page does, and a person by a link."""
    async with observer(tmp_path) as running, client(running) as http:
        for site in ("cross-site", "same-site"):
            for dest in ("image", "iframe", "empty"):
                foreign = {"sec-fetch-site": site, "sec-fetch-dest": dest}
                assert await statuses(http, [*_READ, ("GET", "/advice?endpoint=x")], **foreign) == {403}, foreign
            assert await statuses(http, _READ, **{"sec-fetch-site": site, "sec-fetch-dest": "document"}) == {200}
            assert (await http.get("/", headers={"sec-fetch-site": site})).status_code == 200
        for site in ("same-origin", "none"):
            assert await statuses(http, _READ, **{"sec-fetch-site": site, "sec-fetch-dest": "empty"}) == {200}


async def test_a_door_that_names_no_scope_is_for_admins() -> None:
    """One that is forgotten is closed, not open."""

    class Forgetful:
        async def on_get(self, _req: Request, resp: Response) -> None:
            resp.media = {}

    app: Any = create_app({"/x": Forgetful()}, Guard(TokenStore("t", "", ManualClock()), ()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        assert await statuses(http, [("GET", "/x")]) == {401}
        assert await statuses(http, [("GET", "/x")], "Bearer t") == {200}


def test_other_addresses_need_a_token(tmp_path: Path) -> None:
    """A door beyond loopback without one refuses to start, unless that is asked for."""
    with pytest.raises(SettingsError):
        settings(tmp_path, OBSERVER_HOST="0.0.0.0")
    for env in ({"OBSERVER_TOKEN": "t"}, {"OBSERVER_ALLOW_ANONYMOUS": "true"}):
        assert settings(tmp_path, OBSERVER_HOST="0.0.0.0", **env).host == "0.0.0.0"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program, which makes the certificate, is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=observer"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


async def test_the_door_speaks_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """With a certificate: checked by the client, and no plain HTTP any more."""
    cert, key = certificate
    async with observer(tmp_path, OBSERVER_TLS_CERT=str(cert), OBSERVER_TLS_KEY=str(key)) as running:
        trusting = ssl.create_default_context(cafile=str(cert))
        address = f"https://127.0.0.1:{running.port}"
        async with client(running, base_url=address, verify=trusting) as http:
            answer = await http.post("/event", content=b'{"success": true}')
            assert (answer.status_code, answer.json()["ring_size"]) == (200, 1)
        async with client(running) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get("/health")
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{running.health_port}", trust_env=False, timeout=30
        ) as health:
            assert (await health.get("/livez")).status_code == 200


def test_a_certificate_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Before any port is bound."""
    (tmp_path / "cert.pem").write_text("not a certificate")
    env = {"OBSERVER_TLS_CERT": str(tmp_path / "cert.pem"), "OBSERVER_TLS_KEY": str(tmp_path / "none.pem")}
    with pytest.raises(StartError):
        Observer(settings(tmp_path, **env), env={})


async def test_only_loopback_listens_by_default(tmp_path: Path) -> None:
    """The machine's other addresses refuse the connection."""
    async with observer(tmp_path) as running:
        for port in (running.port, running.health_port):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.2", port)
