"""Buildings, sites and tasks for the tests of the risk model: one known, and any at all."""

from dataclasses import replace

from hypothesis import strategies as st

from app.risk import (
    YEARS,
    AssetTerms,
    Building,
    ProbabilityBins,
    RiskType,
    SiteInputs,
    Structure,
    TaskInputs,
)

KNOWN_BUILDING = Building(
    structure="masonry",
    storeys=5,
    built_year=1991,
    has_basement=True,
    elevation_m=50.0,
    river_distance_m=1000.0,
    coast_distance_m=10_000.0,
)
KNOWN_SITE = SiteInputs(KNOWN_BUILDING, {2021: 100_000.0, 2050: 10_000.0})
KNOWN_BINS = ProbabilityBins((0.1, 0.02), (0.05, 0.5))
TERMS = AssetTerms(asset_value=1_000_000.0, insurance_coverage_rate=0.25)


def constant_population(people: float) -> dict[int, float]:
    """Return that many people for every year there is a population for."""
    return dict.fromkeys(range(2021, 2051), people)


scores = st.floats(0, 100)
distances = st.floats(0, 1_000_000)
populations = st.floats(0, 1e9)
years = st.sampled_from(YEARS)

buildings = st.builds(
    Building,
    structure=st.sampled_from(Structure),
    storeys=st.integers(1, 200),
    built_year=st.integers(1800, 2100),
    has_basement=st.booleans(),
    elevation_m=st.floats(-500, 9000),
    river_distance_m=distances,
    coast_distance_m=distances,
)
sites = st.builds(
    SiteInputs,
    buildings,
    populations.map(constant_population),
)
bins = st.lists(st.tuples(st.floats(0, 0.1), st.floats(0, 1)), min_size=1, max_size=10).map(
    lambda pairs: ProbabilityBins(*(tuple(column) for column in zip(*pairs, strict=True)))
)
tasks = st.builds(
    TaskInputs,
    year=years,
    hazard=st.fixed_dictionaries(dict.fromkeys(RiskType, scores)),
    probability=st.fixed_dictionaries(dict.fromkeys(RiskType, bins)),
)
terms = st.builds(AssetTerms, st.floats(0, 1e15), st.floats(0, 1))


def known_task(year: int = 2021, hazard: float = 50.0) -> TaskInputs:
    """Return a task with the same hazard and bins for every peril."""
    return TaskInputs(year, dict.fromkeys(RiskType, hazard), dict.fromkeys(RiskType, KNOWN_BINS))


def without(building: Building, field: str) -> Building:
    """Return the building with one field not known."""
    return replace(building, **{field: None})
