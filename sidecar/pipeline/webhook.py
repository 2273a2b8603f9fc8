"""Builds the webhook that is told of incidents, and the model that is asked about them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import httpx

from sidecar.analysis.chat_model import ChatModel
from sidecar.analysis.life_cycle import DECISION_KIND
from sidecar.analysis.llm import LakehouseModel, ModelCalls
from sidecar.analysis.webhook import TO, Webhook
from sidecar.clock import rfc3339_ms
from sidecar.export.outbox import Outbox
from sidecar.gateway.gateway_log import HttpWebhook
from sidecar.pipeline.books import Books
from sidecar.protocols import Clock, Stage
from sidecar.settings import Settings
from sidecar.store.outbox_table import OutboxTable
from sidecar.store.state import StateStore


class WebhookRoom:
    """The webhook at *url*, if set, with its own outbox, so that webhook and gateway do not delay each other."""

    def __init__(
        self, url: str, state: StateStore, client: httpx.AsyncClient, clock: Clock, books: Books, *, grace_s: float
    ) -> None:
        self._clock = clock
        self._webhook: Webhook | None = None
        self.outbox: Outbox | None = None
        if url:
            sender = HttpWebhook(client, url, clock)
            table = OutboxTable(state, TO)
            self.outbox = Outbox(table, sender, clock, random.random, name="webhook", grace_s=grace_s)
            self._webhook = Webhook(self.outbox, books.incidents.holds)
            books.decided.add(DECISION_KIND, self._webhook.tell)

    @property
    def stages(self) -> list[Stage]:
        """The webhook's outbox, if there is one."""
        return [self.outbox] if self.outbox is not None else []

    def catch_up_both(self, gateway: Outbox) -> Callable[[], Awaitable[None]]:
        """A function that puts all pending posts, the *gateway*'s too, before a checkpoint. Raises RetryableError."""

        async def catch_up() -> None:
            await gateway.catch_up()
            if self.outbox is not None:
                await self.outbox.catch_up()

        return catch_up

    async def test(self) -> bool:
        """Queue a test post. Returns whether there is a webhook. Raises RetryableError."""
        if self._webhook is None:
            return False
        await self._webhook.test(rfc3339_ms(self._clock.time_ns()))
        return True


def local_model(
    settings: Settings, client: httpx.AsyncClient, clock: Clock, mask: Callable[[str], str]
) -> LakehouseModel | ChatModel | None:
    """The client for the model behind LAKEHOUSE_URL, with the API that the settings name; None for `none`."""
    if settings.model_api == "none":
        return None
    kind = ChatModel if settings.model_api == "openai" else LakehouseModel
    calls = ModelCalls(client, settings.model_timeout, clock, mask=mask)
    return kind(calls, settings.lakehouse_url, settings.model)
