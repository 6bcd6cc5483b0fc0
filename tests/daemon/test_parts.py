"""The parts at work follow the configuration, whatever it turns into: real parts over a real spool, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd import clock, config, destinations, pulse
from relayd.config import Loaded
from relayd.destinations.webhook import Webhook
from relayd.errors import ConfigError, SpoolError
from relayd.faults import HealthConfig
from relayd.generation import Builder
from relayd.lookout import Lookout
from relayd.operations import Operations
from relayd.parts import RunningParts
from relayd.pausing import Pausing
from relayd.plan import Key, plan_of
from relayd.spool import Spool, SpoolConfig
from tests.patience import PATIENT_SECONDS

Choice = Mapping[str, Any]


def written(folder: Path, choice: Choice) -> str:
    """A configuration out of what was chosen: part → a setting of it, None: absent. Brokers are never reached."""
    lines = [f'[spool]\npath = "{folder / "spool"}"\nmin_free = "1MB"\nkeep_dead = "{choice["keep"]}d"']
    lines.append(f'[device]\nid = "d{choice["device"]}"')
    if choice["location"] and choice["broker a"]:
        lines.append('location_topic = { broker = "a", topic = "gps" }')
    for name in "ab":
        if choice[f"broker {name}"]:
            lines.append(f'[broker.{name}]\nurl = "mqtt://127.0.0.1:9"\nkeepalive = "{choice[f"broker {name}"]}s"')
        if choice[f"topic {name}"] and choice[f"broker {name}"]:
            source = f'[source.topic-{name}]\ntype = "mqtt"\nbroker = "{name}"\ntopics = ["{choice[f"topic {name}"]}"]'
            lines += [source, f'[destination.to-{name}]\ntype = "mqtt"\nbroker = "{name}"']
    if choice["fleet"] and choice["broker b"]:
        lines.append(f'[fleet]\nbroker = "b"\nhealth_every = "{choice["fleet"]}s"')
    if choice["folder"]:
        lines.append(f'[source.drop]\ntype = "folder"\npath = "{folder / "drop"}"\nsettle = "{choice["folder"]}s"')
    if choice["hook"]:
        lines.append(f'[destination.hook]\ntype = "webhook"\nurl = "http://127.0.0.1:{choice["hook"]}/"')
    if choice["own"]:
        lines.append('[[rule]]\nname = "own"\nfrom = ["relayd"]')
    if choice["watch"]:
        lines.append("[reload]\nwatch = true")
    return "\n".join(lines)


maybe = st.sampled_from([None, 1, 2])
CHOICES = st.fixed_dictionaries(
    {
        "keep": st.integers(1, 2),
        "device": st.integers(1, 2),
        "location": st.booleans(),
        "watch": st.booleans(),
        "own": st.booleans(),
        **dict.fromkeys(("topic a", "topic b", "fleet", "folder", "hook"), maybe),
        **{f"broker {name}": st.sampled_from([None, 31, 32]) for name in "ab"},
    }
)


def loaded(folder: Path, choice: Choice) -> Loaded:
    file = folder / "relayd.toml"
    file.write_text(written(folder, choice))
    return config.load([file])


async def nothing_to_watch() -> None:
    await asyncio.Event().wait()


def no_settings() -> HealthConfig:
    return HealthConfig()


@asynccontextmanager
async def running_parts(folder: Path) -> AsyncIterator[RunningParts]:
    (folder / "spool").mkdir(exist_ok=True)
    spool = await Spool.open(SpoolConfig.model_validate({"path": folder / "spool", "min_free": "1MB"}), now=clock.now())
    try:
        async with asyncio.TaskGroup() as tasks:

            async def no_snapshot() -> Any:
                raise AssertionError("nobody is there to be told")

            lookout = Lookout(spool, no_snapshot, no_settings)
            operations = Operations(spool, lambda: running.parts, no_snapshot)
            running = RunningParts(tasks, spool, Builder(spool, operations, lookout, "session"), nothing_to_watch)
            yield running
            await running.end()
    finally:
        await spool.close()


def things(running: RunningParts) -> dict[Key, object]:
    """The object behind each part."""
    parts = running.parts
    found: dict[Key, object] = {Key("broker", name): each for name, each in parts.brokers.items()}
    found |= {Key("source", name): each for name, each in parts.sources.items()}
    found |= {Key("destination", name): each for name, each in parts.destinations.items()}
    if running.reporter is not None:
        found[Key("fleet")] = running.reporter
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=st.lists(CHOICES, min_size=2, max_size=8))
async def test_whatever_the_configuration_turns_into_just_its_parts_run_and_the_unchanged_are_the_same(
    tmp_path: Path, choices: Sequence[Choice]
) -> None:
    others = asyncio.all_tasks()
    async with running_parts(tmp_path) as running:
        plan: Mapping[Key, object] = {}
        objects: dict[Key, object] = {}
        for choice in choices:
            wanted = loaded(tmp_path, choice)
            await running.change_to(wanted)
            before, plan = plan, plan_of(wanted.config)
            assert running.keys == {key for key in plan if key.kind != "location"}
            present = things(running)
            for key in present.keys() & objects.keys():
                assert (present[key] is objects[key]) == (before[key] == plan[key]), key
            for name, broker in running.parts.brokers.items():
                topics = {pattern for one in broker.subscriptions for pattern in one.filters}
                assert topics == expected_topics(choice, name)
            objects = present
            await asyncio.sleep(0)
    assert asyncio.all_tasks() - others == set()


def expected_topics(choice: Choice, broker: str) -> set[str]:
    topics = {str(choice[f"topic {broker}"])} if choice[f"topic {broker}"] else set()
    if broker == "a" and choice["location"]:
        topics.add("gps")
    if broker == "b" and choice["fleet"]:
        topics.add(f"relayd/v1/d{choice['device']}/command/+")
    return topics


SOME: Choice = {
    **dict.fromkeys(("topic b", "broker b", "fleet", "watch", "own", "location"), None),
    "keep": 1,
    "device": 1,
    "broker a": 31,
    "topic a": 1,
    "folder": 1,
    "hook": 9,
}


async def test_a_destination_that_cannot_be_built_refuses_the_whole_configuration_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Brittle(Webhook):
        def __init__(self, name: str, section: Any, surroundings: Any) -> None:
            super().__init__(name, section, surroundings)
            if ":8/" in section.url:
                raise RuntimeError("no such dongle")

    build = destinations.build
    monkeypatch.setattr(
        destinations,
        "build",
        lambda name, section, around: (Brittle if name == "hook" else build)(name, section, around),
    )
    async with running_parts(tmp_path) as running:
        await running.change_to(loaded(tmp_path, SOME))
        keys, objects, broker = running.keys, things(running), running.parts.brokers["a"]
        wanted = loaded(tmp_path, {**SOME, "hook": 8, "topic a": 2, "folder": None})
        with pytest.raises(ConfigError) as refused:
            await running.change_to(wanted)
        line = next(
            n for n, text in enumerate(wanted.files[0].read_text().splitlines(), 1) if "destination.hook" in text
        )
        assert str(refused.value) == (
            f"{wanted.files[0]}:{line}: destination.hook: cannot be put to work: RuntimeError: no such dongle"
        )
        assert running.keys == keys
        assert things(running) == objects
        assert {pattern for one in broker.subscriptions for pattern in one.filters} == {"1"}
        await running.change_to(loaded(tmp_path, {**SOME, "hook": 7}))
        assert things(running)[Key("broker", "a")] is broker


async def test_a_pause_by_hand_outlives_the_change_of_its_destination(tmp_path: Path) -> None:
    async with running_parts(tmp_path) as running:
        await running.change_to(loaded(tmp_path, SOME))
        running.parts.workers["hook"].hold()
        await running.change_to(loaded(tmp_path, {**SOME, "hook": 7}))
        assert running.parts.workers["hook"].view().state == "paused"


async def test_a_source_paused_by_hand_stays_so_when_it_is_changed_or_built_anew(tmp_path: Path) -> None:
    async with running_parts(tmp_path) as running:
        await running.change_to(loaded(tmp_path, SOME))
        pausing = Pausing(running.spool, lambda: running.parts.workers, lambda: running.parts.sources)
        for name in ("drop", "topic-a"):
            assert (await pausing.pause(name))["paused"] == [name]
        await running.change_to(loaded(tmp_path, {**SOME, "folder": 7, "topic a": 7}))
        assert [running.parts.sources[name].view().state for name in ("drop", "topic-a")] == ["paused"] * 2
        assert not running.parts.brokers["a"].subscriptions
        await running.change_to(loaded(tmp_path, {**SOME, "folder": None}))
        await running.change_to(loaded(tmp_path, SOME))
        assert running.parts.sources["drop"].view().state == "paused"
        assert await pausing.resume("drop") == {"resumed": ["drop"]}
        await running.change_to(loaded(tmp_path, {**SOME, "folder": 7}))
        assert running.parts.sources["drop"].view().state != "paused"


async def test_limits_of_the_spool_hold_from_the_reload_on(tmp_path: Path) -> None:
    async with running_parts(tmp_path) as running:
        await running.change_to(loaded(tmp_path, SOME))
        file = tmp_path / "relayd.toml"
        file.write_text(written(tmp_path, SOME).replace('min_free = "1MB"', 'min_free = "1MB"\nmax_size = "5MB"'))
        await running.change_to(config.load([file]))
        assert running.spool.counters.max_bytes == 5_000_000


async def test_every_part_with_a_loop_of_its_own_beats_and_no_longer_once_it_has_ended(tmp_path: Path) -> None:
    """A topic has none: its messages are brought by the broker's. Nor has a folder: one that hangs restarts nothing."""
    with pulse.registry() as heartbeats:
        async with running_parts(tmp_path) as running:
            await running.change_to(loaded(tmp_path, {**SOME, "own": True}))
            loops = {"housekeeping", "incidents", "source relayd", "destination hook", "broker a"}
            async with asyncio.timeout(PATIENT_SECONDS):
                while not loops <= heartbeats.due.keys():  # noqa: ASYNC110 - a beat wakes nobody
                    await asyncio.sleep(0.01)
            assert "source drop" not in heartbeats.due
            await running.change_to(loaded(tmp_path, {**SOME, "hook": None}))
            async with asyncio.timeout(PATIENT_SECONDS):
                while "destination hook" in heartbeats.due:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        assert heartbeats.due == {}


async def test_a_read_that_fails_while_another_configuration_is_loaded_refuses_it_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(spool: Spool, key: str) -> str | None:
        raise SpoolError("disk I/O error")

    nothing = dict.fromkeys(("topic a", "topic b", "fleet", "folder", "hook", "broker a", "broker b"))
    few = {**nothing, "keep": 1, "device": 1, "location": False, "watch": False, "own": False}
    async with running_parts(tmp_path) as running:
        await running.change_to(loaded(tmp_path, few))
        before = things(running)
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "note", fails)
            with pytest.raises(ConfigError, match="disk I/O error"):
                await running.change_to(loaded(tmp_path, {**few, "hook": 1}))
        assert things(running) == before
        await running.change_to(loaded(tmp_path, {**few, "hook": 1}))
        assert "hook" in running.parts.destinations
