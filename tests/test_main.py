import sys

import pytest

from bridge.__main__ import main


def test_the_entry_exits_with_the_code_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["restbridge", "nosuch"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
