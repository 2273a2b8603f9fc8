"""What masks leave: words that differ from message to message though the cause is one, such as names of people.

Fed each masked failure message; gives its template. A small online tree in the manner of Drain (He et al., "Drain:
an online log parsing approach with fixed depth tree", 2017): endpoint, error code, number of words and first word
lead to a node with at most 64 templates, compared word by word. Unlike Drain it does not merge at first sight, which
would make one incident of "shard 3 is slow" and "shard 3 is down": one or two places become `<word>` only after so
many messages differ there and nowhere else: four where all the words there look like names, eight otherwise.

A template has the id of its first message, for ever: an incident keeps its fingerprint while the tree learns. The
ids of other messages that a template takes in are in `renamed`, with the one they now go by, until the caller takes
them (`take_renamed`) to join their incidents. The same messages in the same order give the same ids. Another order
can choose another first message, and can leave messages that came before the merge in two nodes; never does it put
together what differs in more than two places, or in more than a third of its words.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from operator import ne
from typing import Final

import msgspec

from sidecar.kept_rows import KeptBook, KeptRows

MAX_NODES: Final = 1000
MAX_TEMPLATES: Final = 64  # of one node
MAX_RENAMED: Final = 4096
WORD: Final = "<word>"
_MAX_WORDS = 60  # longer messages are their own templates
_MAX_PLACES = 2
_WORDS_A_PLACE = 3  # so many words must a message have for each place that varies
_NAMES, _ANY = 4, 8  # different words, before their place is one that varies
_MAX_NAME = 60  # characters; what is longer is no word
_NAME = re.compile(r"[\"'(\[]?(?:[A-Z][a-z]*(?:['-][A-Z]?[a-z]+)*|\w*[./_@#\\-][\w./_@#\\-]*)[\"')\].,:;!]*")
_CODE = re.compile(r"[A-Z_]+[\"')\].,:;!]*")


class Template(msgspec.Struct, omit_defaults=True):
    """The words of its first message, `<word>` where they vary.

    *template_id* is the id of this message, *number* its place among those that its node ever had.
    """

    template_id: str
    words: list[str]
    number: int
    varies: bool = False


class Node(msgspec.Struct, omit_defaults=True):
    """Templates of one endpoint, error code, number of words and first word; the first made first."""

    templates: list[Template] = []
    made: int = 0


class TemplateTree(KeptBook):
    """At most 1000 nodes of 64 templates; those that have learned nothing for longest make room.

    Within a node it is the oldest template, those that vary last. The messages of what went are templates of their
    own again. A message that is known changes nothing, so a caller may remember what it got while `version` stays.
    """

    def __init__(self) -> None:
        self._nodes = KeptRows("template/", Node, MAX_NODES)
        super().__init__(self._nodes)
        self._renamed: dict[str, str] = {}
        self.merges = 0
        self.forgotten = 0  # templates that had to make room within their node

    def find(self, endpoint: str, error_type: str, masked: str, message_id: str) -> tuple[str, str]:
        """(id, template) of a *masked* message whose own id is *message_id*. O(words × templates of its node)."""
        words = masked.split(" ")
        if not 1 < len(words) <= _MAX_WORDS:
            return message_id, masked
        key = _key(endpoint, error_type, len(words), words[0])
        node = self._nodes.get(key)
        template = _matching(node.templates, words) if node is not None else None
        if template is None:
            node = self._nodes.touch(key)
            if node is None:
                node = Node()
                self._nodes.add(key, node)
            template = self._merged(node, words) or self._new(node, words, message_id)
        return template.template_id, " ".join(template.words) if template.varies else masked

    @property
    def version(self) -> int:
        """Changes whenever a message that was here before might be answered otherwise."""
        return self.merges + self.forgotten + self._nodes.evicted

    def take_renamed(self) -> dict[str, str]:
        """Ids that were given out, each with the one its messages go by from now on, since the last call.

        They are not saved: take them with every `find` that changed `version`, before the next save.
        """
        renamed, self._renamed = self._renamed, {}
        return renamed

    @property
    def evicted(self) -> int:
        """Nodes that had to make room."""
        return self._nodes.evicted

    def _merged(self, node: Node, words: list[str]) -> Template | None:
        """The template that *words* and those like them are from now on, if there are enough of them."""
        like, places = _like(node.templates, words)
        if not like:
            return None
        first = min(like, key=lambda template: template.number)
        for other in like:
            if other is not first:
                node.templates.remove(other)
                self._rename(other.template_id, first.template_id)
        first.words = [WORD if at in places else word for at, word in enumerate(first.words)]
        first.varies = True
        self.merges += 1
        return first

    def _new(self, node: Node, words: list[str], message_id: str) -> Template:
        template = Template(message_id, words, node.made)
        node.made += 1
        node.templates.append(template)
        if len(node.templates) > MAX_TEMPLATES:
            node.templates.remove(next((each for each in node.templates if not each.varies), node.templates[0]))
            self.forgotten += 1
        return template

    def _rename(self, old: str, new: str) -> None:
        for known, target in self._renamed.items():
            if target == old:
                self._renamed[known] = new
        self._renamed[old] = new
        while len(self._renamed) > MAX_RENAMED:
            del self._renamed[next(iter(self._renamed))]


def _key(endpoint: str, error_type: str, words: int, first: str) -> str:
    parts = (endpoint, error_type, str(words), first)
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def _matching(templates: list[Template], words: list[str]) -> Template | None:
    for template in templates:
        if template.words == words:
            return template
    for template in templates:
        if template.varies and all(a in (b, WORD) for a, b in zip(template.words, words, strict=True)):
            return template
    return None


def _like(templates: list[Template], words: list[str]) -> tuple[list[Template], set[int]]:
    """Enough *templates* that differ from *words* in the same places, and these places; otherwise none."""
    most = min(_MAX_PLACES, len(words) // _WORDS_A_PLACE)
    near = [
        (template, places)
        for template in templates
        if sum(map(ne, template.words, words)) <= most and (places := _places(template.words, words))
    ]
    for _, places in sorted(near, key=lambda one: (len(one[1]), one[0].number)):
        like = [template for template, other in near if other <= places]
        met = {tuple(template.words[at] for at in places) for template in like} | {tuple(words[at] for at in places)}
        if len(met) >= (_NAMES if all(_is_name(word) for each in met for word in each) else _ANY):
            return like, set(places)
    return [], set()


def _places(template: list[str], words: list[str]) -> frozenset[int]:
    """Where they differ; of a template that varies, where it does as well."""
    return frozenset(at for at, (a, b) in enumerate(zip(template, words, strict=True)) if a != b)


def _is_name(word: str) -> bool:
    if word == WORD or len(word) > _MAX_NAME:
        return True
    return bool(_NAME.fullmatch(word)) and not _CODE.fullmatch(word)
