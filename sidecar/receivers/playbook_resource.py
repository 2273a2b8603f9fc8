"""`GET /playbooks`, `/playbooks/{id}`, and a person's decisions on an entry: approve, retire, restore."""

from __future__ import annotations

from collections.abc import Callable

import falcon
import falcon.asgi
import msgspec

from sidecar.model_learning import EntryAction
from sidecar.protocols import AdviceSource, PlaybookKeeper
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.hand_body import SOMEONE, said_by_hand
from sidecar.receivers.op_filter import playbook_query
from sidecar.receivers.read_resources import page_of


class PlaybooksResource:
    """`GET /playbooks?as_of=…`: what works and what does not. An agent that reads it names its `task`."""

    scope = "read"

    def __init__(self, playbook: PlaybookKeeper, advisor: AdviceSource, clean: Callable[[str], str]) -> None:
        self._playbook = playbook
        self._advisor = advisor
        self._clean = clean

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """A page of entries, most recently changed first; as they were at *as_of*, if given."""
        query = playbook_query(req, self._clean)
        if query.task is not None:
            await self._advisor.inform(query.task)
        resp.content_type = falcon.MEDIA_JSON
        views = self._playbook.views(query.as_of)
        resp.data = page_of("playbooks", views, "playbook_id", query.limit, query.cursor)


class PlaybookResource:
    """`GET /playbooks/{id}`: one entry with its versions and the decisions on it."""

    scope = "read"

    def __init__(self, playbook: PlaybookKeeper, advisor: AdviceSource, clean: Callable[[str], str]) -> None:
        self._playbook = playbook
        self._advisor = advisor
        self._clean = clean

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, playbook_id: str) -> None:
        """The entry; 404 if it is unknown."""
        task = playbook_query(req, self._clean).task
        found = self._playbook.history(playbook_id)
        if task is not None:
            await self._advisor.inform(task)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(found)


class EntryActionResource:
    """`POST /playbooks/{id}/<action>`: a person's decision; the body may say who, why, and on which version."""

    scope = "admin"

    def __init__(
        self, playbook: PlaybookKeeper, bodies: BodyReader, action: EntryAction, clean: Callable[[str], str]
    ) -> None:
        self._playbook = playbook
        self._bodies = bodies
        self._action = action
        self._clean = clean

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, playbook_id: str) -> None:
        """The changed entry, once the decision is in the journal; 404 if it is unknown."""
        with self._bodies.lease() as lease:
            said = said_by_hand(await self._bodies.read(req, lease), versioned=True)
        by, why = self._clean(said.by), self._clean(said.note)
        found = await self._playbook.change(playbook_id, self._action, why, said.version, who=by or SOMEONE)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(found)
