"""What is written within one turn of the loop leaves in one piece; a client that hangs up costs nothing."""

from __future__ import annotations

import asyncio
from typing import cast

from sidecar.receivers.corked_transport import CorkedTransport


class FakeTransport:
    """Keeps what is written; raises once it is closed, as uvloop's does."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.closed:
            raise RuntimeError("the handler is closed")
        self.pieces.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def corked(transport: FakeTransport) -> CorkedTransport:
    return CorkedTransport(cast("asyncio.Transport", transport), asyncio.get_running_loop())


async def test_head_and_body_leave_in_one_piece() -> None:
    """Two writes in one turn are one; the next turn's is another."""
    transport = FakeTransport()
    cork = corked(transport)
    cork.write(b"head")
    cork.write(b"body")
    await asyncio.sleep(0)
    cork.write(b"next")
    await asyncio.sleep(0)
    assert transport.pieces == [b"headbody", b"next"]


async def test_large_answers_do_not_gather() -> None:
    """Beyond 64 KiB the transport sees them at once, so that its flow control can hold the writer."""
    transport = FakeTransport()
    corked(transport).write(b"x" * 70_000)
    assert len(transport.pieces) == 1


async def test_what_is_held_leaves_before_the_close() -> None:
    """An answer followed by a close arrives."""
    transport = FakeTransport()
    cork = corked(transport)
    cork.write(b"bye")
    cork.close()
    assert transport.pieces == [b"bye"]


async def test_a_client_that_hangs_up_between_write_and_turn_costs_nothing() -> None:
    """What is held for it is dropped: no exception reaches the event loop's handler."""
    raised: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    transport = FakeTransport()
    cork = corked(transport)
    cork.write(b"too late")
    transport.close()
    await asyncio.sleep(0)
    assert (transport.pieces, raised) == ([], [])
