"""Learns which words vary between messages of one cause, such as names of people, where no mask applies.

Fed each masked failure message; returns its template. A small online tree in the manner of Drain (He et al., "Drain:
an online log parsing approach with fixed depth tree", 2017): endpoint, error code, number of words and first word
lead to a node with at most 64 templates, compared word by word. Unlike Drain it does not merge at first sight, which
would make one incident of "shard 3 is slow" and "shard 3 is down". One or two positions become `<word>` only after
enough messages differ there and nowhere else: four if all the words there look like names, eight otherwise.

A template keeps the id of its first message: an incident keeps its fingerprint while the tree learns. When a template
absorbs other messages, `take_renamed` returns their ids with the id that replaces them, so that the caller can join
their incidents. The same messages in the same order give the same ids. Another order can select another first message,
and can leave messages from before the merge in two nodes; it never merges messages that differ in more than two
positions, or in more than a third of their words.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from operator import ne
from typing import Final

import msgspec

from sidecar.kept_rows import KeptBook, KeptRows

MAX_NODES: Final = 1000
MAX_TEMPLATES: Final = 64  # per node
MAX_RENAMED: Final = 4096
WORD: Final = "<word>"
_MAX_WORDS = 60  # longer messages are their own templates
_MAX_PLACES = 2
_WORDS_A_PLACE = 3  # words that a message needs for each varying position
_NAMES, _ANY = 4, 8  # different words at a position before it varies
_MAX_NAME = 60  # characters; anything longer counts as a name
_NAME = re.compile(r"[\"'(\[]?(?:[A-Z][a-z]*(?:['-][A-Z]?[a-z]+)*|\w*[./_@#\\-][\w./_@#\\-]*)[\"')\].,:;!]*")
_CODE = re.compile(r"[A-Z_]+[\"')\].,:;!]*")


class Template(msgspec.Struct, omit_defaults=True):
    """The words of its first message, with `<word>` where they vary.

    *template_id* is the id of that message, *number* counts the templates made in its node.
    """

    template_id: str
    words: list[str]
    number: int
    varies: bool = False


class Node(msgspec.Struct, omit_defaults=True):
    """Templates of one endpoint, error code, number of words and first word, oldest first."""

    templates: list[Template] = []
    made: int = 0


class TemplateTree(KeptBook):
    """At most 1000 nodes of 64 templates; the nodes that have learned nothing for longest are evicted.

    Within a node the oldest template is evicted, those that vary last. Messages of an evicted template get templates of
    their own again. A known message changes nothing, so a caller may cache results while `version` stays the same.
    """

    def __init__(self) -> None:
        self._nodes = KeptRows("template/", Node, MAX_NODES)
        super().__init__(self._nodes)
        self._renamed: dict[str, str] = {}
        self.merges = 0
        self.forgotten = 0  # templates evicted within their node

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
        """Changes whenever the result for an earlier message might have changed."""
        return self.merges + self.forgotten + self._nodes.evicted

    def take_renamed(self) -> dict[str, str]:
        """The ids replaced since the last call, each with its replacement.

        They are not saved: take them after every `find` that changed `version`, before the next save.
        """
        renamed, self._renamed = self._renamed, {}
        return renamed

    @property
    def evicted(self) -> int:
        """The number of nodes evicted for room."""
        return self._nodes.evicted

    def _merged(self, node: Node, words: list[str]) -> Template | None:
        """The template that covers *words* and similar messages from now on, if there are enough of them."""
        like, places = _similar(node.templates, words)
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


def _similar(templates: list[Template], words: list[str]) -> tuple[list[Template], set[int]]:
    """*templates* that differ from *words* in the same positions, and these positions; empty if there are too few."""
    most = min(_MAX_PLACES, len(words) // _WORDS_A_PLACE)
    near = [
        (template, places)
        for template in templates
        if sum(map(ne, template.words, words)) <= most and (places := _differing_positions(template.words, words))
    ]
    for _, places in sorted(near, key=lambda one: (len(one[1]), one[0].number)):
        like = [template for template, other in near if other <= places]
        met = {tuple(template.words[at] for at in places) for template in like} | {tuple(words[at] for at in places)}
        if len(met) >= (_NAMES if all(_is_name(word) for each in met for word in each) else _ANY):
            return like, set(places)
    return [], set()


def _differing_positions(template: list[str], words: list[str]) -> frozenset[int]:
    """The positions where they differ, including those where the template varies."""
    return frozenset(at for at, (a, b) in enumerate(zip(template, words, strict=True)) if a != b)


def _is_name(word: str) -> bool:
    if word == WORD or len(word) > _MAX_NAME:
        return True
    return bool(_NAME.fullmatch(word)) and not _CODE.fullmatch(word)
