from __future__ import annotations

import pytest

from macula_trio._rpc.errors_map import CALL_ERRORS, was_not_started


@pytest.mark.parametrize("code", ["busy", "draining", "no_handler", "gateway_bootstrap_only"])
def test_a_refusal_before_the_handler_lets_another_provider_try(code: str) -> None:
    assert was_not_started(code)


@pytest.mark.parametrize("code", ["handler_error", "internal_error", "timeout", "cancelled", "out_of_stock", ""])
def test_what_may_have_run_is_never_run_again(code: str) -> None:
    assert not was_not_started(code)


def test_every_code_has_a_name_for_the_wire_and_a_meaning_for_people() -> None:
    for code, info in CALL_ERRORS.items():
        assert code.replace("_", "").isalpha()
        assert code == code.lower()
        assert info.meaning
