"""Loading, merging and drop-ins; what is good to know of a configuration without faults."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from relayd import __version__, config, destinations, sources
from relayd.config import merge
from relayd.config.locate import lines_of
from relayd.destinations.base import DestinationConfig
from relayd.errors import ConfigError, Problem
from relayd.links import Budget, Hours
from relayd.sources.base import SourceConfig

CONTRACT = Path(__file__).parent / "config_samples" / "contract.toml"
EXAMPLES = sorted((Path(__file__).parents[2] / "config" / "examples").glob("*.toml"))
MINIMAL = """\
[source.front]
type = "folder"
path = "/srv/front"
[destination.rapidsos]
type = "rapidsos"
url = "https://api.example.org"
client_id = "x"
client_secret = { env = "X" }
[[rule]]
name = "all"
from = ["front"]
deliver = [{ to = "rapidsos" }]
"""


def write(folder: Path, name: str, text: str) -> Path:
    place = folder / name
    place.write_text(text, encoding="utf-8")
    return place


def test_the_sample_of_the_contract_loads_with_every_key_of_it() -> None:
    loaded = config.load([CONTRACT]).config
    assert loaded.device.id == "amb-0417"
    assert loaded.device.as_device().location is not None
    assert loaded.spool.max_size == 20_000_000_000
    assert loaded.broker["fleet"].username == "amb-0417"
    assert loaded.fleet is not None
    assert loaded.fleet.commands == ("status", "pause", "resume", "retry", "flush")
    assert loaded.link["wwan0"].budget == Budget(500_000_000, "day", 86_400)
    assert loaded.link["wwan0"].hours == Hours(360, 1320)
    assert loaded.link["wwan0"].max_rate == 1_000_000
    assert [rule.name for rule in loaded.rule] == ["panic", "incident media", "gateway faults"]
    assert {name: one.type for name, one in loaded.destination.items()} == {
        "rapidsos": "rapidsos",
        "incidentshare": "incidentshare",
        "control-room": "sayvu",
        "status-page": "cachet",
        "watcher": "watcher",
    }


@pytest.mark.parametrize("place", EXAMPLES, ids=lambda place: place.stem)
def test_the_examples_load(place: Path) -> None:
    assert config.load([place]).config.rule


def test_an_action_that_is_the_only_one_is_filled_in(tmp_path: Path) -> None:
    loaded = config.load([write(tmp_path, "a.toml", MINIMAL)]).config
    assert loaded.rule[0].deliver[0].action == "upload"


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    loaded = config.load([write(tmp_path, "a.toml", MINIMAL)]).config
    with pytest.raises(ValidationError):
        loaded.device.name = "x"  # type: ignore[misc]


def test_the_device_has_the_host_name_unless_it_is_given_one(tmp_path: Path) -> None:
    device = config.load([write(tmp_path, "a.toml", "")]).config.device.as_device()
    assert device.id
    assert device.name == device.id


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    places = [write(tmp_path, "a.toml", MINIMAL), write(tmp_path, "b.toml", "[device]\nname = 'x'\n")]
    loaded = config.load(places)
    assert loaded.sha256 == hashlib.sha256(b"".join(place.read_bytes() for place in places)).hexdigest()
    assert loaded.files == tuple(places)


def test_drop_ins_merge_tables_append_rules_and_replace_the_rest(tmp_path: Path) -> None:
    first = write(tmp_path, "a.toml", MINIMAL + "[spool]\nmax_size = '1GB'\nmin_free = '2GB'\n[fleet]\nbroker='b'\n")
    second = write(
        tmp_path,
        "b.toml",
        "[spool]\nmax_size = '3GB'\n[source.front]\ninclude = ['*.jpg']\n[broker.b]\nurl = 'mqtt://localhost'\n"
        "[fleet]\ncommands = ['pause']\n[[rule]]\nname = 'more'\nfrom = ['front']\n",
    )
    loaded = config.load([first, second]).config
    assert (loaded.spool.max_size, loaded.spool.min_free) == (3_000_000_000, 2_000_000_000)
    assert loaded.source["front"].model_dump()["include"] == ("*.jpg",)
    assert loaded.fleet is not None
    assert loaded.fleet.commands == ("pause",)
    assert [rule.name for rule in loaded.rule] == ["all", "more"]


def test_a_fault_in_a_drop_in_is_said_in_the_right_file(tmp_path: Path) -> None:
    first = write(tmp_path, "a.toml", MINIMAL + "[spool]\nmax_size = 1\nmin_free = 2\n")
    second = write(
        tmp_path,
        "b.toml",
        "\n[spool]\nmax_size = 3\n[[rule]]\nname = 'b'\nfrom = ['x']\n"
        "[[rule]]\nname = 'c'\nfrom = ['y']\n[device]\nx=1\n",
    )
    with pytest.raises(ConfigError) as caught:
        config.load([first, second])
    assert [(Path(one.file).name, one.line, one.key) for one in caught.value.problems] == [
        ("a.toml", 15, "spool.min_free"),
        ("b.toml", 3, "spool.max_size"),
        ("b.toml", 6, "rule.b.from[1]"),
        ("b.toml", 9, "rule.c.from[1]"),
        ("b.toml", 11, "device.x"),
    ]


def test_the_systems_files_are_read_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conf.d"
    monkeypatch.setattr(merge, "MAIN_FILE", write(tmp_path, "relayd.toml", MINIMAL))
    monkeypatch.setattr(merge, "DROP_IN_FOLDER", folder)
    assert config.load(None).files == (tmp_path / "relayd.toml",)
    folder.mkdir()
    write(folder, "20-b.toml", "[device]\nname = 'b'\n")
    write(folder, "10-a.toml", "[device]\nname = 'a'\nsite = 'a'\n")
    write(folder, "30.toml.bak", "not read")
    loaded = config.load(None)
    assert [place.name for place in loaded.files] == ["relayd.toml", "10-a.toml", "20-b.toml"]
    assert (loaded.config.device.name, loaded.config.device.site) == ("b", "a")


def test_the_spools_place_is_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    bad = write(tmp_path, "bad.toml", "[spool]\npath = '/x/y'\nnonsense = 1\n[source]\n3 = 4\n")
    assert config.spool_path_of([bad]) == Path("/x/y")
    for text in ("spool = 3\n", "[spool]\npath = 3\n", "[spool\n", ""):
        assert config.spool_path_of([write(tmp_path, "odd.toml", text)]) == Path("/var/lib/relayd")
    assert config.spool_path_of([tmp_path / "none.toml"]) == Path("/var/lib/relayd")


# --- notices


def notices(folder: Path, text: str) -> list[str]:
    place = write(folder, "relayd.toml", text)
    return [notice.removeprefix(f"{place}:") for notice in config.load([place]).notices]


def test_what_has_no_effect_yet_is_said_plainly(tmp_path: Path) -> None:
    said = notices(tmp_path, MINIMAL + "[web]\nlisten = '127.0.0.1:1'\n[link.wwan0]\nmetered = true\n")
    assert said == [
        f"13: web: has no effect yet in relayd {__version__} (there is no web page)",
        f"15: link.wwan0: has no effect yet in relayd {__version__} (every link is used without limits)",
    ]


def test_a_configuration_without_rules_is_told_that_nothing_would_be_delivered(tmp_path: Path) -> None:
    said = notices(tmp_path, MINIMAL.partition("[[rule]]")[0])
    assert said == ["1: rule: there is no rule, so nothing would be delivered: write a [[rule]]"]


def test_rules_that_surprise_are_said(tmp_path: Path) -> None:
    text = MINIMAL.replace('["front"]', '["front"]\nwhen = "item.sha256 == \'x\'"').replace("deliver", "# deliver")
    said = notices(tmp_path, text + '[source.back]\ntype = "folder"\npath = "/srv/back"\n')
    assert said == [
        "9: rule.all: delivers nothing: write deliver = [{ to = … }]",
        "12: rule.all.when: item.sha256 is still empty when rules decide, before the item is stored",
        "14: source.back: no rule takes from it, so its items go nowhere",
    ]


def test_removing_emptied_folders_says_where_it_has_no_effect(tmp_path: Path) -> None:
    folder = '[source.more]\ntype = "folder"\npath = "/srv/more"\nremove_empty = "1d"\n'
    rule = '[[rule]]\nname = "more"\nfrom = ["more"]\ndeliver = [{ to = "rapidsos" }]\n'
    said = notices(tmp_path, MINIMAL + folder + rule)
    assert [text.partition(": ")[2] for text in said] == [
        "source.more.remove_empty: has no effect without recursive = true"
    ]
    said = notices(tmp_path, MINIMAL + folder + "recursive = true\nkeep_originals = true\n" + rule)
    assert "has no effect with keep_originals" in said[0]
    assert notices(tmp_path, MINIMAL + folder + "recursive = true\n" + rule) == []


def test_a_configuration_without_surprises_has_no_notices(tmp_path: Path) -> None:
    assert notices(tmp_path, MINIMAL) == []


# --- registries


@pytest.mark.parametrize("kind", destinations.known_types())
def test_every_type_of_destination_has_its_models(kind: str) -> None:
    models = destinations.models(kind)
    assert issubclass(models.config, DestinationConfig)
    assert models.config.model_fields["type"].annotation is not str
    assert models.actions


@pytest.mark.parametrize("kind", sources.known_types())
def test_every_type_of_source_has_its_model(kind: str) -> None:
    assert issubclass(sources.config_model(kind), SourceConfig)


# --- any text at all


def test_lines_are_found_however_keys_are_written() -> None:
    text = (
        b'a.b = 1\n"x y".\'z.w\' = { k = 1, q = [1,\n {w=2}] }\n[t."q.r"]\ns = 1\n[[r]]\nn = 1\n[[r]]\nn = 2\n'
        b"[r.sub]\nm = 1\n[[r.list]]\nv = 1\n[[r.list]]\nv = 2\n[t]\nu = 1\n"
    )
    lines = lines_of(text)
    assert lines["a", "b"] == 1
    assert lines["x y", "z.w", "q", 1, "w"] == 3
    assert lines["t", "q.r", "s"] == 5
    assert (lines["r", 0, "n"], lines["r", 1, "n"]) == (7, 9)
    assert lines["r", 1, "sub", "m"] == 11
    assert (lines["r", 1, "list", 0, "v"], lines["r", 1, "list", 1, "v"]) == (13, 15)
    assert lines["t",] == 16


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in pairs for found in ((*path, key), *_paths(inner, (*path, key)))]


@pytest.mark.parametrize("place", [CONTRACT, *EXAMPLES], ids=lambda place: place.stem)
def test_every_key_of_a_file_has_a_line(place: Path) -> None:
    lines = lines_of(place.read_bytes())
    written = place.read_text(encoding="utf-8").splitlines()
    for path in _paths(tomllib.loads(place.read_text(encoding="utf-8"))):
        assert path in lines, path
        if isinstance(path[-1], str):
            assert path[-1] in written[lines[path] - 1]


_SPARE = st.sampled_from(
    ["", "x", '"', "'", "[", "]", "{", "}", "=", "\n", ".", "1", "true", "{{", "}}", "[[rule]]\n", "é"]
)


@given(cuts=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 40), _SPARE), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_of_a_good_file_loads_or_is_refused_with_problems(
    tmp_path: Path, cuts: list[tuple[int, int, str]]
) -> None:
    text = CONTRACT.read_text(encoding="utf-8")
    for start, length, spare in cuts:
        text = text[:start] + spare + text[start + length :]
    place = write(tmp_path, "mutant.toml", text)
    found = _problems(place)
    assert all(one.file == str(place) and 1 <= one.line <= text.count("\n") + 2 and one.text for one in found)


def _problems(place: Path) -> list[Problem]:
    try:
        config.load([place])
    except ConfigError as error:
        return error.problems or [Problem("refused without a reason", 0, "", "")]
    return []


_LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
_VALUE = st.recursive(
    _LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@given(position=st.integers(0, 10_000), value=_VALUE)
@settings(max_examples=150, deadline=None)
def test_any_value_in_any_place_is_checked_without_a_crash(position: int, value: object) -> None:
    from relayd.config.deliveries import faults_of_rules
    from relayd.config.reading import read_sections
    from relayd.config.together import faults_between

    table = tomllib.loads(CONTRACT.read_text(encoding="utf-8"))
    paths = _paths(table)
    path = paths[position % len(paths)]
    inner: object = table
    for part in path[:-1]:
        inner = inner[part]  # type: ignore[index]
    inner[path[-1]] = value  # type: ignore[index]
    sections = read_sections(table)
    assert all(text for _, text in [*sections.faults, *faults_between(sections), *faults_of_rules(sections)])
