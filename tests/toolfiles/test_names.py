from hypothesis import given
from hypothesis import strategies as st

from bridge.toolfiles.names import Names
from bridge.toolfiles.watch.scan import Place


def place(name: str) -> Place:
    return Place(0, f"{name}.yaml", "tools.d")


PLACES = st.sampled_from([place(name) for name in "abcde"])
NAMES = st.sampled_from("uvwxyz")
A, B, C = map(place, "abc")


def test_the_first_gets_a_free_name() -> None:
    names = Names()
    assert names.settle({B: ["x"], A: ["x"]}) == {B}
    assert names.held == {B: ["x"]}


def test_a_name_that_is_let_go_goes_to_the_next() -> None:
    names = Names({A: ["x"]})
    assert names.settle({B: ["x"], A: ["y"]}) == {A, B}
    assert names.held == {B: ["x"], A: ["y"]}


def test_names_go_round_at_once() -> None:
    names = Names({A: ["x"], B: ["y"], C: ["z"]})
    assert names.settle({A: ["y"], B: ["z"], C: ["x"]}) == {A, B, C}
    assert names.held == {A: ["y"], B: ["z"], C: ["x"]}


def test_who_asks_in_vain_keeps_what_it_held_and_so_do_those_who_waited_for_it() -> None:
    names = Names({A: ["x"], B: ["y"], C: ["z"]})
    assert names.settle({A: ["y"], B: ["z"]}) == set()
    assert names.held == {A: ["x"], B: ["y"], C: ["z"]}


def test_a_copy_goes_its_own_way() -> None:
    names = Names({A: ["x"]})
    copied = names.copy()
    copied.release(A)
    copied.release(B)
    assert (names.held, names.holder("x")) == ({A: ["x"]}, A)
    assert (copied.held, copied.holder("x")) == ({}, None)


@given(st.dictionaries(PLACES, st.sets(NAMES, min_size=1)), st.dictionaries(NAMES, PLACES))
def test_all_or_nothing_and_as_much_as_can_be(
    wishes: dict[Place, set[str]], before: dict[str, Place]
) -> None:
    held = {place: {name for name in before if before[name] == place} for place in before.values()}
    names = Names(held)
    granted = names.settle(wishes)
    for asker, wished in wishes.items():
        if asker in granted:
            assert names.held[asker] == wished
        else:
            assert names.held.get(asker) == held.get(asker)
            assert any(names.holder(name) not in {asker, None} for name in wished)
    for place in held.keys() - wishes.keys():
        assert names.held[place] == held[place]
    for place, own in names.held.items():
        assert {names.holder(name) for name in own} == {place}
