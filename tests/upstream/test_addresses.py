from bridge.upstream.addresses import look_up


def test_the_operating_system_knows_this_machine() -> None:
    assert "127.0.0.1" in look_up("127.0.0.1", 80)
