"""`GET /playbooks`, `/playbooks/{id}`, and a person's hand on an entry: approve, retire, restore."""

from __future__ import annotations

from collections.abc import Callable

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError
from sidecar.model_learning import EntryAction
from sidecar.protocols import AdviceSource, PlaybookKeeper
from sidecar.receivers.bodies import BodyReader, parse_json
from sidecar.receivers.op_filter import playbook_query
from sidecar.receivers.read_resources import page_of

MAX_CHANGE_BYTES = 4096
_MAX_WHY = 500  # characters


class PlaybooksResource:
    """`GET /playbooks?as_of=…`: what works and what does not. An agent that reads it names its `task`."""

    scope = "read"

    def __init__(self, playbook: PlaybookKeeper, advisor: AdviceSource, clean: Callable[[str], str]) -> None:
        self._playbook = playbook
        self._advisor = advisor
        self._clean = clean

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """A page of entries, the most recently changed first; as they were at *as_of*."""
        query = playbook_query(req, self._clean)
        if query.task is not None:
            await self._advisor.inform(query.task)
        resp.content_type = falcon.MEDIA_JSON
        views = self._playbook.views(query.as_of)
        resp.data = page_of("playbooks", views, "playbook_id", query.limit, query.cursor)


class PlaybookResource:
    """`GET /playbooks/{id}`: one entry with its versions and what was decided on it."""

    scope = "read"

    def __init__(self, playbook: PlaybookKeeper, advisor: AdviceSource, clean: Callable[[str], str]) -> None:
        self._playbook = playbook
        self._advisor = advisor
        self._clean = clean

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, playbook_id: str) -> None:
        """The entry; 404 where there is none."""
        task = playbook_query(req, self._clean).task
        found = self._playbook.history(playbook_id)
        if task is not None:
            await self._advisor.inform(task)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(found)


class EntryActionResource:
    """`POST /playbooks/{id}/<action>`: a person decides. The body may say why, and on which version (the latest)."""

    scope = "admin"

    def __init__(
        self, playbook: PlaybookKeeper, bodies: BodyReader, action: EntryAction, clean: Callable[[str], str]
    ) -> None:
        self._playbook = playbook
        self._bodies = bodies
        self._action = action
        self._clean = clean

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, playbook_id: str) -> None:
        """The entry as it is now, once the decision is in the journal; 404 where there is none."""
        with self._bodies.lease() as lease:
            why, version = _said(await self._bodies.read(req, lease))
        found = await self._playbook.change(playbook_id, self._action, self._clean(why), version)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(found)


def _said(body: bytes) -> tuple[str, int | None]:
    """(why, version). Raises InvalidInputError."""
    if not body.strip():
        return "", None
    said = parse_json(body)
    if isinstance(said, dict) and not set(said) - {"why", "version"}:
        why, version = said.get("why", ""), said.get("version")
        if isinstance(version, float) and version.is_integer():  # 3.0 is a whole number to JSON
            version = int(version)
        is_version = version is None or (isinstance(version, int) and not isinstance(version, bool) and version > 0)
        if isinstance(why, str) and len(why) <= _MAX_WHY and is_version:
            return why, version
    raise InvalidInputError(
        "the body is not usable",
        f"expected nothing, or an object with `why` of at most {_MAX_WHY} characters and a `version`",
        'Send {"why": "…", "version": 3}, or no body',
    )
