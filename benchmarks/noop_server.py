"""The baseline: a Falcon application that only reads each body and answers JSON of the observer's size.

It runs under uvicorn with the observer's settings and imports nothing of the observer, so that the ratio between the
two is the cost of the observer's own work. `python -m benchmarks.noop_server PORT`.
"""

from __future__ import annotations

import sys

import falcon
import falcon.asgi
import uvicorn

_EVENT = b'{"accepted":true,"ring_size":2000,"trace_id":"%b","span_id":"%b"}' % (b"0" * 32, b"0" * 16)
_EVENTS = b'{"accepted":100,"rejected":[],"ring_size":2000}'
_HEALTH = b'{"status": "ok", "ops_in_ring": 2000}'


class _Answer:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        await req.stream.read()
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._body

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._body


def main(port: int) -> None:
    app: falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response] = falcon.asgi.App()
    for path, body in (("/event", _EVENT), ("/events", _EVENTS), ("/health", _HEALTH)):
        app.add_route(path, _Answer(body))
    uvicorn.run(  # configured like the observer's doors: see sidecar/receivers/http_receiver.py
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=8192,
        backlog=2048,
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
