"""Health endpoints, on the main door and on a separate port for a kubelet. They reveal nothing but health."""

from __future__ import annotations

from collections.abc import Callable

import falcon
import falcon.asgi


class LivezResource:
    """`GET /livez`: the event loop runs. Independent of gateway and collector."""

    scope = None

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 whenever it can answer at all."""
        resp.media = {"status": "ok"}

    on_head = on_get


class ReadyzResource:
    """`GET /readyz`: every stage has started, none is stopping, and what arrives can be kept."""

    scope = None

    def __init__(self, unready: Callable[[], str]) -> None:
        self._unready = unready

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 when ready, else 503 with the reason."""
        why = self._unready()
        if why:
            resp.status = falcon.HTTP_503
            resp.media = {"status": "unready", "error": why}
        else:
            resp.media = {"status": "ok"}

    on_head = on_get


class HealthResource:
    """`GET /health`: the form that existing callers expect."""

    scope = None

    def __init__(self, ops_in_ring: Callable[[], int]) -> None:
        self._ops_in_ring = ops_in_ring

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """`{"status": "ok", "ops_in_ring": n}`."""
        resp.media = {"status": "ok", "ops_in_ring": self._ops_in_ring()}

    on_head = on_get
