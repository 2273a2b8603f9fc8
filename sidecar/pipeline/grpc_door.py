"""Builds the gRPC door: OTLP and `ObserverService` on one port."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.errors import StartError
from sidecar.pipeline.parts import Parts
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.settings import Settings

if TYPE_CHECKING:  # imported when the door opens
    from sidecar.receivers.grpc_receiver import GrpcReceiver


class GrpcDoor:
    """The gRPC server, imported only when it starts: gRPC alone takes 10 MiB."""

    name = "grpc"

    def __init__(self, parts: Parts, intake: OtlpIntake) -> None:
        self.port = parts.settings.grpc_port
        self._parts = parts
        self._intake = intake
        self._receiver: GrpcReceiver | None = None

    @property
    def refused(self) -> int:
        """Calls refused for lack of a token or scope."""
        return self._receiver.refused if self._receiver is not None else 0

    @property
    def invalid(self) -> int:
        """OTLP calls with a message that is refused for good."""
        return self._receiver.invalid if self._receiver is not None else 0

    @property
    def overloads(self) -> int:
        """Calls refused or aborted for lack of room for incoming bytes."""
        return self._receiver.overloads if self._receiver is not None else 0

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Bind and listen. Raises StartError."""
        from sidecar.receivers.grpc_receiver import GrpcReceiver  # noqa: PLC0415 - see above
        from sidecar.receivers.observer_service import Memory, ObserverService  # noqa: PLC0415 - as above

        settings, store, entrance = self._parts.settings, self._parts.store, self._parts.entrance
        learning = self._parts.analysis.learning
        service = ObserverService(
            entrance.intake,
            store.ring,
            store.feed,
            Memory(store.books.incidents.incidents, learning.views),
            advisor=learning.advisor,
            clean=self._parts.normalizer.text,
        )
        self._receiver = GrpcReceiver(
            self._intake,
            service,
            entrance.tokens,
            entrance.budget,
            host=settings.host,
            port=self.port,
            request_timeout_s=settings.body_timeout,
            grace_s=settings.grace,
            tls=_pem(settings),
        )
        await self._receiver.start(tasks)
        self.port = self._receiver.port

    async def stop(self) -> None:
        """Finish the calls in progress."""
        if self._receiver is not None:
            await self._receiver.stop()


def _pem(settings: Settings) -> tuple[bytes, bytes] | None:
    """Certificate and key, or None if there are none. Raises StartError."""
    if not settings.tls_cert:
        return None
    try:
        return Path(settings.tls_cert).read_bytes(), Path(settings.tls_key).read_bytes()
    except OSError as exc:
        raise StartError("TLS cannot be set up", str(exc), "Give a PEM certificate and its unencrypted key") from exc
