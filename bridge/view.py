"""Views: named selections of tools."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from pydantic import Field

from bridge.spec import SpecModel


class View(SpecModel):
    """A selection of the tools. In patterns, ``*`` stands for any characters.

    A tool is in it if its name or one of its tags matches, and ``without`` does not exclude it.
    """

    tools: tuple[str, ...] = Field(default=(), strict=False, description="Names, such as get_*.")
    tags: tuple[str, ...] = Field(default=(), strict=False, description="Tags of tools.")
    without: tuple[str, ...] = Field(default=(), strict=False, description="Names of tools to leave out.")

    def shows(self, name: str, tags: Iterable[str]) -> bool:
        """Whether a tool with this name and these tags is in the view."""
        is_in = _matches_any(name, self.tools) or any(_matches_any(tag, self.tags) for tag in tags)
        return is_in and not _matches_any(name, self.without)


def _matches_any(text: str, patterns: Iterable[str]) -> bool:
    return any(matches(pattern, text) for pattern in patterns)


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of a view matches a name or a tag."""
    return fnmatchcase(text, pattern)  # fnmatch ignores case on Windows
