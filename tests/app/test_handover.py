import os
from pathlib import Path

import pytest

from bridge.address import Address
from bridge.app.handover import UPGRADE, Handover, OldWorker
from bridge.errors import StartError
from bridge.http.listeners import bind


def test_the_new_version_takes_what_the_old_one_has_handed_over(tmp_path: Path) -> None:
    reading, lifeline = os.pipe()
    with bind(Address("127.0.0.1", 0)) as listener:
        handed = Handover(listener.dup(), tmp_path, [OldWorker(2, "2-1a2b3c", 1, 4711, lifeline)])
        environment = handed.environment({"HOME": "/"})
        handed.set_inheritable(inheritable=True)
        assert os.get_inheritable(lifeline)
        handed.listener.detach()
        taken = Handover.take(environment)
        assert taken
        with taken.listener:
            assert taken.listener.getsockname() == listener.getsockname()
            assert not taken.listener.get_inheritable()
    assert environment == {"HOME": "/"}
    assert (taken.folder, taken.workers, taken.is_check) == (tmp_path, list(handed.workers), False)
    assert not os.get_inheritable(lifeline)
    os.close(lifeline)
    os.close(reading)


@pytest.mark.parametrize("text", ["", "1", "{}", '{"listener": 0, "workers": [{"x": 1}]}'])
def test_a_variable_that_another_program_has_set_is_refused(text: str) -> None:
    with pytest.raises(StartError, match="RESTBRIDGE_UPGRADE is set, which only the bridge itself does"):
        Handover.take({UPGRADE: text})


def test_without_an_upgrade_there_is_nothing_to_take() -> None:
    assert Handover.take({"HOME": "/"}) is None
