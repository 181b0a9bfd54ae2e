"""What replicas are compared by."""

from collections.abc import Iterable

from bridge.app.admin import Digest
from bridge.secrets import Sources
from bridge.toolfiles.loaded import Loaded
from bridge.toolfiles.loader import load
from bridge.toolfiles.place import Content, Directories, Place

FREE = "description: Get a thing.\nrequest: {method: GET, url: http://localhost:1/x}\n"
NAMED = f"name: pay\n{FREE}"


def loaded(*states: dict[str, str]) -> Loaded:
    """The digest in one process that loads these files one after the other."""
    last = Loaded()
    for files in states:
        contents: dict[Place, Content] = {
            Place(0, f"{name}.yaml", "tools.d"): text.encode() for name, text in files.items()
        }
        last = load(Directories(("tools.d",)), contents, Sources({}), last)
    return last


def digests(each: Iterable[Loaded]) -> list[str]:
    """By one digest after the other, and each by a new one."""
    digest = Digest()
    found = [digest.of(one) for one in each]
    assert found == [Digest().of(one) for one in each]
    return found


def test_replicas_that_serve_the_same_files_have_the_same_digest() -> None:
    files = {"a": FREE, "b": FREE}
    first, second = digests([loaded(files), loaded({"a": NAMED}, files)])
    assert first == second


def test_the_owner_of_a_tool_name_changes_the_digest() -> None:
    files = {"aaa": NAMED, "pay": FREE}
    running, restarted = loaded({"aaa": NAMED}, files), loaded(files)
    assert running.snapshot.find("pay") is not restarted.snapshot.find("pay")
    first, second = digests([running, restarted])
    assert first != second


def test_the_last_good_version_of_a_broken_file_changes_the_digest() -> None:
    broken = {"a": "description: ["}
    other = FREE.replace("thing", "book")
    states = [loaded({"a": FREE}, broken), loaded({"a": other}, broken), loaded(broken)]
    assert len(set(digests(states))) == 3
