from typing import Final

import pytest

from bridge.upstream.http.addresses import AddressRefusedError, Resolver, look_up

MANY: Final = [f"10.0.{number >> 8}.{number & 255}" for number in range(4000)]


def test_the_operating_system_resolves_loopback() -> None:
    assert "127.0.0.1" in look_up("127.0.0.1", 80)


@pytest.mark.anyio
async def test_of_many_addresses_the_first_64_are_used() -> None:
    resolver = Resolver(lambda _host, _port: MANY, "x.test", 80)
    for _ in range(2):
        assert await resolver.addresses() == MANY[:64]


@pytest.mark.anyio
@pytest.mark.parametrize("before", [0, 63])
async def test_one_refused_address_refuses_a_name_without_another_look_up(before: int) -> None:
    asked: list[str] = []

    def lookup(host: str, _port: int) -> list[str]:
        asked.append(host)
        return [*MANY[:before], "169.254.169.254", *MANY]

    resolver = Resolver(lookup, "x.test", 80)
    for _ in range(2):
        with pytest.raises(AddressRefusedError):
            await resolver.addresses()
    assert asked == ["x.test"]
