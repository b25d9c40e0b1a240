"""Numbers for people to read: a true minus sign, as many digits as matter, and nothing rounded to zero."""

from __future__ import annotations

from caseback.reports.document import checked

__all__ = ["number", "percent", "signed"]


@checked
def number(value: float) -> str:
    """A number without a plus sign.

    Examples
    --------
    >>> number(1.9234), number(-0.0342), number(3.1e-6), number(0.0)
    ('1.92', '−0.034', '3.1e−6', '0')
    """
    return _adaptive(value, "")


@checked
def signed(value: float) -> str:
    """A number with its sign.

    Examples
    --------
    >>> signed(1.9234), signed(-0.0342), signed(0.0)
    ('+1.92', '−0.034', '0')
    """
    return _adaptive(value, "+")


@checked
def percent(probability: float) -> str:
    """A probability as a percentage, which reads 0 % or 100 % only where it is exactly that.

    Examples
    --------
    >>> percent(0.6123), percent(0.0123), percent(0.00001), percent(0.9999), percent(1.0)
    ('61%', '1.2%', '<0.1%', '>99.9%', '100%')
    """
    if 0 < probability < 0.0005:
        return "<0.1%"
    if 0.9995 < probability < 1:
        return ">99.9%"
    whole = 0.0995 <= probability < 0.995 or probability in (0, 1)
    return f"{100 * probability:.0f}%" if whole else f"{100 * probability:.1f}%"


def _adaptive(value: float, sign: str) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 0.00095:
        return format(value, sign + (".2f" if size >= 0.0995 else ".3f")).replace("-", "−")
    mantissa, exponent = format(value, sign + ".1e").split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "−")
