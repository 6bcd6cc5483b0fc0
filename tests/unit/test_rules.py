"""Rules: which items go where, how, and how urgently."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.model import JSON, Device, Item, Kind, Location, Priority
from relayd.rendering import context, render
from relayd.rule_config import RuleConfig
from relayd.rules import RuleBook, compile_rules
from relayd.template_budget import TemplateError

DEVICE = Device(id="amb-0417", name="Ambulance 417", site="odense", location=Location(latitude=55.4, longitude=10.4))


def item(**changes: Any) -> Item:
    values: dict[str, Any] = {
        "id": "0000000000000001",
        "source": "front",
        "name": "a.jpg",
        "kind": Kind.MEDIA,
        "content_type": "image/jpeg",
        "size_bytes": 10,
        "sha256": "00",
        "md5": "00",
        "captured_at": 1_767_254_400.0,
        "accepted_at": 1_767_254_401.0,
    }
    return Item(**(values | changes))


def message(payload: bytes, **changes: Any) -> Item:
    return item(**({"kind": Kind.MESSAGE, "payload": payload, "source": "panic", "topic": "vehicle/panic"} | changes))


def book(*rules: dict[str, Any]) -> RuleBook:
    named = ({"name": f"rule {position}", "from": ["*"], **rule} for position, rule in enumerate(rules))
    return compile_rules([RuleConfig.model_validate(rule) for rule in named])


UPLOAD = {"to": "rapidsos", "action": "upload"}


def test_every_rule_that_matches_applies() -> None:
    decision = book(
        {"name": "one", "deliver": [UPLOAD]},
        {"name": "other source", "from": ["back"], "deliver": [{"to": "nobody", "action": "x"}]},
        {"name": "two", "from": ["front"], "deliver": [{"to": "disk", "action": "copy"}]},
    ).decide(item(), DEVICE)
    assert decision.matched == ("one", "two")
    assert [order.destination for order in decision.orders] == ["rapidsos", "disk"]
    assert decision.trouble == ()


def test_what_two_rules_ask_for_alike_is_ordered_once_at_the_more_urgent_priority() -> None:
    decision = book(
        {"name": "slow", "priority": "bulk", "deliver": [UPLOAD]},
        {"name": "fast", "priority": "high", "deliver": [UPLOAD]},
        {"name": "other name", "deliver": [{**UPLOAD, "file_name": "x"}]},
        {"name": "with follow-up", "deliver": [{**UPLOAD, "then": [{"to": "a", "action": "b"}]}]},
    ).decide(item(), DEVICE)
    assert [(order.rule, order.priority) for order in decision.orders] == [
        ("fast", Priority.HIGH),
        ("other name", Priority.NORMAL),
        ("with follow-up", Priority.NORMAL),
    ]
    assert decision.matched == ("slow", "fast", "other name", "with follow-up")


def test_priority_is_normal_unless_the_rule_says_otherwise() -> None:
    assert book({"deliver": [UPLOAD]}).decide(item(), DEVICE).orders[0].priority is Priority.NORMAL


def test_a_star_takes_from_every_source_but_the_relay_itself() -> None:
    rules = book({"deliver": [UPLOAD]})
    assert rules.decide(item(source="anything"), DEVICE).orders
    assert not rules.decide(item(source="relayd"), DEVICE).orders
    assert book({"from": ["relayd"], "deliver": [UPLOAD]}).decide(item(source="relayd"), DEVICE).orders


def test_arguments_stay_templates_and_follow_ups_stay_with_their_order() -> None:
    then = [{"to": "room", "action": "message", "text": "{{ receipt.uri }}"}]
    order = (
        book({"priority": "high", "deliver": [{**UPLOAD, "file_name": "{{ item.name }}", "then": then}]})
        .decide(item(), DEVICE)
        .orders[0]
    )
    assert order.arguments == {"file_name": "{{ item.name }}"}
    assert order.then[0].arguments == {"text": "{{ receipt.uri }}"}
    assert order.then[0].priority is Priority.HIGH


def test_a_condition_that_fails_is_visible_and_stops_neither_the_item_nor_the_other_rules() -> None:
    decision = book(
        {"name": "broken", "when": "payload.speed > 100", "deliver": [{"to": "a", "action": "b"}]},
        {"name": "fine", "deliver": [UPLOAD]},
    ).decide(message(b'{"velocity": 3}'), DEVICE)
    assert decision.matched == ("fine",)
    assert decision.trouble == (
        (
            "rule 'broken': its condition `payload.speed > 100` cannot be answered and counts as not matched:"
            ' there is no field "speed"'
        ),
    )


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        (b'{"pressed": true}', "payload.pressed"),
        (b"[1, 2]", "payload[1] == 2"),
        (b"ON", "payload == 'ON'"),
        (b"21.5", "payload > 21"),
        (b'{"a": NaN}', "'NaN' in payload"),
        (b"\xff\xfe", "payload is none"),
        (b"[" * 100_000, "payload is string"),
        (b'{"a": 1, "a": 2}', "payload.a == 2"),
        (b'{"items": 3}', "payload.items == 3"),
        (b"1" * 5000, "payload is string"),
    ],
)
def test_a_payload_is_json_or_text_or_nothing(payload: bytes, condition: str) -> None:
    assert book({"when": condition}).decide(message(payload), DEVICE).matched == ("rule 0",)


def test_conditions_see_item_device_location_and_incident() -> None:
    condition = (
        "item.kind == 'media' and item.size == 10 and item.captured_at == '2026-01-01T08:00:00.000Z' "
        "and item.camera == 'gate' and device.id == 'amb-0417' and location.latitude == 55.4 and not incident "
        "and payload is none and item.topic is none"
    )
    decision = book({"when": condition}).decide(item(attributes={"camera": "gate", "name": "forged"}), DEVICE)
    assert decision.trouble == ()
    assert decision.matched == ("rule 0",)


def test_an_attribute_never_replaces_a_field_of_the_item() -> None:
    assert context(item(attributes={"name": "forged"}), DEVICE)["item"]["name"] == "a.jpg"


def test_the_place_of_capture_comes_before_the_newest_fix_and_the_device() -> None:
    here, there = Location(latitude=1.0, longitude=2.0), Location(latitude=3.0, longitude=4.0)
    assert context(item(location=here), DEVICE, there)["location"]["latitude"] == 1.0
    assert context(item(), DEVICE, there)["location"]["latitude"] == 3.0
    assert context(item(), DEVICE)["location"]["latitude"] == 55.4
    assert context(item(), Device(id="x", name="x"))["location"] is None


def test_render_fills_in_every_text_however_deep_and_leaves_the_rest() -> None:
    arguments: dict[str, JSON] = {
        "text": "{{ item.name }}",
        "number": 3,
        "deep": {"list": ["{{ device.name }}", 1.5]},
        "flag": True,
    }
    assert render(arguments, context(item(), DEVICE)) == {
        "text": "a.jpg",
        "number": 3,
        "deep": {"list": ["Ambulance 417", 1.5]},
        "flag": True,
    }


def test_a_text_that_cannot_be_filled_in_names_its_argument() -> None:
    with pytest.raises(TemplateError, match='text: there is no field "uri"'):
        render({"text": "{{ receipt.uri }}"}, context(item(), DEVICE, receipt={}))


def test_a_receipt_is_only_there_in_follow_ups() -> None:
    with pytest.raises(TemplateError, match='there is no "receipt"'):
        render({"text": "{{ receipt.uri }}"}, context(item(), DEVICE))
    assert render({"text": "{{ receipt.uri }}"}, context(item(), DEVICE, receipt={"uri": "ref://1"}))


@pytest.mark.parametrize("hostile", ["{{ 7*7 }}", "{% for x in range(9) %}{% endfor %}", "{{ ''.__class__ }}"])
def test_payloads_names_and_receipts_are_data(hostile: str) -> None:
    seen = context(item(name=hostile, attributes={"camera": hostile}), DEVICE, receipt={"uri": hostile})
    arguments = {"a": "{{ item.name }}", "b": "{{ item.camera }}", "c": "{{ receipt.uri }}"}
    assert set(render(arguments, seen).values()) == {hostile}
    payload = f'{{"text": "{hostile}"}}'.encode()
    assert render({"a": "{{ payload.text }}"}, context(message(payload), DEVICE)) == {"a": hostile}


def test_only_a_rule_that_names_it_takes_from_the_relay_itself() -> None:
    everything = book({"from": ["*"], "deliver": [UPLOAD]})
    assert not everything.takes_from("relayd")
    assert book({"from": ["front", "relayd"], "deliver": [UPLOAD]}).takes_from("relayd")


def test_explain_says_for_each_rule_why() -> None:
    rules = book(
        {"name": "no condition"},
        {"name": "elsewhere", "from": ["back", "side"]},
        {"name": "false", "when": "item.size > 100"},
        {"name": "true", "when": "item.size < 100"},
        {"name": "trouble", "when": "payload.x"},
    )
    verdicts = [(verdict.is_match, verdict.is_trouble, verdict.reason) for verdict in rules.explain(item(), DEVICE)]
    assert verdicts == [
        (True, False, "it has no condition"),
        (False, False, "it takes from back, side, not from front"),
        (False, False, "`item.size > 100` does not hold"),
        (True, False, "`item.size < 100` holds"),
        (
            False,
            True,
            (
                "its condition `payload.x` cannot be answered and counts as not matched:"
                ' there is no field "x": the value before it is empty'
            ),
        ),
    ]
