"""The content of what was delivered: kept for a while, sent again if a person asks, gone first when room is needed."""

from __future__ import annotations

from pathlib import Path

from relayd.model import Item, Kind, Outcome, Priority, Receipt, State
from relayd.spool import Resent, Spool, Terms, Wanted, check
from relayd.spool.resending import find
from tests.spool.rig import DAY, NOW, adds_up, begun, config, media_names, message, opened, order

MB = 1_000_000
API = Terms(destination="api", priority=Priority.NORMAL, rule="by hand", never_late=("ptz",))


async def delivered(spool: Spool, *, kind: Kind = Kind.MEDIA, size: int = 10) -> Item:
    """An item that `api` has."""
    item = await spool.put(message(b"x" * size, kind=kind), [order("api")], now=NOW)
    await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof="p", fields={"uri": "u"}), now=NOW)
    return item


async def state_of(spool: Spool, item: Item) -> State:
    detail = await spool.item(item.id)
    assert detail is not None
    return detail.state


async def test_what_was_delivered_is_delivered_again_and_the_counters_add_up(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d")) as spool:
        item = await delivered(spool)
        done, is_more = await spool.resend([item.id], API, now=NOW + 10)
        assert (done, is_more) == ([Resent(item_id=item.id, name=item.name, actions=("upload",))], False)
        assert await state_of(spool, item) is State.PENDING
        assert (spool.counters.pending, spool.counters.delivered) == (1, 0)
        again = await begun(spool, now=NOW + 10)
        with spool.open_media(again.item.id) as media:
            assert media.read() == b"x" * 10
        assert (again.delivery.rule, again.steps) == ("by hand", {})
        await spool.record_delivered(again.delivery.id, Receipt(proof="q"), now=NOW + 11)
        detail = await spool.item(item.id)
        assert detail is not None
        assert detail.state is State.DELIVERED
        assert [it.proof for it in detail.deliveries] == ["p", "q"]
        assert spool.counters.destinations["api"].delivered == 2
        assert adds_up(spool)
    assert check(tmp_path / "spool").is_good


async def test_a_delivery_that_is_repeated_brings_no_follow_up_and_opens_nothing_anew(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d")) as spool:
        item = await spool.put(
            message(b"x", kind=Kind.MEDIA), [order("api", Priority.NORMAL, order("room", Priority.HIGH))], now=NOW
        )
        for to in ("api", "room"):
            it = await begun(spool, to)
            await spool.record_delivered(it.delivery.id, Receipt(proof="p", fields={"uri": to}), now=NOW)
        await spool.resend([item.id], API, now=NOW)
        await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof="p"), now=NOW)
        assert spool.counters.destinations["room"].pending == 0
        room = Terms(destination="room", priority=Priority.NORMAL, rule="by hand")
        assert (await spool.resend([item.id], room, now=NOW))[0][0].actions == ("upload",)
        assert (await begun(spool, "room")).delivery.parent_receipt == {"uri": "api"}


async def test_a_second_resend_while_the_first_is_under_way_changes_nothing(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d")) as spool:
        item = await delivered(spool)
        await spool.resend([item.id], API, now=NOW)
        done, _ = await spool.resend([item.id], API, now=NOW)
        assert done[0].why == "it is on its way there already"
        await spool.record_delivered((await begun(spool)).delivery.id, Receipt(proof="p"), now=NOW)
        done, _ = await spool.resend([item.id], API, now=NOW)
        assert done[0].actions == ("upload",)
        assert spool.counters.destinations["api"].pending == 1


async def test_of_each_item_that_is_not_sent_again_it_says_why(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1h"), collected=["panic"]) as spool:
        gone = await delivered(spool)
        await spool.free_delivered(now=NOW + 3600, keep_content=3600, keep_unclaimed=0)
        refused = await spool.put(message(kind=Kind.MEDIA), [order("api")], now=NOW)
        it = await begun(spool)
        await spool.record_ended(it.delivery.id, State.DEAD, Outcome.REJECTED, "no", now=NOW)
        elsewhere = await spool.put(message(kind=Kind.MEDIA), [order("nas")], now=NOW)
        await spool.record_delivered((await begun(spool, "nas")).delivery.id, Receipt(proof="p"), now=NOW)
        unwanted = await spool.put(message(kind=Kind.MEDIA), [], now=NOW)
        done, _ = await spool.resend([gone.id, refused.id, elsewhere.id, unwanted.id, "absent"], API, now=NOW)
        assert [one.why for one in done] == [
            "its content is no longer kept ([spool] keep_content)",
            "its delivery there is dead, `relayd retry` is for that",
            "it was never delivered there, but to nas",
            "it was never delivered there",
            "it is not in the spool",
        ]
        assert spool.counters.destinations["api"].pending == 0


async def test_what_is_never_done_late_is_not_sent_again(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d")) as spool:
        item = await delivered(spool)
        late = Terms(destination="api", priority=Priority.NORMAL, rule="by hand", never_late=("upload",))
        assert (await spool.resend([item.id], late, now=NOW))[0][0].why == "a upload is never done late"


async def test_items_are_found_by_name_time_and_source_over_more_than_a_page(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d")) as spool:
        for number in range(450):
            await spool.put(message(b"%d" % number), [order("api")], now=NOW + number)
        wanted = Wanted(text="PANIC", since=NOW + 100, until=NOW + 400, source="panic")
        done, is_more = await spool.resend(wanted, API, now=NOW + 500)
        assert (len(done), is_more) == (300, False)
        browse = spool._engine.browse
        for none in (Wanted(text="%", since=0), Wanted(since=NOW + 450), Wanted(since=0, source="cam")):
            assert await browse(find, none, after=0, limit=10) == []


async def test_content_goes_when_its_time_is_over_and_its_record_stays(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d")) as spool:
        item = await delivered(spool)
        assert await spool.free_delivered(now=NOW + DAY - 1, keep_content=DAY, keep_unclaimed=600) == 0
        assert media_names(spool.folder) == [item.id]
        assert await spool.free_delivered(now=NOW + DAY, keep_content=DAY, keep_unclaimed=600) == 1
        await spool._engine.settled()
        assert media_names(spool.folder) == []
        assert await state_of(spool, item) is State.DELIVERED
        assert spool.counters.bytes == 0
    assert check(tmp_path / "spool").is_good


async def test_what_an_incident_may_still_claim_is_kept_longer_than_what_may_be_sent_again(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1s"), collected=["panic"]) as spool:
        await delivered(spool)
        assert await spool.free_delivered(now=NOW + 599, keep_content=1, keep_unclaimed=600) == 0
        assert await spool.free_delivered(now=NOW + 600, keep_content=1, keep_unclaimed=600) == 1


async def test_without_keep_content_it_goes_with_the_delivery(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="0s")) as spool:
        await delivered(spool)
        await spool._engine.settled()
        assert media_names(spool.folder) == []


async def test_kept_content_goes_first_when_room_is_needed_and_nobody_is_told(tmp_path: Path) -> None:
    settings = config(tmp_path, keep_content="1d", max_size="10MB", when_full="wait")
    async with opened(settings, collected=["panic"]) as spool:
        spool.fleet.wants_events = True
        unclaimed = await spool.put(message(b"x" * MB, kind=Kind.MEDIA), [], now=NOW)
        kept = [await delivered(spool, size=MB) for _ in range(5)]
        owed = [await spool.put(message(b"x" * MB, kind=Kind.MEDIA), [order("nas")], now=NOW) for _ in range(6)]
        assert await state_of(spool, unclaimed) is State.UNCLAIMED
        details = [await spool.item(item.id) for item in kept]
        assert all(detail is not None and detail.state is State.DELIVERED for detail in details)
        assert sum(detail is not None and detail.has_content for detail in details) < 5
        assert spool.counters.evicted == 0
        assert {event.type for event in await spool.fleet.events(0, 100)} == {"delivered"}
        assert {await state_of(spool, item) for item in owed} == {State.PENDING}
        assert adds_up(spool)


async def test_kept_content_is_room_for_whoever_asks_how_full_the_spool_is(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d", max_size="10MB")) as spool:
        before = spool.room()
        item = await delivered(spool, size=2 * MB)
        assert before.left_bytes - spool.room().left_bytes < MB
        await spool.resend([item.id], API, now=NOW)
        assert before.left_bytes - spool.room().left_bytes > 2 * MB
        await spool.drop([item.id], now=NOW)
        assert before.left_bytes - spool.room().left_bytes < MB


async def test_some_room_is_made_of_kept_content_before_it_is_needed(tmp_path: Path) -> None:
    async with opened(config(tmp_path, keep_content="1d", max_size="40MB", when_full="wait")) as spool:
        for _ in range(28):
            await spool.put(message(b"x" * MB, kind=Kind.MEDIA), [order("nas")], now=NOW)
        it = await begun(spool, "nas")
        await spool.record_delivered(it.delivery.id, Receipt(proof="p"), now=NOW)
        assert await spool.evict_if_needed(now=NOW) == 1
        assert await spool.evict_if_needed(now=NOW) == 0
        await spool._engine.settled()
        assert it.item.id not in media_names(spool.folder)
        assert spool.counters.evicted == 0
