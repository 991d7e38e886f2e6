"""Average annual loss (AAL), as a share of the asset value and as money."""

from app.risk.types import AssetTerms, ProbabilityBins


def base_aal(bins: ProbabilityBins) -> float:
    """Return the sum over bins of probability x damage rate, a share per year (0-1).

    Raises ValueError when the two tuples differ in length.
    """
    pairs = zip(bins.probabilities, bins.damage_rates, strict=True)
    return sum(probability * damage_rate for probability, damage_rate in pairs)


def final_aal(base: float, vulnerability: float, insurance_coverage_rate: float) -> float:
    """Return base x (0.9 + 0.2 x V/100) x (1 - insurance coverage rate), 0-1.1.

    V is the vulnerability score, 0-100: it moves the base by a tenth either way.
    """
    return base * (0.9 + 0.2 * vulnerability / 100) * (1 - insurance_coverage_rate)


def expected_loss(final: float, terms: AssetTerms) -> float:
    """Return final AAL x asset value: uninsured money lost per average year."""
    return final * terms.asset_value
