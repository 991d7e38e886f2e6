"""The integrated risk of hazard, exposure and vulnerability, and its level."""

from bisect import bisect_right

from app.risk.types import RiskLevel

LEVEL_LIMITS = (20.0, 40.0, 60.0, 80.0)
LEVELS = tuple(RiskLevel)


def integrated_risk(hazard: float, exposure: float, vulnerability: float) -> float:
    """Return H x E x V / 10,000, 0-100, from three scores of 0-100."""
    return hazard * exposure * vulnerability / 10_000


def risk_level(risk: float) -> RiskLevel:
    """Return the level of an integrated risk; a limit belongs to the level above it.

    Raises ValueError outside 0-100 (also for NaN): then an input score was out of range.
    """
    if not 0 <= risk <= 100:
        raise ValueError(f"integrated risk {risk} is outside 0..100; check the hazard score")
    return LEVELS[bisect_right(LEVEL_LIMITS, risk)]
