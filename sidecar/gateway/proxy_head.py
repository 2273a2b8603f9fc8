"""Decides which parts of a message head are forwarded, and which requests are refused. Pure: bytes in, bytes out.

httptools (llhttp, strict) has already rejected what is not HTTP/1: bare CR or LF, folded lines, spaces before colons,
control characters, repeated or malformed lengths, Content-Length with chunked. Here are the checks of a proxy.
Source: RFC 9110 (7.6.1, hop-by-hop fields) and RFC 9112 (3.2 request targets, 6.3 body lengths).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from sidecar.gateway.proxy_page import PageRules
from sidecar.gateway.proxy_paths import AllowedPaths
from sidecar.gateway.proxy_refusal import RefusedError

Headers = Sequence[tuple[bytes, bytes]]

VIA = b"x-observer-via"
PROBE = b"x-observer-probe"
_OURS = b"x-observer-"
_OP_PREFIX = b"x-observer-op-"
_HOP_BY_HOP = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"]
)
_ORIGIN = frozenset([b"origin", b"sec-fetch-site"])  # in which browsers describe the requesting page
_REQUEST_SPECIAL = _HOP_BY_HOP | _ORIGIN | {b"host", b"content-length", b"traceparent", b"tracestate", b"expect"}
_KEPT = _ORIGIN | {b"content-length", b"expect"}  # checked, and forwarded unchanged
_RESPONSE_SPECIAL = _HOP_BY_HOP | {b"content-length"}
_NO_TRAILER = _REQUEST_SPECIAL | {b"authorization", b"content-type", b"content-encoding", b"trailer"}
_FRAMING = frozenset([b"host", b"content-length", b"transfer-encoding"])
_OPTIONAL_UPGRADES = frozenset([b"h2c", b"http/2.0"])  # offers that may be ignored; other upgrades are refused
_MOST_KNOWN_HOSTS = 256
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]*)(.*)", re.DOTALL)
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]@/\\\s]+))(?::\d{0,5})?")


class RequestHead:
    """A request head. `lines` are forwarded, `op_headers` are only for the op, `headers` are all fields as received."""

    __slots__ = (
        "chunked",
        "close",
        "expects",
        "headers",
        "http10",
        "length",
        "lines",
        "method",
        "op_headers",
        "probe",
        "target",
        "traceparent",
        "tracestate",
    )

    def __init__(self, method: bytes, target: bytes, headers: Headers, *, http10: bool, close: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.http10 = http10
        self.close = close or http10
        self.lines: list[bytes] = []
        self.chunked = self.probe = self.expects = False
        self.length = 0  # of the body in bytes; 0 if it is chunked
        self.traceparent: list[bytes] = []
        self.tracestate: list[bytes] = []
        self.op_headers: list[tuple[str, str]] = []

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.chunked or self.length > 0

    def to_send(self, trace_lines: Iterable[bytes]) -> bytes:
        """The head as sent to the gateway."""
        first = b"%b %b HTTP/1.1" % (self.method, self.target)
        framing = (b"Transfer-Encoding: chunked",) if self.chunked else ()
        return b"\r\n".join([first, *self.lines, *trace_lines, *framing, b"", b""])

    def without_offer(self) -> bytes:
        """The received head without its offer to upgrade: fed to a parser, it makes it read the body that follows."""
        kept = [
            b"%b: %b" % (name, value)
            for name, value in self.headers
            if name.lower() not in (b"upgrade", b"connection", b"http2-settings")
        ]
        options = [each for name, value in self.headers if name.lower() == b"connection" for each in _tokens(value)]
        options = [each for each in options if each not in (b"upgrade", b"http2-settings")]
        connection = [b"Connection: " + b", ".join(options)] if options else []
        first = b"%b %b HTTP/1.%d" % (self.method, self.target, not self.http10)
        return b"\r\n".join([first, *kept, *connection, b"", b""])


class ResponseHead:
    """A response head. `lines` are forwarded; `length` is its Content-Length in bytes, if any."""

    __slots__ = ("chunked", "headers", "length", "lines", "reason", "status")

    def __init__(self, status: int, reason: bytes, headers: Headers) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.lines: list[bytes] = []
        self.chunked = False
        self.length: int | None = None

    def to_send(self, more: Iterable[bytes]) -> bytes:
        """The head as sent to the agent, with the lines *more* added."""
        return b"\r\n".join([b"HTTP/1.1 %d %b" % (self.status, self.reason), *self.lines, *more, b"", b""])


class RequestRules:
    """Checks request heads. *paths* are the allowed prefixes (none: all); *instance* identifies this proxy in loops."""

    def __init__(
        self, gateway_host: str, gateway_name: str, allowed_hosts: Iterable[str], paths: Iterable[str], instance: bytes
    ) -> None:
        self._host_line = b"Host: " + gateway_host.encode("idna" if not gateway_host.isascii() else "ascii")
        allowed = frozenset(name.strip().lower() for name in allowed_hosts) - {""}
        self._names = allowed | ({"localhost", gateway_name.lower()} - {""})
        self._pages = PageRules(allowed)
        self._paths = AllowedPaths(paths)
        self._instance = instance
        self._known_hosts: set[bytes] = set()
        self.port = 0
        """Where the proxy listens, once it does: an absolute target may name it."""

    def read(self, method: bytes, target: bytes, headers: Headers, *, version: str, keep_alive: bool) -> RequestHead:
        """The head to be forwarded. Raises RefusedError."""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            target = self._path_of(method, absolute[1], absolute[2], headers)
        head = RequestHead(method, target, headers, http10=version == "1.0", close=not keep_alive)
        if version not in ("1.0", "1.1"):
            raise RefusedError(505, "HTTP Version Not Supported", "this proxy speaks HTTP/1.1")
        self._check_target(method, target)
        special: dict[bytes, list[bytes]] = {}
        lines = [self._host_line]
        for name, value in headers:
            key = name.lower()
            if key in _REQUEST_SPECIAL:
                special.setdefault(key, []).append(value)
                if key in _KEPT:
                    lines.append(b"%b: %b" % (name, value))
            elif is_ours(key):
                self._our_header(head, key, value, lines)
            else:
                lines.append(b"%b: %b" % (name, value))
        self._paths.check_headers(headers)
        head.lines = lines
        self._apply(head, special)
        head.lines.append(b"X-Observer-Via: " + self._instance)
        return head

    def _apply(self, head: RequestHead, special: dict[bytes, list[bytes]]) -> None:
        for value in special.get(b"content-length", ()):
            head.length = int(value)
        for value in special.get(b"transfer-encoding", ()):
            _check_coding(head, value)
        nominated = _all_tokens(special, b"connection")
        head.expects = b"100-continue" in _all_tokens(special, b"expect")
        head.traceparent = special.get(b"traceparent", [])
        head.tracestate = special.get(b"tracestate", [])
        if b"trailers" in _all_tokens(special, b"te"):
            head.lines.append(b"TE: trailers")
        self._check_host(special.get(b"host", []), head)
        if not _ORIGIN.isdisjoint(special):
            pages, sites = special.get(b"origin", []), special.get(b"sec-fetch-site", [])
            self._pages.check(pages, sites, special.get(b"host", []))
        _check_upgrade(_all_tokens(special, b"upgrade"), nominated)
        _drop_nominated(head.lines, nominated)

    def _our_header(self, head: RequestHead, key: bytes, value: bytes, lines: list[bytes]) -> None:
        if key.startswith(_OP_PREFIX):
            head.op_headers.append((key[len(_OP_PREFIX) :].decode("ascii"), _text(value)))
        elif key == PROBE:
            head.probe = True
        elif key == VIA:
            if value.strip() == self._instance:
                raise RefusedError(
                    508, "Loop Detected", "GATEWAY_URL leads back to this proxy: point it at the gateway"
                )
            lines.append(b"%b: %b" % (key, value))  # a loop may pass through several proxies

    def _path_of(self, method: bytes, authority: bytes, path: bytes, headers: Headers) -> bytes:
        """The path of an absolute target. Raises RefusedError unless its *authority*, and `Host`, is this proxy.

        Another address could be meant for another server, whatever its name: agents with a proxy for all calls send
        such targets, and what they send must not reach this gateway instead. Source: RFC 9112, 3.2.2.
        """
        hosts = [value.strip().lower() for name, value in headers if name.lower() == b"host"]
        if not self._is_here(authority) or any(host != authority.lower() for host in hosts):
            raise RefusedError(
                400, "Bad Request", "the target names another server: this proxy serves one gateway only"
            )
        if not path:
            return b"*" if method == b"OPTIONS" else b"/"
        return path if path.startswith(b"/") else b"/" + path

    def _is_here(self, authority: bytes) -> bool:
        found = _HOST.fullmatch(authority)
        if found is None or not authority.endswith(b":%d" % self.port):
            return False
        name = (found[1] or found[2]).decode("latin-1").lower()
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name in self._names

    def _check_target(self, method: bytes, target: bytes) -> None:
        if method == b"CONNECT":
            raise RefusedError(501, "Not Implemented", "this proxy opens no tunnels: it serves one gateway only")
        if not target.startswith(b"/") and not (target == b"*" and method == b"OPTIONS"):
            raise RefusedError(400, "Bad Request", "the target must be a path: this proxy serves one gateway only")
        if b"#" in target:
            raise RefusedError(400, "Bad Request", "the target has a fragment, which is for the sender alone")
        self._paths.check_target(target)

    def _check_host(self, hosts: list[bytes], head: RequestHead) -> None:
        if len(hosts) > 1 or (not hosts and not head.http10):
            raise RefusedError(400, "Bad Request", "a request must have exactly one Host header")
        if hosts and hosts[0] not in self._known_hosts:
            if not self._is_known(hosts[0].strip()):
                raise RefusedError(
                    421, "Misdirected Request", "this Host is not served here: name it in OBSERVER_ALLOWED_HOSTS"
                )
            if len(self._known_hosts) < _MOST_KNOWN_HOSTS:
                self._known_hosts.add(hosts[0])

    def _is_known(self, host: bytes) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found[1] or found[2]).decode("latin-1").lower().rstrip(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True


def read_response(status: int, reason: bytes, headers: Headers) -> ResponseHead:
    """The response head to be forwarded. Raises ValueError on an invalid status or an unsupported transfer coding."""
    if status < 100:
        raise ValueError(f"its status code {status} is invalid")
    head = ResponseHead(status, reason, headers)
    lines = head.lines
    nominated: list[bytes] = []
    for name, value in headers:
        key = name.lower()
        if is_ours(key):
            continue  # reserved: only the observer may speak to agents in these fields
        if key not in _RESPONSE_SPECIAL:
            lines.append(b"%b: %b" % (name, value))
        elif key == b"content-length":
            head.length = int(value)
            lines.append(b"%b: %b" % (name, value))
        elif key == b"transfer-encoding":
            if head.chunked or value.strip().lower() != b"chunked":
                raise ValueError("its transfer coding is not chunked")
            head.chunked = True
        elif key == b"connection":
            nominated += _tokens(value)
    _drop_nominated(lines, nominated)
    return head


def trailer_lines(trailers: Headers) -> list[bytes]:
    """The trailer fields to be forwarded: none for framing, routing or authentication. Source: RFC 9110, 6.5.1."""
    return [
        b"%b: %b" % (name, value)
        for name, value in trailers
        if (key := name.lower()) not in _NO_TRAILER and not is_ours(key)
    ]


def is_ours(key: bytes) -> bool:
    """Whether *key* (lower case) is one of the observer's fields, also with `_` for `-`: CGI and WSGI equate them."""
    return key.startswith(b"x") and key.replace(b"_", b"-").startswith(_OURS)


def header(headers: Headers, wanted: bytes) -> str:
    """The first value of the field *wanted* (lower case), or ""."""
    for name, value in headers:
        if len(name) == len(wanted) and name.lower() == wanted:
            return _text(value)
    return ""


def _text(value: bytes) -> str:
    try:
        return value.strip().decode()
    except UnicodeDecodeError:
        return value.strip().decode("latin-1")


def _all_tokens(fields: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    return [token for value in fields.get(name, ()) for token in _tokens(value)]


def _tokens(value: bytes) -> list[bytes]:
    return [token for part in value.split(b",") if (token := part.split(b";")[0].strip().lower())]


def _check_coding(head: RequestHead, value: bytes) -> None:
    if head.http10:
        raise RefusedError(400, "Bad Request", "HTTP/1.0 has no transfer codings")
    if head.chunked or value.strip().lower() != b"chunked":
        raise RefusedError(501, "Not Implemented", "the only supported transfer coding is chunked")
    head.chunked = True


def _check_upgrade(upgrades: list[bytes], nominated: list[bytes]) -> None:
    if not upgrades or b"upgrade" not in nominated:
        return  # without the connection option it has no effect, and is dropped like any hop-by-hop field
    if not _OPTIONAL_UPGRADES.issuperset(upgrades):
        raise RefusedError(
            501, "Not Implemented", "this proxy does not switch protocols (WebSocket): connect to the gateway directly"
        )


def _drop_nominated(lines: list[bytes], nominated: list[bytes]) -> None:
    """Remove the fields that `Connection` names, except framing fields: a sender must not be able to remove those."""
    names = {*nominated} - _FRAMING - {b"keep-alive", b"close", b"upgrade", b"te"}
    if names:
        lines[:] = [line for line in lines if line.partition(b":")[0].lower() not in names]
