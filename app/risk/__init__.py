"""The pure risk model: types in `types`, sub-scores in `factors`, the rest in `model`."""

from app.risk.model import SiteModel, assess_task
from app.risk.types import (
    YEARS,
    AssetTerms,
    Building,
    ProbabilityBins,
    RiskLevel,
    RiskResult,
    RiskType,
    Scenario,
    SiteInputs,
    Structure,
    TaskInputs,
)

__all__ = [
    "YEARS",
    "AssetTerms",
    "Building",
    "ProbabilityBins",
    "RiskLevel",
    "RiskResult",
    "RiskType",
    "Scenario",
    "SiteInputs",
    "SiteModel",
    "Structure",
    "TaskInputs",
    "assess_task",
]
