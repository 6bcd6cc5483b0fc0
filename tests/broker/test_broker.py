"""The broker connection, against a real mosquitto."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from relayd.broker import Message, Will
from relayd.errors import Rejected, TryAgain, Unavailable
from tests.broker.conftest import broker_at, collector, running, until
from tests.broker.mosquitto import Mosquitto
from tests.patience import PATIENT_SECONDS


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_what_is_published_arrives_with_every_protocol_and_quality(
    mosquitto: Mosquitto, protocol: str, qos: int
) -> None:
    broker, got = broker_at(mosquitto.url, protocol=protocol), list[Any]()
    broker.subscribe(["a/+"], collector(got), name="test", qos=qos)
    async with running(broker):
        assert broker.version == protocol
        assert await broker.publish("a/b", b"\x00\xff", qos=qos) == 0
        await until(lambda: got, "it arrived")
        assert (got[0].topic, got[0].payload, got[0].qos) == ("a/b", b"\x00\xff", qos)


async def test_what_was_not_acknowledged_comes_again_in_order_and_marked(mosquitto: Mosquitto) -> None:
    broker, got = broker_at(mosquitto.url), list[Message]()

    async def refuse(message: Message) -> None:
        got.append(message)
        raise Unavailable("the disk is full")

    broker.subscribe(["a"], refuse, name="test")
    async with running(broker):
        with suppress(Unavailable):
            for number in range(5):
                await broker.publish("a", b"%d" % number)
        await until(lambda: not broker.is_connected, "the connection is dropped")
        assert "the disk is full" in broker.view().reason
        assert broker.view().state == "waiting"
    first = len(got)
    again, taken = broker_at(mosquitto.url), list[Any]()
    again.subscribe(["a"], collector(taken), name="test")
    async with running(again):
        await until(lambda: taken, "it comes again")
        assert taken[0].payload == b"0"
        assert taken[0].is_redelivery
    assert first >= 1


async def test_acknowledgements_follow_the_order_in_which_messages_came(mosquitto: Mosquitto) -> None:
    broker = broker_at(mosquitto.url)
    gates = {b"%d" % number: asyncio.Event() for number in range(3)}
    confirmed: list[object] = []

    async def wait(message: Message) -> bytes:
        await gates[message.payload].wait()
        return message.payload

    broker.subscribe(["a"], wait, name="test", confirmed=confirmed.extend)
    async with running(broker):
        for payload in gates:
            await broker.publish("a", payload)
        gates[b"2"].set()
        gates[b"1"].set()
        gates[b"0"].set()
        await until(lambda: len(confirmed) == 3, "the broker has seen every acknowledgement")
        assert confirmed == [b"0", b"1", b"2"]


async def test_overlapping_subscriptions_give_each_taker_one_copy(mosquitto: Mosquitto) -> None:
    broker, one, two = broker_at(mosquitto.url), list[Any](), list[Any]()
    broker.subscribe(["a/+/c", "a/#"], collector(one), name="one")
    broker.subscribe(["a/b/+", "+/b/c"], collector(two), name="two", qos=2)
    async with running(broker):
        for number in range(3):
            await broker.publish("a/b/c", b"%d" % number)
        await broker.publish("a/end", b"")
        await until(lambda: len(one) == 4, "everything came")
        assert [message.payload for message in two] == [b"0", b"1", b"2"]
        assert len(one) == 4


async def test_a_message_that_waited_under_the_old_subscription_is_taken_after_an_overlapping_one_was_added(
    mosquitto: Mosquitto,
) -> None:
    before, one, two = broker_at(mosquitto.url), list[Any](), list[Any]()
    before.subscribe(["a/b/+"], collector([]), name="one")
    async with running(before):
        pass
    async with running(broker_at(mosquitto.url, "other")) as other:
        await other.publish("a/b/x", b"waited")
    after = broker_at(mosquitto.url)
    after.subscribe(["a/b/+"], collector(one), name="one")
    after.subscribe(["a/+/x"], collector(two), name="two")
    async with running(after):
        await after.publish("a/b/x", b"new")
        await after.publish("a/b/end", b"end")
        await until(lambda: len(one) == 3, "everything came")
        assert [message.payload for message in one] == [b"waited", b"new", b"end"]
        assert [message.payload for message in two] == [b"waited", b"new"]


async def test_a_plain_subscription_gets_what_the_shared_one_beside_it_gives_to_another_relay(
    mosquitto: Mosquitto,
) -> None:
    both, other = broker_at(mosquitto.url, "both"), broker_at(mosquitto.url, "other")
    plain, shared, elsewhere = list[Any](), list[Any](), list[Any]()
    both.subscribe(["$share/relays/a/#"], collector(shared), name="shared")
    both.subscribe(["a/#"], collector(plain), name="plain")
    other.subscribe(["$share/relays/a/#"], collector(elsewhere), name="shared")
    async with running(both), running(other):
        for number in range(20):
            await both.publish(f"a/{number}", b"")
        await until(lambda: len(plain) + len(shared) + len(elsewhere) >= 40, "everything came")
        assert len({message.topic for message in plain}) == len(plain) == 20
        assert len({message.topic for message in (*shared, *elsewhere)}) == len(shared) + len(elsewhere) == 20


async def test_shared_subscriptions_share(mosquitto: Mosquitto) -> None:
    first, second = broker_at(mosquitto.url, "one"), broker_at(mosquitto.url, "two")
    got: tuple[list[Any], list[Any]] = ([], [])
    for broker, into in zip((first, second), got, strict=True):
        broker.subscribe(["$share/relays/a/#"], collector(into), name="test")
    async with running(first), running(second):
        for number in range(20):
            await first.publish(f"a/{number}", b"")
        await until(lambda: len(got[0]) + len(got[1]) == 20, "each came to one of them")
        assert got[0]
        assert got[1]


async def test_reading_stops_while_too_much_waits(mosquitto: Mosquitto) -> None:
    broker, gate, got = broker_at(mosquitto.url, receive_maximum=10), asyncio.Event(), list[Message]()

    async def hold(message: Message) -> None:
        got.append(message)
        await gate.wait()

    broker.subscribe(["a"], hold, name="test")
    other = broker_at(mosquitto.url, "other")
    async with running(broker), running(other):
        for _ in range(200):
            await other.publish("a", b"x" * 100)
        await until(lambda: len(got) >= 10, "the window is full")
        assert len(got) == 10
        gate.set()
        await until(lambda: len(got) == 200, "the rest came")


async def test_a_burst_of_quality_zero_stays_within_the_byte_limit(mosquitto: Mosquitto) -> None:
    broker, gate, got = broker_at(mosquitto.url, max_waiting="100KB"), asyncio.Event(), list[Message]()

    async def hold(message: Message) -> None:
        got.append(message)
        await gate.wait()

    broker.subscribe(["a"], hold, name="test", qos=0)
    other = broker_at(mosquitto.url, "other")
    async with running(broker), running(other):
        for _ in range(100):
            await other.publish("a", b"x" * 10_000)
        await until(lambda: len(got) >= 9, "as much as fits")
        assert len(got) <= 10
        gate.set()
        await until(lambda: len(got) == 100, "the rest came")


@pytest.mark.parametrize(("protocol", "is_told"), [("5", False), ("3.1.1", True)])
async def test_a_packet_over_the_limit_is_skipped_and_the_rest_goes_on(
    mosquitto: Mosquitto, protocol: str, is_told: bool
) -> None:
    broker, got, skipped = broker_at(mosquitto.url, protocol=protocol, max_packet="10KB"), list[Any](), list[Any]()
    broker.subscribe(["a/#"], collector(got), name="test", on_skipped=lambda *words: skipped.append(words))
    other = broker_at(mosquitto.url, "other")
    async with running(broker), running(other):
        await other.publish("a/big", b"x" * 300_000)
        await other.publish("a/small", b"x")
        await until(lambda: got, "the small one came")
        assert [message.topic for message in got] == ["a/small"]
        assert [topic for topic, _ in skipped] == (["a/big"] if is_told else [])
        assert broker.is_connected
    again, second = broker_at(mosquitto.url, protocol=protocol, max_packet="10KB"), list[Any]()
    again.subscribe(["a/#"], collector(second), name="test", on_skipped=lambda *words: skipped.append(words))
    async with running(again):
        await other_publish(mosquitto, "a/last")
        await until(lambda: second, "the last one came")
        assert [message.topic for message in second] == ["a/last"]


async def other_publish(mosquitto: Mosquitto, topic: str) -> None:
    async with running(broker_at(mosquitto.url, "another")) as another:
        await another.publish(topic, b"")


async def test_a_broker_that_comes_back_without_memory_is_told_so_and_hooks_publish_again(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path / "forgetful", is_persistent=False).start()
    broker, sessions = broker_at(mosquitto.url), list[bool]()

    async def born(is_session_present: bool) -> None:
        sessions.append(is_session_present)
        await broker.publish("state", b"online", retain=True)

    broker.on_connected(born)
    try:
        async with running(broker):
            await until(lambda: len(sessions) == 1, "born")
            mosquitto.kill()
            await until(lambda: not broker.is_connected, "the loss is noticed")
            mosquitto.start()
            await until(lambda: len(sessions) == 2, "born again")
            assert sessions == [False, False]
            seen: list[Any] = []
            reader = broker_at(mosquitto.url, "reader")
            reader.subscribe(["state"], collector(seen), name="test")
            async with running(reader):
                await until(lambda: seen, "the retained topic is back")
                assert (seen[0].payload, seen[0].is_retained) == (b"online", True)
    finally:
        mosquitto.kill()


async def test_the_session_is_kept_across_a_restart_of_both(mosquitto: Mosquitto) -> None:
    broker = broker_at(mosquitto.url)
    broker.subscribe(["a"], collector([]), name="test")
    async with running(broker):
        pass
    other = broker_at(mosquitto.url, "other")
    async with running(other):
        await other.publish("a", b"while away")
    mosquitto.stop()
    mosquitto.start()
    again, got, sessions = broker_at(mosquitto.url), list[Any](), list[bool]()

    async def note(is_session_present: bool) -> None:
        sessions.append(is_session_present)

    again.subscribe(["a"], collector(got), name="test")
    again.on_connected(note)
    async with running(again):
        await until(lambda: got and sessions, "what came while away")
        assert got[0].payload == b"while away"
        assert sessions == [True]


async def test_what_waited_at_the_broker_can_be_answered_before_everything_is_asked_for_and_is_known_to_be_old(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = broker_at(mosquitto.url), broker_at(mosquitto.url, "other")
    first.subscribe(["ask"], collector([]), name="test")
    async with running(first) as broker:
        assert not broker.may_bring_old, "nothing waits for who was never there"
    answers: list[Any] = []
    other.subscribe(["answer"], collector(answers), name="test")
    async with running(other):
        await other.publish("ask", b"?")
        again, old = broker_at(mosquitto.url), list[bool]()
        ask_for_everything = again._grants.ask_for_everything

        async def answer(message: Message) -> None:
            old.append(again.may_bring_old)
            await again.publish("answer", b"!")

        async def late(*connection: Any) -> None:
            await until(lambda: old, "the question is there before")
            await until(lambda: answers, "the answer has arrived")
            await ask_for_everything(*connection)

        monkeypatch.setattr(again._grants, "ask_for_everything", late)
        again.subscribe(["ask"], answer, name="test")
        async with running(again):
            assert (old, [each.payload for each in answers]) == ([True], [b"!"])
            assert again.may_bring_old
            monkeypatch.setattr("relayd.broker.OLD_SECONDS", 0.0)
            assert not again.may_bring_old


async def test_a_kill_lets_the_will_out_and_a_stop_does_not(mosquitto: Mosquitto) -> None:
    seen: list[Any] = []
    watcher = broker_at(mosquitto.url, "watcher")
    watcher.subscribe(["state"], collector(seen), name="test")
    will = Will(topic="state", payload=json.dumps({"state": "offline", "session": "s1"}).encode())
    async with running(watcher):
        async with running(broker_at(mosquitto.url, will=will)):
            pass
        async with running(broker_at(mosquitto.url, will=will)) as broken:
            broken._connection[0].close()  # type: ignore[index]
            await until(lambda: seen, "the will is out")
        assert [json.loads(message.payload)["state"] for message in seen] == ["offline"]


async def test_publishing_without_a_connection_is_unavailable_with_the_reason() -> None:
    broker = broker_at("mqtt://127.0.0.1:9")
    async with running(broker, is_awaited=False):
        await until(lambda: "Connection refused" in broker.view().reason, "the reason is known")
        with pytest.raises(Unavailable, match="Connection refused"):
            await broker.publish("a", b"")


async def test_a_host_name_that_cannot_be_looked_up_is_said_and_tried_again() -> None:
    async with running(broker_at("mqtt://a..b"), is_awaited=False) as broker:
        await until(lambda: "a..b has no address" in broker.view().reason, "said")
        assert broker.view().state == "waiting"


async def test_a_connection_that_breaks_before_the_answer_is_unavailable(mosquitto: Mosquitto) -> None:
    async with running(broker_at(mosquitto.url)) as broker:
        mosquitto.freeze()
        publishing = asyncio.create_task(broker.publish("a", b""))
        await asyncio.sleep(0)
        mosquitto.kill()
        with pytest.raises(Unavailable):
            await publishing


@asynccontextmanager
async def slow_link(port: int, *, bytes_per_second: int = 10**9, answers: bool = True) -> AsyncIterator[str]:
    """The address of a way to the broker that is slow, or brings nothing back after the welcome."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        while data := await reader.read(10_000):
            if is_up or answers or data[0] >> 4 == 2:
                writer.write(data)
            if is_up:
                await asyncio.sleep(len(data) / bytes_per_second)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, away = await asyncio.open_connection("127.0.0.1", port)
        ways = [
            asyncio.create_task(carry(reader, away, is_up=True)),
            asyncio.create_task(carry(there, writer, is_up=False)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (away, writer):
            end.close()
            with suppress(OSError):
                await end.wait_closed()
        ended.set()

    ended = asyncio.Event()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sock.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(serve, sock=sock, limit=4096)
    try:
        yield f"mqtt://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.close()
        await ended.wait()


async def test_a_message_that_a_slow_link_carries_longer_than_an_answer_may_take_is_published_once(
    mosquitto: Mosquitto,
) -> None:
    got: list[Any] = []
    other = broker_at(mosquitto.url, "other")
    other.subscribe(["a"], collector(got), name="test")
    port = int(mosquitto.url.rpartition(":")[2])
    async with running(other), slow_link(port, bytes_per_second=100_000) as url:
        async with running(broker_at(url, connect_timeout="500ms")) as broker:
            assert await broker.publish("a", b"x" * 300_000) == 0
        assert len(got) == 1


async def test_a_broker_that_never_answers_is_unavailable_however_much_else_is_sent(mosquitto: Mosquitto) -> None:
    port = int(mosquitto.url.rpartition(":")[2])
    async with slow_link(port, answers=False) as url, running(broker_at(url, connect_timeout="500ms")) as broker:
        published = asyncio.create_task(broker.publish("a", b"x"))
        async with asyncio.timeout(PATIENT_SECONDS):
            while not published.done():
                await broker.publish("b", b"x" * 100, qos=0)
                await asyncio.sleep(0.02)
        with pytest.raises(Unavailable, match="no answer"):
            await published


@pytest.mark.parametrize("topic", ["", "a/#", "a/+", "a\0b"])
async def test_what_is_no_topic_is_rejected(mosquitto: Mosquitto, topic: str) -> None:
    async with running(broker_at(mosquitto.url)) as broker:
        with pytest.raises(Rejected):
            await broker.publish(topic, b"")


async def test_a_message_over_the_limit_is_rejected_before_it_is_sent(mosquitto: Mosquitto) -> None:
    async with running(broker_at(mosquitto.url, max_packet="10KB")) as broker:
        with pytest.raises(Rejected, match="more than a packet"):
            await broker.publish("a", b"x" * 10_001)
        assert await broker.publish("a", b"x" * 9_000) in (0, 16)


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    """Everybody may do everything below `open/`, nothing elsewhere."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite open/#\n")
    acl.chmod(0o600)
    broker = Mosquitto(tmp_path / "guarded", options=f"acl_file {acl}").start()
    yield broker
    broker.kill()


@pytest.fixture
def choosy(tmp_path: Path) -> Any:
    """Subscriptions below `open/` only: mosquitto 2.0 checks them in its plugin, not in its access list."""
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    rules = tmp_path / "rules.json"
    rules.write_text(
        json.dumps(
            {
                "defaultACLAccess": {
                    "publishClientSend": True,
                    "publishClientReceive": True,
                    "subscribe": False,
                    "unsubscribe": True,
                },
                "clients": [],
                "roles": [
                    {"rolename": "open", "acls": [{"acltype": "subscribePattern", "topic": "open/#", "allow": True}]}
                ],
                "groups": [{"groupname": "all", "roles": [{"rolename": "open"}]}],
                "anonymousGroup": "all",
            }
        )
    )
    options = f"plugin {plugin}\nplugin_opt_config_file {rules}"
    broker = Mosquitto(tmp_path / "choosy", options=options).start()
    yield broker
    broker.kill()


@pytest.mark.parametrize("qos", [1, 2])
async def test_a_publish_that_the_access_list_refuses_is_no_success(guarded: Mosquitto, qos: int) -> None:
    async with running(broker_at(guarded.url)) as broker:
        with pytest.raises((TryAgain, Unavailable) if qos == 2 else TryAgain):  # mosquitto 2.0 hangs up on QoS 2
            await broker.publish("closed/a", b"", qos=qos)
        await until(lambda: not broker.is_connected, "mosquitto 2.0 hangs up after a refusal")
        await until(lambda: broker.is_connected, "connected again")
        assert await broker.publish("open/a", b"", qos=qos) in (0, 16)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_refused_subscription_is_a_fault_and_the_others_go_on(choosy: Mosquitto, protocol: str) -> None:
    broker, got = broker_at(choosy.url, protocol=protocol), list[Any]()
    bad = broker.subscribe(["closed/#"], collector([]), name="bad")
    good = broker.subscribe(["open/#"], collector(got), name="good")
    async with running(broker):
        assert broker.view().state == "fault"
        assert "'closed/#' is refused" in broker.view().reason
        assert "refused" in bad.reason
        assert good.reason == ""
        await broker.publish("open/a", b"")
        await until(lambda: got, "the other one works")


async def test_a_message_comes_by_the_granted_subscription_where_an_overlapping_one_is_refused(
    choosy: Mosquitto,
) -> None:
    broker, got = broker_at(choosy.url), list[Any]()
    broker.subscribe(["+/b/x"], collector([]), name="bad")
    broker.subscribe(["open/#"], collector(got), name="good")
    async with running(broker):
        await broker.publish("open/b/x", b"")
        await until(lambda: got, "it came")


async def test_messages_that_nobody_wants_any_more_are_let_go_and_said(mosquitto: Mosquitto) -> None:
    before = broker_at(mosquitto.url)
    before.subscribe(["old/#"], collector([]), name="test")
    async with running(before):
        pass
    after, got = broker_at(mosquitto.url), list[Any]()
    after.subscribe(["new/#"], collector(got), name="test")
    async with running(after):
        await after.publish("old/a", b"")
        await after.publish("new/a", b"")
        await until(lambda: got, "the wanted one came")
        assert [message.topic for message in got] == ["new/a"]


async def test_two_relays_with_one_client_id_are_told_apart_by_the_fault(mosquitto: Mosquitto) -> None:
    one, two = broker_at(mosquitto.url), broker_at(mosquitto.url)
    async with running(one), running(two):
        await until(lambda: "use the client id" in one.view().reason, "the fault is said")
        assert one.view().state == "fault"
