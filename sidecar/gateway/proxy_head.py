"""Decides which parts of a message head are forwarded, and which requests are refused. Pure: bytes in, bytes out.

httptools (llhttp, strict) has already rejected what is not HTTP/1: bare CR or LF, folded lines, spaces before colons,
control characters, repeated or malformed lengths, Content-Length with chunked. Here are the checks of a proxy.
Source: RFC 9110 (7.6.1, hop-by-hop fields) and RFC 9112 (6.3 body lengths). Targets: see `proxy_target`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sidecar.gateway.proxy_page import PageRules
from sidecar.gateway.proxy_refusal import RefusedError
from sidecar.gateway.proxy_target import TargetRules
from sidecar.gateway_address import GatewayAddress

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


class RequestHead:
    """A request head. `lines` are forwarded, `op_headers` are only for the op, `headers` are all fields as received.

    `target` is counted from the gateway's path, `upstream_target` is the one that the gateway gets.
    """

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
        "upstream_target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        *,
        http10: bool,
        close: bool,
        upstream_target: bytes | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.upstream_target = target if upstream_target is None else upstream_target
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
        first = b"%b %b HTTP/1.1" % (self.method, self.upstream_target)
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
        first = b"%b %b HTTP/1.%d" % (self.method, self.upstream_target, not self.http10)
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
        self, gateway: GatewayAddress, allowed_hosts: Iterable[str], paths: Iterable[str], instance: bytes
    ) -> None:
        host = gateway.authority
        self._host_line = b"Host: " + host.encode("idna" if not host.isascii() else "ascii")
        allowed = frozenset(name.strip().lower().rstrip(".") for name in allowed_hosts) - {""}
        self.targets = TargetRules(gateway, allowed, paths)
        self._pages = PageRules(allowed)
        self._instance = instance

    def read(self, method: bytes, target: bytes, headers: Headers, *, version: str, keep_alive: bool) -> RequestHead:
        """The head to be forwarded. Raises RefusedError."""
        if version not in ("1.0", "1.1"):
            raise RefusedError(505, "HTTP Version Not Supported", "this proxy speaks HTTP/1.1")
        path, sent = self.targets.read(method, target, headers)
        http10 = version == "1.0"
        head = RequestHead(method, path, headers, http10=http10, close=not keep_alive, upstream_target=sent)
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
        self.targets.check_host(special.get(b"host", []), http10=head.http10)
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
