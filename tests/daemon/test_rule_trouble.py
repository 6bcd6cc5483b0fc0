"""What of a rule fails when an item comes, or when it is tried, is seen on that item and stops nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.rig import Rig, picture
from tests.daemon.running import wait_for

CHANCE = random.Random(5)

CONDITION = """
[[rule]]
name = "only from the gate"
from = ["camera"]
when = "item.topic.startswith('gate')"
priority = "high"
deliver = [ { to = "rapidsos" } ]
"""
TEXT = """
[[rule]]
name = "with its topic"
from = ["camera"]
priority = "high"
deliver = [ { to = "rapidsos", file_name = "{{ item.topic.upper() }}" } ]
"""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.stop()


def ended(rig: Rig) -> list[dict[str, Any]]:
    """The items, once none of them waits."""
    items: list[dict[str, Any]] = rig.json("items")["items"]
    return items if items and all(item["state"] != "pending" for item in items) else []


def test_a_condition_that_fails_is_seen_on_the_item_also_after_a_restart_and_the_other_rules_apply(rig: Rig) -> None:
    rig.config.write_text(rig.config.read_text() + CONDITION)
    rig.start_sandbox()
    rig.start()
    rig.drop_file("gate.jpg", picture(CHANCE, 2_000))
    item = wait_for(lambda: ended(rig), "it is delivered")[0]
    rig.kill_relay()
    rig.start()
    assert (item["state"], [one["rule"] for one in item["deliveries"]]) == ("delivered", ["everything"])
    shown = rig.json("items", "show", item["id"])
    assert shown["trouble"] == item["trouble"]
    (sentence,) = shown["trouble"]
    assert sentence.startswith("rule 'only from the gate': its condition `item.topic.startswith('gate')` cannot be")
    for words in (["items", "show", item["id"]], ["why", item["id"]]):
        assert sentence in " ".join(rig.call(*words).output.split())
    assert "its rules could not do all that they say" in " ".join(rig.call("items").output.split())


def test_a_text_that_fails_when_it_is_tried_is_seen_on_the_item_and_the_rest_is_delivered(rig: Rig) -> None:
    rig.config.write_text(rig.config.read_text() + TEXT)
    rig.start_sandbox()
    rig.start()
    rig.drop_file("gate.jpg", picture(CHANCE, 2_000))
    rig.drop_file("yard.jpg", picture(CHANCE, 2_000))
    items = wait_for(lambda: len(ended(rig)) == 2 and ended(rig), "both have ended")
    for item in items:
        by_rule = {one["rule"]: one for one in item["deliveries"]}
        assert by_rule["everything"]["state"] == "delivered"
        failed = by_rule["with its topic"]
        assert failed["state"] == "dead"
        assert failed["reason"].startswith("rule 'with its topic': file_name: ")
        for words in (["items", "show", item["id"]], ["why", item["id"]]):
            assert failed["reason"] in " ".join(rig.call(*words).output.split())
    assert rig.json("status")["destinations"]["rapidsos"]["dead"] == 2
    assert json.loads(rig.call("items", "--json").stdout)["items"][0]["trouble"] == []
