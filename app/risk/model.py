"""The risk model: one task's inputs in, nine results out. Pure: no database, no clock."""

from app.risk.exposure import exposure_score
from app.risk.factor import site_factor_scores, year_factor_scores
from app.risk.integrated import integrated_risk, risk_level
from app.risk.loss import base_aal, expected_loss, final_aal
from app.risk.score import Score, union
from app.risk.types import AssetTerms, RiskResult, RiskType, SiteInputs, TaskInputs
from app.risk.vulnerability import vulnerability_score

__all__ = ["AssetTerms", "RiskResult", "SiteModel", "assess_task"]

YearScores = tuple[tuple[RiskType, Score, Score], ...]
NO_HAZARD = ("hazard",)
NO_PROBABILITY = ("probability",)


class SiteModel:
    """One site, ready to be assessed for many tasks.

    Factors that no year changes are scored once, exposure and vulnerability once per
    year. Two threads may share it: at worst they score the same year twice.
    """

    def __init__(self, site: SiteInputs) -> None:
        self._site = site
        self._site_factors = site_factor_scores(site.building)
        self._years: dict[int, YearScores] = {}

    def assess(self, task: TaskInputs, terms: AssetTerms) -> tuple[RiskResult, ...]:
        """Return the nine results of one task, in the order of RiskType."""
        return tuple(
            _result(risk_type, exposure, vulnerability, task, terms)
            for risk_type, exposure, vulnerability in self._year_scores(task.year)
        )

    def _year_scores(self, year: int) -> YearScores:
        scores = self._years.get(year)
        if scores is None:
            scores = self._years[year] = self._score_year(year)
        return scores

    def _score_year(self, year: int) -> YearScores:
        factors = self._site_factors | year_factor_scores(self._site, year)
        scores = []
        for risk_type in RiskType:
            exposure = exposure_score(risk_type, factors)
            vulnerability = vulnerability_score(risk_type, factors, exposure)
            scores.append((risk_type, exposure, vulnerability))
        return tuple(scores)


def assess_task(site: SiteInputs, task: TaskInputs, terms: AssetTerms) -> tuple[RiskResult, ...]:
    """Return the nine results of one task, in the order of RiskType.

    For more than one task of a site, build a `SiteModel` once and use its `assess`.
    """
    return SiteModel(site).assess(task, terms)


def _result(
    risk_type: RiskType,
    exposure: Score,
    vulnerability: Score,
    task: TaskInputs,
    terms: AssetTerms,
) -> RiskResult:
    hazard = task.hazard.get(risk_type)
    bins = task.probability.get(risk_type)
    base = None if bins is None else base_aal(bins)
    final = _final(base, vulnerability, terms)
    risk = _integrated(hazard, exposure, vulnerability)
    return RiskResult(
        risk_type=risk_type,
        exposure_score=exposure.value,
        exposure_missing=exposure.missing,
        vulnerability_score=vulnerability.value,
        vulnerability_missing=vulnerability.missing,
        hazard_score=hazard,
        base_aal=base,
        final_aal=final,
        expected_loss=None if final is None else expected_loss(final, terms),
        integrated_risk=risk,
        risk_level=None if risk is None else risk_level(risk),
        # The vulnerability already names what the exposure lacks.
        aal_missing=union(
            NO_HAZARD if hazard is None else (),
            NO_PROBABILITY if bins is None else (),
            vulnerability.missing,
        ),
    )


def _final(base: float | None, vulnerability: Score, terms: AssetTerms) -> float | None:
    if base is None or vulnerability.value is None:
        return None
    return final_aal(base, vulnerability.value, terms.insurance_coverage_rate)


def _integrated(hazard: float | None, exposure: Score, vulnerability: Score) -> float | None:
    if hazard is None or exposure.value is None or vulnerability.value is None:
        return None
    return integrated_risk(hazard, exposure.value, vulnerability.value)
