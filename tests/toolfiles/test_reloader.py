import logging
import resource
import shutil
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from bridge.events import Event
from bridge.toolfiles.place import Directories, Folder
from bridge.toolfiles.watch.scan import MAX_WATCHED_FOLDERS, stat_file
from tests.toolfiles.descriptors import descriptors_left
from tests.toolfiles.edits import WITH_EVENTS, WITHOUT_EVENTS, Edit, rename_over
from tests.toolfiles.service import Service, serving

pytestmark = pytest.mark.anyio


def tool(description: str) -> str:
    return f"description: {description}\nrequest: {{method: GET, url: http://localhost:1/x}}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d" / "a.yaml").write_text(tool("old"))
    return tmp_path / "tools.d"


async def check_all(edits: list[Edit], place: Path, *, events: bool, poll: float) -> None:
    """Edit a file twice in each way. All ways run at once, each in its own directory."""

    async def check(edit: Edit) -> None:
        root = place / edit.__name__ / "tools.d"
        root.mkdir(parents=True)
        (root / "a.yaml").write_text(tool("old"))
        async with serving(root, events=events, poll=poll) as service:
            for text in ("one", "two"):
                if (writing := edit(root / "a.yaml", tool(text))) is not None:
                    await writing
                await service.says(text)
            assert [each.name for each in service.registry.current.tools] == ["a"]
            assert all(swap.removed == () for swap in service.swaps)
            assert service.reloader.mode == ("events" if events else "polling")

    async with anyio.create_task_group() as tasks:
        for edit in edits:
            tasks.start_soon(check, edit)


async def test_events_find_every_edit(tmp_path: Path) -> None:
    await check_all(WITH_EVENTS, tmp_path, events=True, poll=60)


async def test_polls_find_every_edit(tmp_path: Path) -> None:
    await check_all(WITH_EVENTS + WITHOUT_EVENTS, tmp_path, events=False, poll=0.05)


async def test_polls_find_edits_without_an_event(tmp_path: Path) -> None:
    await check_all(WITHOUT_EVENTS, tmp_path, events=True, poll=0.1)


@pytest.mark.parametrize("events", [True, False])
async def test_a_change_that_clients_cannot_see_is_not_announced(root: Path, events: bool) -> None:  # noqa: FBT001 - a parameter of the test
    path = root / "a.yaml"
    async with serving(root, events=events, poll=60 if events else 0.05) as service:
        before = len(service.announced)
        path.touch()
        path.chmod(0o600)
        (root / "README.md").write_text("read me")
        path.write_text(tool("old"))
        path.write_text(tool("old") + "# a comment\n")
        await service.until(lambda: len(service.swaps) == 2)
        path.write_text(tool("old") + "timeout: 5s\n")
        await service.until(lambda: len(service.swaps) == 3)
        assert len(service.announced) == before
        path.write_text(tool("new"))
        await service.until(lambda: len(service.swaps) == 4)
        assert len(service.announced) == before + 1


@pytest.mark.parametrize(("events", "poll", "lag"), [(True, 60, 0.5), (False, 0.2, 0.7)])
async def test_with_other_processes_a_change_is_announced_once_they_serve_it_too(
    root: Path,
    events: bool,  # noqa: FBT001 - a parameter of the test
    poll: float,
    lag: float,
) -> None:
    async with serving(root, events=events, poll=poll, is_only_process=False) as service:
        started = []
        for text in ("new", "newer"):
            started.append(anyio.current_time())
            (root / "a.yaml").write_text(tool(text))
            await service.says(text)
        await service.until(lambda: bool(service.announced) and service.announced[-1] >= started[1] + lag)
        assert service.announced[0] >= started[0] + lag


@pytest.mark.slow
async def test_new_broken_and_deleted_files_are_reported(root: Path) -> None:
    async with serving(root) as service:
        (root / "more").mkdir()
        (root / "more" / "b.yaml").write_text(tool("b"))
        await service.says("b", "b")
        (root / "more" / "b.yaml").write_text("description: [}\n")
        await service.until(lambda: bool(service.swaps[-1].broken))
        assert service.swaps[-1].broken == (f"{root}/more/b.yaml:1:15",)
        assert service.description("b") == "b"
        (root / "more").rename(root.parent / "more")
        await service.says(None, "b")
        last = service.swaps[-1]
        assert (last.removed, last.broken) == (("b",), ())


async def test_a_missing_directory_removes_no_tool_and_is_watched_again_when_it_is_back(root: Path) -> None:
    async with serving(root, poll=0.1) as service:
        shutil.move(root, root.with_name("elsewhere"))
        await service.until(lambda: bool(service.swaps[-1].broken))
        assert service.swaps[-1].broken == (f"{root}:1:1",)
        assert service.description() == "old"
        shutil.move(root.with_name("elsewhere"), root)
        await service.until(lambda: not service.swaps[-1].broken)
        (root / "a.yaml").write_text(tool("new"))
        await service.says("new")


async def test_a_directory_that_disappears_while_watches_are_set_is_watched_when_it_is_back(
    root: Path,
) -> None:
    first, second = anyio.Event(), anyio.Event()

    class Fleeting(Directories):
        def paths(self, folders: Iterable[Folder]) -> list[Path]:
            if not first.is_set():
                first.set()
                return [root.with_name("gone")]
            second.set()
            return super().paths(folders)

    async with serving(root, poll=0.1, directories=Fleeting((str(root),))) as service:
        (root / "a.yaml").write_text(tool("new"))
        await service.says("new")
        with anyio.fail_after(30):
            await second.wait()
        assert service.reloader.mode == "events"


@pytest.mark.slow
async def test_watching_works_again_after_descriptors_ran_out(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge")
    with descriptors_left(2) as limits:
        async with serving(root, poll=0.1) as service:
            for text in ("one", "two"):
                (root / "a.yaml").write_text(tool(text))
                await service.says(text)
            # The pause after a failure doubles; only the first failure is logged.
            assert service.reloader.mode == "polling"
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            with anyio.fail_after(30):
                while service.reloader.mode == "polling":
                    await anyio.wait_all_tasks_blocked()
    logged = [record.message for record in caplog.records if record.name == "bridge.toolfiles.reloader"]
    assert len(logged) == 2
    assert "polling every 0.1 s until watching works again" in logged[0]
    assert logged[1] == "watching folders works again"


@pytest.mark.slow
async def test_of_too_many_folders_only_some_are_watched(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge")
    for number in range(MAX_WATCHED_FOLDERS + 1):
        (root / "many" / str(number)).mkdir(parents=True)
    (root / "other").mkdir()

    def logged() -> list[str]:
        return [record.message for record in caplog.records if "watched" in record.message]

    async with serving(root, poll=60) as service:
        (root / "other" / "b.yaml").write_text(tool("new"))
        await service.says("new", "b")
        crowded = f"{MAX_WATCHED_FOLDERS} of {MAX_WATCHED_FOLDERS + 4} folders are watched; changes in the others are found by polling every 60 s"
        assert logged() == [crowded]
        shutil.move(root / "many", root.parent)
        with anyio.fail_after(30):
            while len(logged()) == 1:
                await anyio.wait_all_tasks_blocked()
        assert logged() == [crowded, "all folders are watched again"]


@pytest.mark.slow
async def test_a_directory_that_is_missing_at_startup_is_watched_once_it_exists(root: Path) -> None:
    hidden = shutil.move(root, root.with_name("elsewhere"))
    async with serving(root, poll=60) as service:
        await anyio.wait_all_tasks_blocked()
        shutil.move(hidden, root)
        service.reloader.request_reload()
        await service.says("old")
        (root / "a.yaml").write_text(tool("new"))
        await service.says("new")


@pytest.mark.slow
async def test_watches_are_set_at_most_once_a_second(root: Path) -> None:
    armed = []

    class Counted(Directories):
        def paths(self, folders: Iterable[Folder]) -> list[Path]:
            armed.append(anyio.current_time())
            return super().paths(folders)

    async with serving(root, directories=Counted((str(root),))) as service:
        for number in range(6):
            (root.parent / "new").mkdir()
            (root.parent / "new" / f"b{number}.yaml").write_text(tool("new"))
            (root.parent / "new").rename(root / str(number))
            await service.says("new", f"b{number}")
        (root / "5" / "late.yaml").write_text(tool("late"))
        await service.says("late", "late")
    assert all(after - before >= 1 for before, after in pairwise(armed))


async def test_every_tenth_poll_compares_bytes(root: Path) -> None:
    async with serving(root, events=False, poll=0.05) as service:
        (place,) = service.reloader._debouncer.contents
        (root / "a.yaml").write_text(tool("new"))
        stat = stat_file(place)
        assert stat
        service.reloader._debouncer._known[place] = stat  # as if the file system had coarse times
        await service.says("new")


async def test_a_secret_file_that_appears_enables_its_tools(root: Path) -> None:
    secret = root.parent / "secret"
    (root / "shop.upstream.yaml").write_text(
        f'baseUrl: http://localhost:1\nauth: {{type: http, scheme: bearer, credentials: "${{file:{secret}}}"}}\n'
    )
    (root / "a.yaml").write_text("description: old\nupstream: shop\nrequest: {method: GET, url: /x}\n")
    async with serving(root, poll=0.05) as service:
        assert service.description() is None
        secret.write_text("correct-horse")
        await service.says("old")


async def test_a_secret_file_that_disappears_is_reported_and_its_tools_stay_served(root: Path) -> None:
    secret = root.parent / "secret"
    secret.write_text("correct-horse")
    (root / "shop.upstream.yaml").write_text(
        f'baseUrl: http://localhost:1\nauth: {{type: http, scheme: bearer, credentials: "${{file:{secret}}}"}}\n'
    )
    (root / "a.yaml").write_text("description: old\nupstream: shop\nrequest: {method: GET, url: /x}\n")
    async with serving(root, poll=0.05) as service:

        def reported() -> list[tuple[str, str, str]]:
            diagnostics = service.tool_directory.loaded.diagnostics
            return [(each.code, each.severity, each.message) for each in diagnostics]

        assert reported() == []
        secret.unlink()
        message = f"the file {secret} is gone, so its last content is still used; restore it"
        await service.until(lambda: reported() == [("lost-secret", "warning", message)])
        assert service.description() == "old"
        secret.write_text("correct-horse")
        await service.until(lambda: reported() == [])
        assert len(service.announced) == 0


@pytest.mark.slow
async def test_many_changes_are_announced_at_most_four_times_a_second(root: Path) -> None:
    async with serving(root) as service:
        for number in range(150):
            (root / f"{number % 10}.yaml").write_text(tool(f"no. {number}"))
            await anyio.sleep(0.01)
        for number in range(140, 150):
            await service.says(f"no. {number}", f"{number % 10}")
        await service.until(lambda: not service.reloader._unannounced)
        windows = zip(service.announced, service.announced[4:], strict=False)
        assert all(later - first >= 1 for first, later in windows)


@pytest.mark.slow
async def test_a_file_that_keeps_changing_is_served_anyway(root: Path) -> None:
    async with serving(root) as service:
        number = 0
        with anyio.fail_after(30):
            while service.description() == "old":
                number += 1
                rename_over(root / "a.yaml", tool(f"no. {number}"))
                await anyio.sleep(0.01)
        rename_over(root / "a.yaml", tool("last"))
        await service.says("last")


async def test_a_reload_returns_what_changed_and_what_is_broken(root: Path) -> None:
    (root / "b.yaml").write_text(tool("b"))
    service = Service(root, events=False, poll=60)
    first = await service.reloader.reload()
    assert (first.added, first.visible) == (("a", "b"), True)
    (root / "a.yaml").write_text(tool("new"))
    (root / "b.yaml").unlink()
    (root / "c.yaml").write_text("")
    second = await service.reloader.reload()
    assert (second.added, second.changed, second.removed) == ((), ("a",), ("b",))
    assert second.broken == (f"{root}/c.yaml:1:1",)
    third = await service.reloader.reload()
    assert (third.added, third.changed, third.removed, third.visible) == ((), (), (), False)
    assert third.broken == second.broken
    assert service.swaps == [first, second, third]
    assert len(service.announced) == 1


async def test_exchanging_the_link_to_a_directory_is_one_reload(tmp_path: Path) -> None:
    for release, names in (("1", "abc"), ("2", "abd")):
        (tmp_path / release).mkdir()
        for name in names:
            (tmp_path / release / f"{name}.yaml").write_text(tool(f"{name}{release}"))
    (tmp_path / "current").symlink_to("1")
    service = Service(tmp_path / "current", events=False, poll=60)
    await service.reloader.reload()
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").replace(tmp_path / "current")
    event = await service.reloader.reload()
    assert (event.added, event.changed, event.removed) == (("d",), ("a", "b"), ("c",))
    assert service.swaps[1:] == [event]


async def test_the_first_file_in_an_empty_directory_is_announced(tmp_path: Path) -> None:
    async with serving(tmp_path) as service:
        (tmp_path / "a.yaml").write_text(tool("new"))
        await service.until(lambda: len(service.announced) == 1)
        assert service.description() == "new"


async def test_a_reload_does_not_wait_for_a_file_that_may_be_cut_short(root: Path) -> None:
    service = Service(root, events=False, poll=60)
    await service.reloader.reload()
    (root / "a.yaml").write_text("")
    with anyio.fail_after(30):
        report = await service.reloader.reload()
    assert report.broken == ()
    assert service.description() == "old"


async def test_a_requested_reload_is_reported_even_if_nothing_changed(root: Path) -> None:
    async with serving(root) as service:
        service.reloader.request_reload()
        await service.until(lambda: len(service.swaps) == 2)
        (root / "a.yaml").write_text(tool("new"))
        service.reloader.request_reload()
        await service.says("new")
    assert service.swaps[1].visible is False


async def test_concurrent_reloads_run_one_after_another(root: Path) -> None:
    async with serving(root) as service, anyio.create_task_group() as tasks:
        (root / "a.yaml").write_text(tool("new"))
        for _ in range(3):
            tasks.start_soon(service.reloader.reload)
    assert [swap.changed for swap in service.swaps].count(("a",)) == 1
    assert all(first is not second for first, second in pairwise(service.swaps))


async def test_an_unexpected_error_is_logged_and_serving_goes_on(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(root, poll=0.1) as service:

        def fail(event: Event) -> None:
            service.reloader._emit = service.on_event
            raise ZeroDivisionError(event)

        service.reloader._emit = fail
        (root / "a.yaml").write_text(tool("new"))
        await service.says("new")
        (root / "a.yaml").write_text(tool("newer"))
        await service.says("newer")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.message == "reload failed; the tools stay as they were"
