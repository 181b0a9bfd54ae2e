"""The tool files, on machines without the servers too."""

import pytest

from bridge.cli import main
from tests.real_upstreams.processes import HERE


@pytest.mark.parametrize("folder", ["alertmanager", "httpbin", "prometheus"])
def test_the_tool_files_are_right(folder: str) -> None:
    assert main(["check", str(HERE / folder)]) == 0
