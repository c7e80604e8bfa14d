"""Numbers as Russian texts write them, formatted here alone. What is missing is «—», infinity «∞»."""

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int) -> str:
    """``value`` with ``digits`` decimals and a comma: «0,50»; zero has no sign."""
    return _write(value, f"z.{digits}f")


def signed(value: float | None, digits: int = 1) -> str:
    """``value`` with its sign: «+1,5», «−0,2»."""
    return _write(value, f"+.{digits}f")


def thousands(value: float | None) -> str:
    """A whole number, its thousands parted by no-break spaces: «5 871»."""
    return _write(value, ",.0f")


def rate(value: float | None) -> str:
    """A learning rate or another setting, as short as it can be: «0,0032», «1·10⁻⁵»."""
    return _write(value, "g")


def exact(value: float | None) -> str:
    """A setting with every digit that it has: «0,305», «3,2·10⁻⁵»."""
    return _write(value, ".15g")


def scientific(value: float | None) -> str:
    """A ``value`` of any size: «0,26», but «1,2·10⁻⁷»."""
    return _write(value, ".1e" if value and abs(value) < 0.01 else ".2f")


def percent(share: float | None, digits: int) -> str:
    """A share, 0..1: «31,4 %»."""
    return number(None if share is None else 100 * share, digits) + " %"


def interval(low: float | None, high: float | None, digits: int) -> str:
    """«[−0,4; +1,2]»."""
    return f"[{signed(low, digits)}; {signed(high, digits)}]"


def probability(value: float | None) -> str:
    """A p-value: «0,038», below a thousandth «< 0,001»."""
    return "< 0,001" if value is not None and value < 0.001 else number(value, 3)


def _write(value: float | None, form: str) -> str:
    if value is None or math.isnan(value):
        return "—"
    if math.isinf(value):
        return ("−" if value < 0 else "+" if form[0] == "+" else "") + "∞"
    text, _, exponent = format(value, form).partition("e")
    power = f"·10{str(int(exponent)).translate(_SUPERSCRIPTS)}" if exponent else ""
    return text.replace(",", "\u00a0").replace(".", ",").replace("-", "−") + power
