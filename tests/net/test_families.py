"""Addresses as the system has them and as we write them."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest

from macula_trio._net.families import mapped, may_reach, obstacle, unmapped
from macula_trio._net.paths import from_system, interface_name, interface_number, to_system, with_known_scope
from macula_trio._util import Address

INTERFACES = {"eth0": 2, "7": 9, "wlan0": 7}


@pytest.fixture(autouse=True)
def interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three interfaces, one of which is called by a number."""

    def number(name: str) -> int:
        try:
            return INTERFACES[name]
        except KeyError:
            raise OSError(errno.ENODEV, "No such device") from None

    def name(number: int) -> str:
        if number > 2**32 - 1:
            raise OverflowError("Python int too large to convert to C unsigned int")
        for known, its_number in INTERFACES.items():
            if its_number == number:
                return known
        raise OSError(errno.ENXIO, "No such device or address")

    monkeypatch.setattr(socket, "if_nametoindex", number)
    monkeypatch.setattr(socket, "if_indextoname", name)


def test_ipv4_is_mapped_for_the_system_and_plain_for_everybody_else() -> None:
    assert mapped("192.0.2.7") == "::ffff:192.0.2.7"
    assert mapped("2001:db8::7") == "2001:db8::7"
    assert unmapped("::ffff:192.0.2.7") == unmapped("192.0.2.7") == "192.0.2.7"
    assert unmapped("::ffff:0:c000:207") == "::ffff:0:c000:207"  # RFC 2765's, another thing


@pytest.mark.parametrize(
    ("listen", "host", "may"),
    [
        ("10.0.0.1", "192.0.2.7", True),
        ("10.0.0.1", "::1", False),
        ("0.0.0.0", "::1", False),
        ("::1", "fd00::7", True),
        ("::1", "127.0.0.1", False),
        ("::", "127.0.0.1", True),
        ("::", "::1", True),
    ],
)
def test_a_family_reaches_itself_and_the_wildcard_of_both_may_reach_both(listen: str, host: str, may: bool) -> None:
    assert may_reach(listen, host) is may
    assert (obstacle((listen, 9443), host, is_dual=listen == "::") is None) is may


def test_where_the_system_keeps_ipv4_out_of_the_wildcard_that_is_told() -> None:
    told = obstacle(("::", 9443), "192.0.2.7", is_dual=False)
    assert told == "this system keeps IPv4 out of [::]:9443; listen on 0.0.0.0:9443 for IPv4"


@pytest.mark.parametrize(
    ("address", "is_v6", "system"),
    [
        (("192.0.2.7", 1), False, ("192.0.2.7", 1)),
        (("192.0.2.7", 1), True, ("::ffff:192.0.2.7", 1, 0, 0)),
        (("2001:db8::7", 1), True, ("2001:db8::7", 1, 0, 0)),
        (("fe80::7%eth0", 1), True, ("fe80::7", 1, 0, 2)),
        (("fe80::7%7", 1), True, ("fe80::7", 1, 0, 9)),  # a name comes before a number
    ],
)
def test_an_address_comes_back_from_the_system_as_it_went(
    address: Address, is_v6: bool, system: tuple[Any, ...]
) -> None:
    assert to_system(address, is_v6=is_v6) == system[: len(to_system(address, is_v6=is_v6))]
    assert from_system(system) == address


def test_what_the_system_says_of_a_scope_counts_for_link_local_addresses_only() -> None:
    assert from_system(("2001:db8::7", 1, 0, 2)) == ("2001:db8::7", 1)
    assert from_system(("fe80::7%eth0", 1, 0, 2)) == ("fe80::7%eth0", 1)
    assert from_system(("fe80::7", 1, 0, 5)) == ("fe80::7%5", 1)  # an interface that has gone since


def test_an_interface_has_a_name_and_a_number_and_is_written_by_its_name() -> None:
    assert [interface_number(scope) for scope in ("eth0", "2", "7")] == [2, 2, 9]
    assert [interface_name(number) for number in (2, 9, 5)] == ["eth0", "7", "5"]
    assert with_known_scope("fe80::7%2") == with_known_scope("fe80::7%eth0") == "fe80::7%eth0"
    assert with_known_scope("fe80::7%nowhere") == "fe80::7%nowhere"
    assert with_known_scope("fe80::7") == "fe80::7"
    for scope in ("nowhere", "5", "0", "-1", "9" * 30):
        with pytest.raises(OSError, match=f"this machine has no interface '{scope}'"):
            interface_number(scope)
        with pytest.raises(OSError, match="no interface"):
            to_system((f"fe80::7%{scope}", 1), is_v6=True)
