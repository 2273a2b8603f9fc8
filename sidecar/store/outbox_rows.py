"""The outbox as rows of `state.db`: waiting posts, dead letters, and the keys of recently finished posts.

Plain functions on a connection, each for one transaction. The observer calls them on its writer thread, the command
line from its own process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from sidecar.model import OutboxLook, Post, PostOutcome, QueuedPost

SCHEMA: Final = (
    """\
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    url TEXT NOT NULL,
    body BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'dead', 'done')),
    since_ns INTEGER NOT NULL,
    due_ns INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    settled_ns INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT ''
)""",
    "CREATE INDEX outbox_waiting ON outbox (number, due_ns, since_ns) WHERE state = 'waiting'",
    "CREATE INDEX outbox_dead ON outbox (number) WHERE state = 'dead'",
    "CREATE INDEX outbox_done ON outbox (settled_ns, number) WHERE state = 'done'",
)
"""Schema version 2 of the state file. Partial indexes: the search for the next post never touches finished rows."""

SELECT: Final = "SELECT number, key, kind, url, body, state, since_ns, due_ns, attempts, error FROM outbox"
MAX_WAITING: Final = 10_000
MAX_DEAD: Final = 1000
MAX_DONE: Final = 10_000
"""Kept keys of delivered or dropped posts: the same content is not sent again while its key is kept."""
KEEP_DONE_NS: Final = 7 * 24 * 3600 * 10**9
_FARTHEST_NS: Final = 3900 * 10**9  # longer than any wait we set: a later due time means that the clock was set back


def put(connection: sqlite3.Connection, posts: Sequence[Post], now_ns: int) -> tuple[int, int]:
    """Insert *posts*, oldest first, each key once. Returns (number of new posts, number without room)."""
    new = [post for post in {post.key: post for post in posts}.values() if not _is_known(connection, post.key)]
    (waiting,) = connection.execute("SELECT count(*) FROM outbox WHERE state = 'waiting'").fetchone()
    room, before = max(0, MAX_WAITING - waiting), connection.total_changes
    connection.executemany(
        "INSERT OR IGNORE INTO outbox (key, kind, url, body, state, since_ns, due_ns)"
        " VALUES (?, ?, ?, ?, 'waiting', ?, ?)",
        [(post.key, post.kind, post.url, post.body, now_ns, now_ns) for post in new[:room]],
    )
    return connection.total_changes - before, len(new[room:])


def look(connection: sqlite3.Connection, now_ns: int, to: str | None = None) -> OutboxLook:
    """The oldest due post (first one that a person asked to retry), and the counts.

    Considers only posts whose url is *to*; None: those for the gateway, whose urls are paths.
    """
    mine = "url LIKE '/%'" if to is None else "url = :to"
    asked = {"to": to, "now": now_ns, "farthest": now_ns + _FARTHEST_NS}
    waiting_mine = f"state = 'waiting' AND {mine}"
    row = connection.execute(f"{SELECT} WHERE {waiting_mine} AND due_ns = 0 ORDER BY number LIMIT 1", asked).fetchone()
    row = (
        row
        or connection.execute(
            f"{SELECT} WHERE {waiting_mine} AND (due_ns <= :now OR due_ns > :farthest) ORDER BY number LIMIT 1", asked
        ).fetchone()
    )
    waiting, next_due_ns, oldest_ns = connection.execute(
        f"SELECT count(*), min(due_ns), min(since_ns) FROM outbox WHERE {waiting_mine}",  # noqa: S608 - ours
        asked,
    ).fetchone()
    dead_mine = f"SELECT count(*) FROM outbox WHERE state = 'dead' AND {mine}"  # noqa: S608 - ours
    (dead,) = connection.execute(dead_mine, asked).fetchone()
    post = _queued(row) if row else None
    return OutboxLook(post=post, next_due_ns=next_due_ns, waiting=waiting, dead=dead, oldest_ns=oldest_ns)


def settle(connection: sqlite3.Connection, number: int, outcome: PostOutcome) -> int:
    """Store *outcome*, unless a person dropped the post. Returns the number of dead letters evicted for room."""
    is_done = outcome.state == "done"  # from now on only its key is needed
    connection.execute(
        "UPDATE outbox SET state = ?, attempts = attempts + 1, due_ns = ?, settled_ns = ?, error = ?,"
        " body = CASE WHEN ? THEN x'' ELSE body END WHERE number = ? AND state = 'waiting'",
        (outcome.state, outcome.due_ns, outcome.at_ns, outcome.error, is_done, number),
    )
    if outcome.others_due:
        connection.execute(
            "UPDATE outbox SET due_ns = min(due_ns, ?) WHERE state = 'waiting'"
            " AND (url LIKE '/%') = (SELECT url LIKE '/%' FROM outbox WHERE number = ?)",
            (outcome.at_ns, number),
        )
    if is_done:
        _forget_done(connection, outcome.at_ns)
    return _bury(connection) if outcome.state == "dead" else 0


def listed(connection: sqlite3.Connection, numbers: Sequence[int] | None) -> list[dict[str, Any]]:
    """Waiting and dead rows as columns by name, oldest first; only *numbers* if given."""
    cursor = connection.execute(f"{SELECT} WHERE state <> 'done' ORDER BY number")
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor]
    return [row for row in rows if numbers is None or row["number"] in numbers]


def retry(connection: sqlite3.Connection, numbers: Sequence[int], now_ns: int) -> None:
    """Make posts, waiting or dead, due at once, with their attempts reset."""
    connection.executemany(
        "UPDATE outbox SET state = 'waiting', due_ns = 0, since_ns = ?, attempts = 0 WHERE number = ?"
        " AND state <> 'done'",
        [(now_ns, number) for number in numbers],
    )


def drop(connection: sqlite3.Connection, numbers: Sequence[int], now_ns: int) -> None:
    """Drop posts for good. Their keys stay for a while, so that replayed decisions do not queue them again."""
    connection.executemany(
        "UPDATE outbox SET state = 'done', body = x'', settled_ns = ? WHERE number = ? AND state <> 'done'",
        [(now_ns, number) for number in numbers],
    )
    _forget_done(connection, now_ns)


def _is_known(connection: sqlite3.Connection, key: str) -> bool:
    return connection.execute("SELECT 1 FROM outbox WHERE key = ?", (key,)).fetchone() is not None


def _queued(row: Sequence[Any]) -> QueuedPost:
    number, key, kind, url, body, _, since_ns, due_ns, attempts, _ = row
    return QueuedPost(
        key=key, kind=kind, url=url, body=body, number=number, attempts=attempts, since_ns=since_ns, due_ns=due_ns
    )


def _forget_done(connection: sqlite3.Connection, now_ns: int) -> None:
    connection.execute("DELETE FROM outbox WHERE state = 'done' AND settled_ns < ?", (now_ns - KEEP_DONE_NS,))
    connection.execute(
        "DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE state = 'done'"
        " ORDER BY settled_ns DESC, number DESC LIMIT -1 OFFSET ?)",
        (MAX_DONE,),
    )


def _bury(connection: sqlite3.Connection) -> int:
    return connection.execute(
        "DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE state = 'dead'"
        " ORDER BY number DESC LIMIT -1 OFFSET ?)",
        (MAX_DEAD,),
    ).rowcount
