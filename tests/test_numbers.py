"""Numbers are written the Russian way, whatever they are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labnn.kit import numbers

VALUES = st.none() | st.floats() | st.integers(-(10**30), 10**30)
WRITERS = {
    "number": lambda value: numbers.number(value, 2),
    "signed": numbers.signed,
    "thousands": numbers.thousands,
    "rate": numbers.rate,
    "percent": lambda value: numbers.percent(value, 1),
    "interval": lambda value: numbers.interval(value, value, 3),
    "probability": numbers.probability,
}


@pytest.mark.parametrize("name", WRITERS)
@given(value=VALUES)
def test_no_number_is_written_in_english(name, value):
    text = WRITERS[name](value)
    assert text and not set(text) & set(".-einfaN")
    if value is None or value != value:
        assert "—" in text


@given(st.floats(-1e9, 1e9), st.integers(0, 6))
def test_a_written_number_is_the_number_to_its_decimals(value, digits):
    for text in (numbers.number(value, digits), numbers.signed(value, digits)):
        read = float(text.replace("−", "-").replace(",", "."))
        assert math.isclose(read, value, rel_tol=1e-12, abs_tol=0.500001 * 10**-digits)


@pytest.mark.parametrize(
    "text, expected",
    [
        (numbers.number(-0.0001, 2), "0,00"),
        (numbers.number(-1.5, 1), "−1,5"),
        (numbers.signed(math.inf), "+∞"),
        (numbers.interval(-math.inf, 1.25, 1), "[−∞; +1,2]"),
        (numbers.thousands(61_100_840), "61\u00a0100\u00a0840"),
        (numbers.rate(3.2e-3), "0,0032"),
        (numbers.rate(1e-5), "1·10⁻⁵"),
        (numbers.percent(0.314, 1), "31,4 %"),
        (numbers.probability(0.0004), "< 0,001"),
        (numbers.probability(math.nan), "—"),
    ],
)
def test_numbers_as_texts_have_them(text, expected):
    assert text == expected
