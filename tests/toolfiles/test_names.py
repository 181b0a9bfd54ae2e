from hypothesis import given
from hypothesis import strategies as st

from bridge.toolfiles.names import NameTable
from bridge.toolfiles.place import Place


def place(name: str) -> Place:
    return Place(0, f"{name}.yaml", "tools.d")


PLACES = st.sampled_from([place(name) for name in "abcde"])
NAMES = st.sampled_from("uvwxyz")
A, B, C = map(place, "abc")


def test_the_first_request_gets_a_free_name() -> None:
    names = NameTable()
    assert names.assign({B: ["x"], A: ["x"]}) == {B}
    assert names.held == {B: ["x"]}


def test_a_released_name_goes_to_the_next_request() -> None:
    names = NameTable({A: ["x"]})
    assert names.assign({B: ["x"], A: ["y"]}) == {A, B}
    assert names.held == {B: ["x"], A: ["y"]}


def test_names_move_on_in_a_circle_at_once() -> None:
    names = NameTable({A: ["x"], B: ["y"], C: ["z"]})
    assert names.assign({A: ["y"], B: ["z"], C: ["x"]}) == {A, B, C}
    assert names.held == {A: ["y"], B: ["z"], C: ["x"]}


def test_a_refused_request_keeps_all_files_at_the_names_that_they_held() -> None:
    names = NameTable({A: ["x"], B: ["y"], C: ["z"]})
    assert names.assign({A: ["y"], B: ["z"]}) == set()
    assert names.held == {A: ["x"], B: ["y"], C: ["z"]}


def test_a_copy_is_independent() -> None:
    names = NameTable({A: ["x"]})
    copied = names.copy()
    copied.release(A)
    copied.release(B)
    assert (names.held, names.holder("x")) == ({A: ["x"]}, A)
    assert (copied.held, copied.holder("x")) == ({}, None)


@given(st.dictionaries(PLACES, st.sets(NAMES, min_size=1)), st.dictionaries(NAMES, PLACES))
def test_requests_are_granted_whole_and_as_many_as_possible(
    requests: dict[Place, set[str]], before: dict[str, Place]
) -> None:
    held = {place: {name for name in before if before[name] == place} for place in before.values()}
    names = NameTable(held)
    granted = names.assign(requests)
    for place, requested in requests.items():
        if place in granted:
            assert names.held[place] == requested
        else:
            assert names.held.get(place) == held.get(place)
            assert any(names.holder(name) not in {place, None} for name in requested)
    for place in held.keys() - requests.keys():
        assert names.held[place] == held[place]
    for place, own in names.held.items():
        assert {names.holder(name) for name in own} == {place}
