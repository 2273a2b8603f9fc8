"""Words that vary from message to message become one template; words that tell causes apart stay."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.fingerprint import mask
from sidecar.analysis.template_tree import MAX_NODES, MAX_TEMPLATES, WORD, TemplateTree

WORDS = st.lists(
    st.sampled_from(["worker", "Ann", "Bob", "Cy", "Dee", "Eve", "is", "not", "here", "<num>", "a.b"]), max_size=7
)
MESSAGES = st.lists(WORDS.map(" ".join), max_size=60)
LOWER = ["red", "blue", "green", "white", "black", "pink", "grey", "brown", "gold"]


def found(tree: TemplateTree, messages: list[str]) -> list[tuple[str, str]]:
    return [tree.find("/fill", "", message, f"id of {message}") for message in messages]


def test_three_names_are_three_and_four_are_one_template() -> None:
    """Names count sooner than other words; the template goes by its first message's id."""
    tree = TemplateTree()
    messages = ["worker Ann is busy", "worker O'Neil is busy", "worker ann.lee is busy", "worker Bob is busy"]
    assert [template for _, template in found(tree, messages)] == [*messages[:3], f"worker {WORD} is busy"]
    assert found(tree, messages) == [("id of worker Ann is busy", f"worker {WORD} is busy")] * 4


def test_plain_words_tell_causes_apart_until_there_are_eight() -> None:
    """`slow` and `down` are two causes; eight colours are a parameter."""
    tree = TemplateTree()
    found(tree, ["shard <num> is slow", "shard <num> is down", "shard <num> is full"])
    assert tree.merges == 0
    found(tree, [f"the {word} van broke down" for word in LOWER[:7]])
    assert tree.merges == 0
    assert found(tree, ["the gold van broke down"]) == [("id of the red van broke down", f"the {WORD} van broke down")]
    assert len(tree.take_renamed()) == 6


@pytest.mark.parametrize(
    "codes",
    [["ECONNREFUSED", "ETIMEDOUT", "EPIPE", "ECONNRESET"], ["OOMKilled", "CrashLoopBackOff", "Evicted", "Error"]],
)
def test_codes_are_no_names(codes: list[str]) -> None:
    """Error codes in capitals or camel case stay causes of their own."""
    tree = TemplateTree()
    found(tree, [f"connect to <ip> failed with {code} again" for code in codes])
    assert tree.merges == 0


def test_two_places_may_vary_together() -> None:
    """A person and a city in one message; a third place does not join them."""
    tree = TemplateTree()
    pairs = [("Ann", "Reno"), ("Bob", "Elko"), ("Cy", "Mesa"), ("Dee", "Provo")]
    last = found(tree, [f"worker {name} has no car in {city}" for name, city in pairs])[-1]
    assert last == ("id of worker Ann has no car in Reno", f"worker {WORD} has no car in {WORD}")
    tree = TemplateTree()
    found(tree, [f"worker {name} has no car in {city} on {name}" for name, city in pairs])
    assert tree.merges == 0


def test_short_messages_are_never_merged() -> None:
    """With fewer than three words for a place that varies, too little is left to say that they are the same."""
    tree = TemplateTree()
    found(tree, [f"{verb} {name}" for verb in ("ask", "tell") for name in ("Ann", "Bob", "Cy", "Dee", "Eve")])
    assert tree.merges == 0


@given(MESSAGES)
def test_the_same_messages_in_the_same_order_give_the_same_templates(messages: list[str]) -> None:
    """Also when the tree was saved and restored in between."""
    half = len(messages) // 2
    one, other, restored = TemplateTree(), TemplateTree(), TemplateTree()
    first = found(one, messages[:half])
    assert first == found(other, messages[:half])
    for _ in other.prepare():
        pass
    saved = other.take_dirty()
    restored.load(saved)
    assert found(one, messages[half:]) == found(restored, messages[half:])
    assert restored.unusable == 0


@given(MESSAGES)
def test_a_template_fits_its_message_and_masks_stay_masks(messages: list[str]) -> None:
    """Word by word it says the same or `<word>`, in two places at most; masking it changes nothing."""
    tree = TemplateTree()
    for message, (_, template) in zip(messages, found(tree, messages), strict=True):
        words, kept = message.split(" "), template.split(" ")
        assert len(words) == len(kept)
        assert all(after in (before, WORD) for before, after in zip(words, kept, strict=True))
        assert mask(template) == mask(mask(template))


@given(MESSAGES)
def test_a_known_message_changes_nothing(messages: list[str]) -> None:
    """What was found once is found again, and nothing more has to be saved."""
    tree = TemplateTree()
    found(tree, messages)
    settled = found(tree, messages)
    tree.take_dirty()
    version = tree.version
    assert found(tree, messages) == settled
    assert (tree.version, tree.take_dirty()) == (version, {})


@given(MESSAGES)
def test_renamed_ids_lead_to_the_ids_in_use(messages: list[str]) -> None:
    """Whoever joins incidents by them ends with the ids that the messages have now."""
    tree, now = TemplateTree(), dict[str, str]()
    for message in messages:
        given_out, _ = tree.find("/fill", "", message, f"id of {message}")
        renamed = tree.take_renamed()
        now = {known: renamed.get(tree_id, tree_id) for known, tree_id in now.items()}
        now[message] = given_out
    assert all(tree.find("/fill", "", message, f"id of {message}")[0] == known for message, known in now.items())


def test_endpoint_and_error_type_are_kept_apart() -> None:
    """The same words of another endpoint or code are no evidence."""
    tree = TemplateTree()
    for number, name in enumerate(("Ann", "Bob", "Cy", "Dee")):
        tree.find(f"/{number % 2}", str(number // 2), f"worker {name} is busy", name)
    assert tree.merges == 0


def test_messages_without_end_stay_within_bounds() -> None:
    """Nodes and templates have their limits, and what had to go is counted."""
    tree, dice = TemplateTree(), Random(1)
    for number in range(3000):
        tree.find("/fill", "", f"w{number} " + "x" * 5, f"a{number}")
        tree.find("/fill", "", "one " + " ".join(dice.choices(LOWER, k=12)), f"b{number}")
    nodes = tree._nodes.rows()
    assert len(nodes) <= MAX_NODES
    assert max(len(node.templates) for node in nodes) <= MAX_TEMPLATES
    assert tree.evicted > 0
    assert tree.forgotten > 0


def test_a_word_made_to_be_slow_is_a_name() -> None:
    """A word of a thousand characters is no word of a language, and is not looked at twice."""
    tree = TemplateTree()
    long = ["a_" * 480 + str(number) + "é!" for number in range(5)]
    ids = {each for each, _ in found(tree, [f"no such file {word}" for word in long])[3:]}
    assert len(ids) == 1
