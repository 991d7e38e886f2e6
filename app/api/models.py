"""What goes over the wire: request and answer models with their rules and examples."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.risk.types import YEARS, RiskLevel, RiskType, Scenario

YEAR_FIRST, YEAR_LAST = YEARS[0], YEARS[-1]
ASSET_VALUE_MAX = 1e15

# `strict` keeps "37.5" and true from passing as numbers.
Latitude = Annotated[float, Field(strict=True, ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(strict=True, ge=-180, le=180, allow_inf_nan=False)]
Year = Annotated[int, Field(strict=True, ge=YEAR_FIRST, le=YEAR_LAST)]
# No control character. Written out, because \P{Cc} is unknown to many readers of the schema.
SiteId = Annotated[
    str, Field(min_length=1, max_length=255, pattern=r"^[^\u0000-\u001f\u007f-\u009f]*$")
]


class Request(BaseModel):
    """A part of a request: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SiteRequest(Request):
    """A place to assess."""

    site_id: SiteId = Field(description="The caller's name for it, unique in the request")
    latitude: Latitude = Field(description="Degrees north, WGS 84")
    longitude: Longitude = Field(description="Degrees east, WGS 84")


class YearsRequest(Request):
    """A span of years, both ends included."""

    from_: Year = Field(alias="from", default=YEAR_FIRST)
    to: Year = YEAR_LAST


class AssessmentRequest(Request):
    """One assessment of one or more sites."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sites": [
                        {"site_id": "seoul", "latitude": 37.5665, "longitude": 126.978},
                        {"site_id": "busan", "latitude": 35.1796, "longitude": 129.0756},
                    ],
                    "asset_value": 1e9,
                    "insurance_coverage_rate": 0.3,
                    "scenarios": ["SSP126", "SSP585"],
                    "years": {"from": 2021, "to": 2100},
                }
            ]
        }
    )

    sites: list[SiteRequest] = Field(min_length=1)
    asset_value: float = Field(
        strict=True,
        ge=0,
        le=ASSET_VALUE_MAX,
        allow_inf_nan=False,
        description="Money, per site",
    )
    insurance_coverage_rate: float = Field(
        strict=True, ge=0, le=1, allow_inf_nan=False, description="Insured share, 0-1"
    )
    scenarios: list[Scenario] = Field(
        default_factory=lambda: list(Scenario),
        min_length=1,
        max_length=len(Scenario),
        json_schema_extra={"uniqueItems": True},
    )
    years: YearsRequest = Field(default_factory=YearsRequest)


class AssessmentAccepted(BaseModel):
    """The assessment is stored and will be worked on."""

    assessment_id: UUID
    status: str
    total_tasks: int = Field(description="sites x scenarios x years")


class SiteStatus(BaseModel):
    """Progress of one site."""

    site_id: str
    latitude: float
    longitude: float
    total_tasks: int
    done_tasks: int
    failed_tasks: int
    missing_inputs: int


class FailedTaskStatus(BaseModel):
    """A task that used up its attempts, with its last error."""

    site_id: str
    scenario: Scenario
    year: int
    attempts: int
    error: str


class AssessmentStatus(BaseModel):
    """Progress of an assessment."""

    assessment_id: UUID
    status: str = Field(description="queued, running, succeeded or failed")
    total_tasks: int
    done_tasks: int
    failed_tasks: int
    missing_inputs: int = Field(description="Results that lack an input; never taken for zero")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    sites: list[SiteStatus]
    failures: list[FailedTaskStatus] = Field(description="The first failed tasks")


class ResultRow(BaseModel):
    """One site, scenario, year and peril; a number that is not available is null."""

    site_id: str
    scenario: Scenario
    year: int
    risk_type: RiskType
    hazard_score: float | None = Field(description="H, 0-100")
    exposure_score: float | None = Field(description="E, 0-100")
    vulnerability_score: float | None = Field(description="V, 0-100")
    base_aal: float | None = Field(description="Share of the asset value per year")
    final_aal: float | None = Field(description="After vulnerability and insurance")
    expected_loss: float | None = Field(description="Money per year")
    integrated_risk: float | None = Field(description="H x E x V / 10,000, 0-100")
    risk_level: RiskLevel | None
    missing_inputs: list[str]


class ResultsPage(BaseModel):
    """Result rows in key order; `next` is the path of the following page."""

    assessment_id: UUID
    results: list[ResultRow]
    next: str | None


class AverageRow(BaseModel):
    """Means of one peril over sites, scenarios and years that have the number."""

    risk_type: RiskType
    hazard_score: float | None
    exposure_score: float | None
    vulnerability_score: float | None
    final_aal: float | None
    expected_loss: float | None
    integrated_risk: float | None
    results: int
    missing_inputs: int


class HighestRisk(BaseModel):
    """The worst scenario and year of one site and peril."""

    site_id: str
    risk_type: RiskType
    scenario: Scenario
    year: int
    integrated_risk: float
    risk_level: RiskLevel


class YearRow(BaseModel):
    """AAL and expected loss of one scenario and year, summed over sites and perils."""

    scenario: Scenario
    year: int
    final_aal: float | None
    expected_loss: float | None
    missing_inputs: int


class SiteSummary(BaseModel):
    """One site: its mean yearly AAL and loss over all perils, and its highest risk."""

    site_id: str
    mean_final_aal: float | None
    mean_expected_loss: float | None
    missing_inputs: int
    highest_risk: HighestRisk | None


class AssessmentSummary(BaseModel):
    """What an assessment found so far; complete once its status says it ended."""

    assessment_id: UUID
    status: str
    averages: list[AverageRow]
    highest_risks: list[HighestRisk]
    aal_by_year: list[YearRow]
    sites: list[SiteSummary]


class ErrorDetail(BaseModel):
    """What is wrong; field, value and rule when one input is to blame."""

    code: str
    message: str
    field: str | None = None
    value: Any = None
    rule: str | None = None
    faults: list[dict[str, Any]] | None = None
    request_id: str | None = None
    pool: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """The body of every answer of 400 and above."""

    error: ErrorDetail
