from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from macula_trio._ids import NodeId
from macula_trio._util import (
    ENDPOINT_CHARS_MAX,
    HOST_CHARS_MAX,
    NAME_BYTES_MAX,
    REASON_CHARACTERS_MAX,
    Address,
    clip,
    format_endpoint,
    is_link_local,
    is_loopback,
    is_numeric,
    is_private,
    is_unspecified,
    may_tell,
    numeric_endpoint,
    numeric_host,
    parse_bootstrap,
    parse_endpoint,
    path_address,
    path_local,
    public_network,
    tellable_endpoint,
    told_address,
    validate_headers,
    validate_name,
)

NODE: Final = NodeId(bytes(range(32)))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9443", ("127.0.0.1", 9443)),
        ("[::1]:9443", ("::1", 9443)),
        ("[2001:db8::7]:1", ("2001:db8::7", 1)),
        ("[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        ("localhost:9443", ("localhost", 9443)),
        ("node.example.org.:09443", ("node.example.org.", 9443)),
        ("bücher.example:80", ("bücher.example", 80)),
        ("under_score:80", ("under_score", 80)),
        ("https://127.0.0.1:9443", ("127.0.0.1", 9443)),
        ("https://127.0.0.1:9443/", ("127.0.0.1", 9443)),
        ("https://[::1]:9443", ("::1", 9443)),
        (f"{'a' * 63}:1", ("a" * 63, 1)),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(text: str, address: Address) -> None:
    assert parse_endpoint(text) == address


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("", "is not HOST:PORT, such as 127.0.0.1:9443 or"),
        ("9443", "is not HOST:PORT"),
        ("127.0.0.1", "is not HOST:PORT"),
        (":9443", "is not HOST:PORT"),
        ("https://", "is not HOST:PORT"),
        ("::1:9443", "write an IPv6 address in brackets, such as [::1]:9443"),
        ("::1", "write an IPv6 address in brackets"),
        ("[::1:9443", "write an IPv6 address in brackets"),
        ("http://127.0.0.1:9443", "write an IPv6 address in brackets"),
        ("https://https://h:1", "write an IPv6 address in brackets"),
        ("[::1]", "write an IPv6 address in brackets"),
        ("[127.0.0.1]:9443", "brackets are for IPv6 addresses"),
        ("[]:9443", "brackets are for IPv6 addresses"),
        ("[a:b]:9443", "brackets are for IPv6 addresses"),
        ("[::1%]:9443", "brackets are for IPv6 addresses"),
        ("two words:9443", "'two words' is not a host name or address"),
        (" 127.0.0.1:9443", "is not a host name or address"),
        ("[::1%a b]:9443", "is not a host name or address"),
        ("a/b:9443", "is not a host name or address"),
        ("a@b:9443", "is not a host name or address"),
        ("a\0b:9443", "is not a host name or address"),
        ("a\x1b[31mb:9443", "is not a host name or address"),
        ("a..b:9443", "is not a host name or address"),
        (f"{'a' * 64}:9443", "is not a host name or address"),
        (f"{'a.' * 127}:9443", "is not a host name or address"),
        ("\ud800:9443", "is not a host name or address"),
        ("127.0.0.1:", "port '' is not a number from 1 to 65535"),
        ("127.0.0.1:0", "port '0' is not a number from 1"),
        ("127.0.0.1:65536", "port '65536' is not a number from 1"),
        ("127.0.0.1:-1", "port '-1' is not"),
        ("127.0.0.1:+1", "port '+1' is not"),
        ("127.0.0.1:1.0", "port '1.0' is not"),
        ("127.0.0.1:1_0", "port '1_0' is not"),
        ("127.0.0.1: 1", "port ' 1' is not"),
        ("127.0.0.1:1\n", "is not a number from 1"),
        ("127.0.0.1:٣", "port '٣' is not"),
        ("127.0.0.1:9443/", "port '9443/' is not"),
        (f"127.0.0.1:{'9' * 5000}", "is not a number from 1 to 65535"),
    ],
)
def test_what_is_no_endpoint_is_named_with_the_mend(text: str, mend: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the whole text is looked at
        parse_endpoint(text)
    assert str(error.value).startswith(f"endpoint {text!r}")
    assert mend in str(error.value)
    assert "\n" not in str(error.value)


def test_a_host_has_at_most_253_characters() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(longest) == HOST_CHARS_MAX == 253
    assert parse_endpoint(f"{longest}:1") == (longest, 1)
    with pytest.raises(ValueError, match="is not a host name"):
        parse_endpoint(f"{longest}a:1")


def test_any_free_port_is_0_where_that_makes_sense() -> None:
    assert parse_endpoint("127.0.0.1:0", port_min=0) == ("127.0.0.1", 0)
    with pytest.raises(ValueError, match="port '65536' is not a number from 0 to 65535"):
        parse_endpoint("127.0.0.1:65536", port_min=0)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_address_that_was_written_is_read_again(ip: ipaddress.IPv4Address, port: int) -> None:
    address = (str(ip), port)
    assert parse_endpoint(format_endpoint(address)) == address


@given(st.text(st.sampled_from("ab1.:[]%@/- \0é9"), max_size=14) | st.text(max_size=10))
def test_whatever_is_written_is_an_endpoint_or_a_value_error(text: str) -> None:
    for read in (parse_endpoint, parse_bootstrap, numeric_endpoint):
        with contextlib.suppress(ValueError):
            read(text)


# -- bootstrap nodes -----------------------------------------------------------------------------------------------


def test_a_bootstrap_node_may_be_known_by_its_id() -> None:
    assert parse_bootstrap("seed.example.org:9443") == (None, ("seed.example.org", 9443))
    assert parse_bootstrap(f"{NODE.hex()}@[::1]:9443") == (NODE, ("::1", 9443))
    assert parse_bootstrap(f"{NODE.hex().upper()}@h:1") == (NODE, ("h", 1))


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("nowhere", "endpoint 'nowhere' is not HOST:PORT"),
        (f"{NODE}@nowhere", "endpoint 'nowhere' is not HOST:PORT"),
        (f"{NODE}@", "endpoint '' is not HOST:PORT"),
        ("@127.0.0.1:1", "64 hexadecimal digits, not 0; write NODEID@HOST:PORT or HOST:PORT"),
        ("abc@127.0.0.1:1", "bootstrap 'abc@127.0.0.1:1': a node id has 64 hexadecimal digits, not 3; write NODEID@"),
        (f"{'x' * 64}@127.0.0.1:1", "write NODEID@HOST:PORT or HOST:PORT"),
        (f"{NODE}@{NODE}@h:1", "hexadecimal digits, not 129; write NODEID@"),
    ],
)
def test_what_is_no_bootstrap_node_is_named_with_the_mend(text: str, mend: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the whole text is looked at
        parse_bootstrap(text)
    assert mend in str(error.value)


# -- what peers tell -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7:9443", ("192.0.2.7", 9443)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("https://192.0.2.7:9443", ("192.0.2.7", 9443)),
        ("[2001:DB8:0:0::7]:9443", ("2001:db8::7", 9443)),
        ("[fe80::1%eth0]:9443", ("fe80::1%eth0", 9443)),
    ],
)
def test_a_peers_endpoint_is_numeric_and_written_in_one_way(text: str, address: Address) -> None:
    assert numeric_endpoint(text) == address


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "[::]", "224.0.0.1", "[ff02::1]", "[::ffff:0.0.0.0]", "[::ffff:224.0.0.1]"]
)
def test_an_endpoint_of_everybody_or_nobody_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="is not the address of one node"):
        numeric_endpoint(f"{host}:9443")


@pytest.mark.parametrize(
    "text", ["localhost:9443", "node.example.org:9443", "127.1:9443", "0x7f000001:1", "1.2.3.04:1"]
)
def test_no_peer_makes_us_ask_for_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        numeric_endpoint(text)


def test_what_a_peer_writes_at_length_is_not_remembered() -> None:
    """What was read is cached by its text: of 1 MiB each, 4,096 of them are all memory."""
    text = "https://192.0.2.7:9443"
    longest = text + "/" * (ENDPOINT_CHARS_MAX - len(text))
    assert numeric_endpoint(longest) == ("192.0.2.7", 9443)
    before = numeric_endpoint.cache_info().currsize
    for slashes in range(1, 20):
        with pytest.raises(ValueError, match="limit 300") as error:
            numeric_endpoint(longest + "/" * slashes)
        assert len(str(error.value)) < 100
    assert numeric_endpoint.cache_info().currsize == before


def test_an_address_has_one_spelling() -> None:
    assert numeric_endpoint("[::ffff:192.0.2.7]:9443") == ("192.0.2.7", 9443)
    assert numeric_endpoint("[::FFFF:c000:207]:9443") == ("192.0.2.7", 9443)
    assert numeric_endpoint("[0:0::1]:9443") == ("::1", 9443)
    assert numeric_host("2001:DB8::7%eth0") == "2001:db8::7"
    assert numeric_host("FE80::7%eth0") == "fe80::7%eth0"
    assert numeric_host("fe80::7") == "fe80::7"
    assert numeric_host("169.254.0.7") == "169.254.0.7"
    with pytest.raises(ValueError, match="localhost"):
        numeric_host("localhost")


@pytest.mark.parametrize(
    ("text", "teller", "address"),
    [
        ("192.0.2.7:1", "fe80::9%eth0", ("192.0.2.7", 1)),
        ("[2001:db8::7]:1", "192.0.2.9", ("2001:db8::7", 1)),
        ("[2001:db8::7%eth1]:1", "192.0.2.9", ("2001:db8::7", 1)),
        ("[fe80::7]:1", "fe80::9%eth0", ("fe80::7%eth0", 1)),
        ("[fe80::7%eth1]:1", "fe80::9%eth0", ("fe80::7%eth0", 1)),
        ("[::ffff:192.0.2.7]:1", "192.0.2.9", ("192.0.2.7", 1)),
    ],
)
def test_a_told_address_has_the_scope_of_the_link_by_which_it_came(text: str, teller: str, address: Address) -> None:
    assert told_address(text, teller) == address


@pytest.mark.parametrize("teller", ["192.0.2.9", "2001:db8::9", "::1", "fe80::9"])
def test_a_link_local_address_told_from_elsewhere_is_refused(teller: str) -> None:
    for text in ("[fe80::7]:1", "[fe80::7%eth0]:1"):
        with pytest.raises(ValueError, match=re.escape(f"endpoint {text!r}: a link-local address")):
            told_address(text, teller)


def test_nobody_is_told_of_a_scope_nor_of_addresses_on_another_link() -> None:
    assert tellable_endpoint("192.0.2.7:1", "fe80::9%eth0") == "192.0.2.7:1"
    assert tellable_endpoint("[fe80::7%eth0]:1", "fe80::9%eth0") == "[fe80::7]:1"
    for hearer in ("fe80::9%eth1", "192.0.2.9", "2001:db8::9"):
        assert tellable_endpoint("[fe80::7%eth0]:1", hearer) is None


def test_a_path_may_name_our_own_address() -> None:
    assert path_address(("192.0.2.7", 1)) == path_address(("192.0.2.7", 1, "192.0.2.1")) == ("192.0.2.7", 1)
    assert path_local(("192.0.2.7", 1)) is None
    assert path_local(("192.0.2.7", 1, "192.0.2.1")) == "192.0.2.1"


def test_only_ipv6_has_addresses_that_need_an_interface() -> None:
    assert is_link_local("fe80::1")
    assert is_link_local("fe80::1%eth0")
    assert not any(is_link_local(host) for host in ("169.254.0.1", "::1", "fd00::1", "2001:db8::1", "localhost"))


@pytest.mark.parametrize(
    ("host", "numeric", "unspecified", "loopback"),
    [
        ("0.0.0.0", True, True, False),
        ("::", True, True, False),
        ("::ffff:0.0.0.0", True, True, False),
        ("127.0.0.1", True, False, True),
        ("127.255.0.1", True, False, True),
        ("::1", True, False, True),
        ("::ffff:127.0.0.1", True, False, True),
        ("192.0.2.7", True, False, False),
        ("2001:db8::7", True, False, False),
        ("fe80::1%lo", True, False, False),
        ("localhost", False, False, False),
        ("", False, False, False),
    ],
)
def test_kinds_of_addresses_are_told_apart(host: str, numeric: bool, unspecified: bool, loopback: bool) -> None:
    assert (is_numeric(host), is_unspecified(host), is_loopback(host)) == (numeric, unspecified, loopback)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.0.1",
        "100.64.0.1",
        "::1",
        "fd00::7",
        "fe80::1",
        "fe80::1%lo",
        "::ffff:10.0.0.1",
    ],
)
def test_a_private_address_is_only_for_private_peers_to_tell(host: str) -> None:
    assert is_private(host)
    assert may_tell("10.0.0.1", (host, 1))
    assert may_tell("::1", (host, 1))
    assert not may_tell("198.51.100.7", (host, 1))
    assert not may_tell("2001:db8::7", (host, 1))


@pytest.mark.parametrize(
    "host", ["198.51.100.7", "11.0.0.0", "172.32.0.1", "192.169.0.1", "2001:db8::7", "::ffff:8.8.8.8"]
)
def test_a_public_address_is_for_everybody_to_tell(host: str) -> None:
    assert not is_private(host)
    assert may_tell("10.0.0.1", (host, 1))
    assert may_tell("198.51.100.7", (host, 1))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("198.51.100.0", "198.51.100.255", True),
        ("198.51.100.0", "198.51.101.0", False),
        ("198.51.100.7", "::ffff:198.51.100.9", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("0.0.7.1", "::7:0:0:0:1", False),
    ],
)
def test_a_network_is_what_one_owner_gets(one: str, other: str, same: bool) -> None:
    assert (public_network(one) == public_network(other)) == same
    assert public_network(one) is not None


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1%lo", "seed.example.org", ""])
def test_what_is_private_or_a_name_has_no_public_network(host: str) -> None:
    assert public_network(host) is None


# -- texts for peers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("no handler for 'é'", "no handler for 'é'"),
        ("a" * 512, "a" * 512),
        ("a" * 513, "a" * 511 + "\u2026"),
        ("a" * 10**6, "a" * 511 + "\u2026"),
        ("a lone \ud800 surrogate", "a lone ? surrogate"),
    ],
)
def test_a_reason_is_short_enough_and_can_travel(text: str, told: str) -> None:
    assert clip(text) == told
    assert len(told) <= REASON_CHARACTERS_MAX == 512


def test_headers_are_texts() -> None:
    headers = {"trace": "ab", "": ""}
    assert validate_headers(headers) == headers
    assert validate_headers(headers) is not headers
    with pytest.raises(ValueError, match=r"headers: 'retries': 3 is not a text"):
        validate_headers({"trace": "ab", "retries": 3})


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "sensors.kitchen", "A-1._.x_y", "0", "a" * NAME_BYTES_MAX])
def test_a_name_is_dotted_segments(name: str) -> None:
    assert validate_name(name, what="topic") == name


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "a b", "a\n", "a.*", "a/b", "é", "a" * 256])
@pytest.mark.parametrize("what", ["topic", "procedure"])
def test_a_bad_name_is_shown_with_the_rule(name: str, what: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the whole text is looked at
        validate_name(name, what=what)
    assert str(error.value) == (
        f"{what} {name!r} is not valid: dot-separated segments of letters, digits, '_' and '-', "
        "at most 255 bytes, such as sensors.kitchen"
    )
