"""name_pattern and path_filter: what names tell, and which are wanted."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.sources.name_pattern import NamePattern
from relayd.sources.path_filter import PathFilter, is_unfinished


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("{camera}_{time}.jpg", "gate_20260131_120000.jpg", {"camera": "gate", "time": "20260131_120000"}),
        (
            "{camera}_{time}.jpg",
            "front_door_20260131T120000Z.jpg",
            {"camera": "front_door", "time": "20260131T120000Z"},
        ),
        ("{camera}_{time}.jpg", "gate_noon.jpg", {"camera": "gate", "time": "noon"}),
        ("{camera}_{time}.jpg", "gate_20260131_120000.png", None),
        ("{camera}_{time}.jpg", "_.jpg", None),
        ("{camera}_{time}_{n}.jpg", "g_20260131_120000_7.jpg", {"camera": "g", "time": "20260131_120000", "n": "7"}),
        ("{camera}/{date}/{name}", "gate/2026-01-31/a.jpg", {"camera": "gate", "date": "2026-01-31", "name": "a.jpg"}),
        ("{camera}/{date}/{name}", "gate/a.jpg", None),
        ("{camera}-{rest}", "deep/in/gate-7.jpg", {"camera": "gate", "rest": "7.jpg"}),
        ("cam{number}.jpg", "cam12.jpg", {"number": "12"}),
        ("{a}.{b}", "x.y.z", {"a": "x", "b": "y.z"}),
    ],
)
def test_fields_are_found_in_names(pattern: str, path: str, fields: dict[str, str] | None) -> None:
    assert NamePattern(pattern).match(path) == fields


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("plain.jpg", "at least one field"),
        ("{a}{b}.jpg", "something between"),
        ("{a}_{a}", "twice"),
        ("{0.__class__}", "no field name"),
        ("{Camera}", "no field name"),
        ("{a}_}", "belongs to no field"),
        ("_".join(f"{{f{n}}}" for n in range(17)), "more than 16"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused_in_words(pattern: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NamePattern(pattern)


@given(st.text(max_size=255).filter(lambda text: "/" not in text))
def test_no_name_breaks_a_pattern(name: str) -> None:
    found = NamePattern("{camera}_{date}_{time}.jpg").match(name)
    assert found is None or "_".join(found.values()) + ".jpg" == name


@given(
    st.lists(st.text("abcXYZ09", min_size=1, max_size=8), min_size=1, max_size=6),
    st.sampled_from(["_", "-", "--", ".x."]),
)
def test_what_was_put_together_is_taken_apart(values: list[str], between: str) -> None:
    pattern = between.join(f"{{f{number}}}" for number in range(len(values)))
    found = NamePattern(pattern).match(between.join(values))
    assert found == {f"f{number}": value for number, value in enumerate(values)}


@pytest.mark.parametrize("name", ["_" * 250, "1" * 250, "20260131_" * 28, "20260131_120000" * 17, "11111111_" * 28])
def test_a_hostile_name_cannot_make_a_pattern_slow(name: str) -> None:
    pattern = NamePattern("{a}_{b}_{date}_{c}_{time}_{d}_{e}_{f}_{g}.jpg")
    before = time.process_time()
    pattern.match(name)
    pattern.match(name + ".jpg")
    assert time.process_time() - before < 1.0


@pytest.mark.parametrize("piece", ["2026-01-31_12-00-00", "20260131_", "1", "_", "12.00.00-", "26-01-31"])
def test_a_name_of_65_kilobytes_costs_next_to_nothing(piece: str) -> None:
    name = piece * (65_536 // len(piece))
    before = time.process_time()
    for pattern in ("{a}_{date}_{b}_{time}_{c}.jpg", "{date}/{time}-{rest}", "{time}.jpg"):
        NamePattern(pattern).match(name)
        NamePattern(pattern).match(name[:1000])
    assert time.process_time() - before < 1.0


# --- which files


@pytest.mark.parametrize(
    ("include", "exclude", "path", "wanted"),
    [
        ([], [], b"a.jpg", True),
        (["*.jpg", "*.mp4"], [], b"IMG_1.JPG", True),
        (["*.jpg", "*.mp4"], [], b"a.png", False),
        (["*.jpg"], [], b"deep/in/a.jpg", True),
        (["IMG_????.*"], [], b"img_0001.jpg", True),
        (["IMG_????.*"], [], b"img_01.jpg", False),
        (["cam[0-9]*"], [], b"cam7.jpg", True),
        (["cam[!0-9]*"], [], b"cam7.jpg", False),
        ([], ["*_thumb.*"], b"a_thumb.jpg", False),
        ([], ["test/**"], b"test/deep/a.jpg", False),
        ([], ["test/*"], b"test/deep/a.jpg", True),
        (["*/snap/*.jpg"], [], b"gate/snap/a.jpg", True),
        (["**/a*b"], [], b"x/ac/ab", True),
        (["a[b"], [], b"a[b", True),
        ([], [], b"caf\xe9\n.jpg", True),
        (["*.jpg"], [], b"x\n.jpg", True),
    ],
)
def test_globs_choose_files(include: list[str], exclude: list[str], path: bytes, *, wanted: bool) -> None:
    assert PathFilter(include, exclude).wants(path) is wanted


@pytest.mark.parametrize(
    "name",
    [b".hidden.jpg", b"a.jpg.part", b"a.tmp", b"a.jpg.PARTIAL", b"a.crdownload", b"a.jpg~", b".#lock", b"a.filepart"],
)
def test_temporary_names_are_never_wanted(name: bytes) -> None:
    assert is_unfinished(name)
    assert not PathFilter(["*"], []).wants(name)
    assert not PathFilter(["*"], []).wants(b"deep/" + name)


def test_a_hostile_name_cannot_make_a_glob_slow() -> None:
    wanted = PathFilter(["*a*a*a*a*a*a*a*a*a*b"], [])
    before = time.process_time()
    assert not wanted.wants(b"a" * 255)
    assert time.process_time() - before < 0.5


@given(st.binary(min_size=1, max_size=255), st.text(max_size=20))
def test_no_name_and_no_glob_breaks_the_choice(path: bytes, glob: str) -> None:
    PathFilter([glob], []).wants(path)
