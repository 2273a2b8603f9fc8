"""What all doors share: who may come in, how many bytes at once, and the intake of events."""

from __future__ import annotations

from sidecar.normalize import Normalizer
from sidecar.pipeline.store import Store
from sidecar.protocols import Clock, Recorder
from sidecar.receivers.bodies import ByteBudget
from sidecar.receivers.event_intake import EventIntake
from sidecar.receivers.guards import Guard
from sidecar.receivers.open_ops import OpenOps
from sidecar.receivers.tokens import TokenStore
from sidecar.settings import Settings


class Entrance:
    """`tokens`, `guard` say who may come in, `budget`, `open_ops` bound what is under way; `intake` takes events."""

    def __init__(
        self, settings: Settings, store: Store, recorder: Recorder, *, normalizer: Normalizer, clock: Clock
    ) -> None:
        self.budget = ByteBudget(settings.inflight_bytes)
        self.open_ops = OpenOps()
        self.tokens = TokenStore(settings.token, settings.token_file, clock)
        self.guard = Guard(self.tokens, settings.allowed_hosts.split(","))
        self.intake = EventIntake(recorder, normalizer, clock, store.ring.__len__, store.books.duplicates)
