"""Every way to edit ``a.yaml`` in a tools directory, as editors, tools and systems do it."""

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio

Edit = Callable[[Path, str], Awaitable[None] | None]
"""Puts a text into a file. The second word of the text is new each time, and valid in a file's name."""


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def rename_over(path: Path, text: str) -> None:
    path.with_name("a.tmp").write_text(text)
    path.with_name("a.tmp").replace(path)


def vim(path: Path, text: str) -> None:
    path.with_name(".a.yaml.swp").write_text("swap")
    path.with_name("4913").touch()
    path.with_name("4913").unlink()
    path.replace(path.with_name("a.yaml~"))
    path.write_text(text)
    path.with_name("a.yaml~").unlink()
    path.with_name(".a.yaml.swp").unlink()


def emacs(path: Path, text: str) -> None:
    path.with_name(".#a.yaml").symlink_to("user@host.1:2")
    path.with_name("#a.yaml#").write_text(text)
    shutil.copy(path, path.with_name("a.yaml~"))
    path.write_text(text)
    path.with_name("#a.yaml#").unlink()
    path.with_name(".#a.yaml").unlink()


def sed(path: Path, text: str) -> None:
    path.with_name("sedAbC123").write_text(text)
    path.with_name("sedAbC123").chmod(0o644)
    path.with_name("sedAbC123").replace(path)


def unlink_and_create(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def rsync(path: Path, text: str) -> None:
    new = path.with_name(".a.yaml.Xk2wQz")
    new.write_text(text)
    os.utime(new, (10**9, 10**9))
    new.replace(path)


def git(path: Path, text: str) -> None:
    """A checkout; the directory is the top of the work tree."""
    (path.parent / ".git").mkdir(exist_ok=True)
    lock = path.parent / ".git" / "index.lock"
    lock.touch()
    path.unlink()
    path.write_text(text)
    lock.rename(lock.with_name("index"))


def hard_link(path: Path, text: str) -> None:
    new = path.parent.with_name("store")
    new.unlink(missing_ok=True)
    new.write_text(text)
    path.unlink()
    path.hardlink_to(new)


async def in_halves(path: Path, text: str) -> None:
    await _slowly(path, [text[: len(text) // 2], text[len(text) // 2 :]])


async def line_by_line(path: Path, text: str) -> None:
    """The first lines may be a valid file of their own; it is never loaded."""
    await _slowly(path, text.splitlines(keepends=True))


async def cut_and_continue(path: Path, text: str) -> None:
    await _slowly(path, ["", text])


async def _slowly(path: Path, parts: list[str]) -> None:
    with path.open("w") as file:
        for part in parts:
            file.write(part)
            file.flush()
            await anyio.sleep(0.01)


def with_the_same_size_and_time(path: Path, text: str) -> None:
    path.write_text(text)
    os.utime(path, ns=(1, 1))


def with_an_older_time(path: Path, text: str) -> None:
    path.with_name("a.tmp").write_text(text)
    os.utime(path.with_name("a.tmp"), (1, 1))
    path.with_name("a.tmp").replace(path)


def config_map(path: Path, text: str) -> None:
    """As the kubelet does: a new folder, and one link is changed to it."""
    data = path.with_name("..data")
    new = path.with_name(f"..{text.split()[1]}")
    new.mkdir()
    (new / "a.yaml").write_text(text)
    path.with_name("..data_tmp").symlink_to(new.name)
    old = data.resolve() if data.is_symlink() else None
    path.with_name("..data_tmp").replace(data)
    if old:
        shutil.rmtree(old)
    if not path.is_symlink():
        path.with_name("link").symlink_to("..data/a.yaml")
        path.with_name("link").replace(path)


def link_to_another_file(path: Path, text: str) -> None:
    target = path.parent.parent / f"{text.split()[1]}.yaml"
    target.write_text(text)
    path.with_name("a.tmp").symlink_to(target)
    path.with_name("a.tmp").replace(path)


def behind_a_link(path: Path, text: str) -> None:
    target = path.parent.parent / "target.yaml"
    target.write_text(text)
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(target)


def directory_recreated(path: Path, text: str) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    path.write_text(text)


def directory_renamed_over(path: Path, text: str) -> None:
    new = path.parent.with_name("new")
    new.mkdir()
    (new / path.name).write_text(text)
    shutil.rmtree(path.parent)
    new.rename(path.parent)


def directory_behind_a_link(path: Path, text: str) -> None:
    """As git-sync does."""
    root = path.parent
    checkout = root.with_name(text.split()[1])
    checkout.mkdir()
    (checkout / path.name).write_text(text)
    root.with_name("next").symlink_to(checkout)
    if not root.is_symlink():
        shutil.rmtree(root)
    root.with_name("next").rename(root)


WITH_EVENTS: Final[list[Edit]] = [
    *(in_place, rename_over, vim, emacs, sed, unlink_and_create, rsync, git, hard_link),
    *(in_halves, line_by_line, cut_and_continue),
    *(with_the_same_size_and_time, with_an_older_time, config_map, link_to_another_file),
]
WITHOUT_EVENTS: Final[list[Edit]] = [
    *(behind_a_link, directory_recreated, directory_renamed_over, directory_behind_a_link),
]
"""Edits without a file system event; polls find them."""
