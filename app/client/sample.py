"""The sample assessment: eight cities, every scenario and year, 2,560 tasks."""

from typing import Any

SITES = (
    ("seoul", 37.5665, 126.9780),
    ("busan", 35.1796, 129.0756),
    ("incheon", 37.4563, 126.7052),
    ("daejeon", 36.3504, 127.3845),
    ("gwangju", 35.1595, 126.8526),
    ("ulsan", 35.5384, 129.3114),
    ("jeju", 33.4996, 126.5312),
    ("gangneung", 37.7519, 128.8761),
)


def sample_request() -> dict[str, Any]:
    """Return the body of the sample assessment."""
    return {
        "sites": [
            {"site_id": name, "latitude": latitude, "longitude": longitude}
            for name, latitude, longitude in SITES
        ],
        "asset_value": 1e9,
        "insurance_coverage_rate": 0.3,
        "scenarios": ["SSP126", "SSP245", "SSP370", "SSP585"],
        "years": {"from": 2021, "to": 2100},
    }
