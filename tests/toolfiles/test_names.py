from hypothesis import given
from hypothesis import strategies as st

from bridge.toolfiles.files import Place
from bridge.toolfiles.names import settle


def place(name: str) -> Place:
    return Place(0, f"{name}.yaml", "tools.d")


PLACES = st.sampled_from([place(name) for name in "abcde"])
NAMES = st.sampled_from("uvwxyz")
A, B, C = map(place, "abc")


def test_the_first_gets_a_free_name() -> None:
    held: dict[str, Place] = {}
    assert settle({B: ["x"], A: ["x"]}, held) == {B}
    assert held == {"x": B}


def test_a_name_that_is_let_go_goes_to_the_next() -> None:
    held = {"x": A}
    assert settle({B: ["x"], A: ["y"]}, held) == {A, B}
    assert held == {"x": B, "y": A}


def test_names_go_round_at_once() -> None:
    held = {"x": A, "y": B, "z": C}
    assert settle({A: ["y"], B: ["z"], C: ["x"]}, held) == {A, B, C}
    assert held == {"y": A, "z": B, "x": C}


def test_who_asks_in_vain_keeps_what_it_held_and_so_do_those_who_waited_for_it() -> None:
    held = {"x": A, "y": B, "z": C}
    assert settle({A: ["y"], B: ["z"]}, held) == set()
    assert held == {"x": A, "y": B, "z": C}


@given(st.dictionaries(PLACES, st.sets(NAMES, min_size=1)), st.dictionaries(NAMES, PLACES))
def test_all_or_nothing_and_as_much_as_can_be(
    wishes: dict[Place, set[str]], before: dict[str, Place]
) -> None:
    held = dict(before)
    granted = settle(wishes, held)
    for asker, names in wishes.items():
        own = {name for name, holder in held.items() if holder == asker}
        if asker in granted:
            assert own == names
        else:
            assert own == {name for name, holder in before.items() if holder == asker}
            assert any(held.get(name, asker) != asker for name in names)
    for name, holder in before.items():
        if holder not in wishes:
            assert held[name] == holder
