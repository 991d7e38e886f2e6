"""What the database holds after an assessment equals the model worked out a second time."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from tests.fix_api import ASSESSMENTS, BUSAN, SEOUL, Api, assessment_body
from tests.fix_sql import Row, Sql
from tests.stack.recompute import PERILS, Expected, expected

ASSET_VALUE, INSURED = 1_000_000_000.0, 0.3
SCENARIOS = ("SSP126", "SSP245", "SSP370", "SSP585")

Key = tuple[str, int, str]


def floats(literal: str) -> list[float]:
    """Return the numbers of a PostgreSQL array literal."""
    return [float(part) for part in literal.strip("{}").split(",")]


def building_of(sql: Sql, cell: str) -> dict[str, Any]:
    """Return the building of a cell with typed values."""
    (row,) = sql.rows(f"SELECT * FROM reference.buildings WHERE cell_id = {cell}")
    typed: dict[str, Any] = {name: float(row[name]) for name in row if name.endswith("_m")}
    typed["structure"] = row["structure"]
    typed["has_basement"] = row["has_basement"] == "t"
    typed["storeys"], typed["built_year"] = int(row["storeys"]), int(row["built_year"])
    return typed


def expected_of_site(sql: Sql, cell: str) -> dict[Key, Expected]:
    """Return what each (scenario, year, peril) of the site in a cell must be."""
    building = building_of(sql, cell)
    people = {
        int(row["year"]): float(row["population"])
        for row in sql.rows(f"SELECT * FROM reference.population WHERE cell_id = {cell}")
    }
    hazards: dict[tuple[str, int], dict[str, float]] = {}
    bins: dict[tuple[str, int], dict[str, list[tuple[float, float]]]] = {}
    for row in sql.rows(
        "SELECT * FROM reference.hazard_results"
        " JOIN reference.probability_results USING (cell_id, scenario, year, risk_type)"
        f" WHERE cell_id = {cell}"
    ):
        task = (row["scenario"], int(row["year"]))
        hazards.setdefault(task, {})[row["risk_type"]] = float(row["hazard_score"])
        pairs = zip(floats(row["bin_probabilities"]), floats(row["bin_damage_rates"]), strict=True)
        bins.setdefault(task, {})[row["risk_type"]] = list(pairs)
    return {
        (scenario, year, peril): one
        for (scenario, year), hazard in hazards.items()
        for peril, one in expected(
            building,
            people[min(year, 2050)],
            year,
            hazard,
            bins[scenario, year],
            ASSET_VALUE,
            INSURED,
        ).items()
    }


def stored(sql: Sql, assessment_id: str, site_id: str) -> dict[Key, Row]:
    """Return the stored results of a site by (scenario, year, peril)."""
    rows = sql.rows(
        "SELECT * FROM risk.exposure_results"
        " JOIN risk.vulnerability_results"
        " USING (assessment_id, site_no, scenario, year, risk_type)"
        " JOIN risk.aal_scaled_results"
        " USING (assessment_id, site_no, scenario, year, risk_type)"
        " JOIN risk.assessment_sites USING (assessment_id, site_no)"
        f" WHERE assessment_id = '{assessment_id}' AND site_id = '{site_id}'"
    )
    return {(row["scenario"], int(row["year"]), row["risk_type"]): row for row in rows}


def close(text: str, number: float) -> bool:
    """Return whether a stored number equals the recomputed one but for rounding."""
    return math.isclose(float(text), number, rel_tol=1e-9, abs_tol=1e-9)


def test_every_stored_result_equals_its_recomputation(finished: dict[str, Any], sql: Sql) -> None:
    for site in (SEOUL, BUSAN):
        cell = sql.value(
            f"SELECT cell_id FROM risk.assessment_sites WHERE site_id = '{site['site_id']}'"
            f" AND assessment_id = '{finished['assessment_id']}'"
        )
        wanted = expected_of_site(sql, cell)
        found = stored(sql, finished["assessment_id"], str(site["site_id"]))
        assert len(wanted) == len(found) == 4 * 80 * len(PERILS)
        for key, one in wanted.items():
            row = found[key]
            assert close(row["exposure_score"], one.exposure), key
            assert close(row["vulnerability_score"], one.vulnerability), key
            assert close(row["base_aal"], one.base_aal), key
            assert close(row["final_aal"], one.final_aal), key
            assert close(row["expected_loss"], one.expected_loss), key
            assert close(row["integrated_risk"], one.integrated), key
            assert row["risk_level"] == one.level, key


def test_the_site_is_put_into_the_nearest_cell(finished: dict[str, Any], sql: Sql) -> None:
    wrong = sql.rows(
        "SELECT site_id FROM risk.assessment_sites AS site"
        f" WHERE assessment_id = '{finished['assessment_id']}' AND cell_id <> ("
        " SELECT cell_id FROM reference.grid_cells AS cell"
        " ORDER BY (cell.latitude - site.latitude) ^ 2 + (cell.longitude - site.longitude) ^ 2"
        " LIMIT 1)"
    )
    assert wrong == []


def test_a_missing_input_is_named_and_counted_and_never_a_zero(api: Api, sql: Sql) -> None:
    (cell,) = sql.rows(
        "SELECT latitude, longitude FROM reference.grid_cells AS cell WHERE NOT EXISTS"
        " (SELECT FROM reference.population AS p WHERE p.cell_id = cell.cell_id) LIMIT 1"
    )
    place = {name: float(value) for name, value in cell.items()}
    final = api.run(assessment_body({"site_id": "at sea", **place}))
    assert final["status"] == "succeeded"
    assert final["missing_inputs"] > 0
    rows = sql.rows(
        "SELECT exposure_score, missing_inputs FROM risk.exposure_results"
        f" WHERE assessment_id = '{final['assessment_id']}' AND risk_type = 'water_stress'"
    )
    assert rows
    assert all(row["exposure_score"] == "" for row in rows)
    assert all("population" in row["missing_inputs"] for row in rows)


def test_results_are_paged_without_loss_or_repetition(api: Api, finished: dict[str, Any]) -> None:
    url: str | None = f"{ASSESSMENTS}/{finished['assessment_id']}/results?limit=1000"
    seen = []
    while url:
        page = api.http.get(url).raise_for_status().json()
        seen += [
            (row["site_id"], row["scenario"], row["year"], row["risk_type"])
            for row in page["results"]
        ]
        url = page.get("next")
    assert len(seen) == len(set(seen)) == 2 * 4 * 80 * 9


def test_filters_and_csv_give_the_same_rows(api: Api, finished: dict[str, Any]) -> None:
    query = "site_id=busan&scenario=SSP370&risk_type=typhoon"
    url = f"{ASSESSMENTS}/{finished['assessment_id']}/results?{query}"
    rows = api.http.get(url).raise_for_status().json()["results"]
    text = api.http.get(f"{url}&format=csv").raise_for_status()
    assert text.headers["content-type"].startswith("text/csv")
    assert len(rows) == 80
    assert {row["year"] for row in rows} == set(range(2021, 2101))
    assert text.text.count("\r\n") == 1 + 80
    for row, line in zip(rows, csv.DictReader(io.StringIO(text.text)), strict=True):
        assert line.keys() == row.keys()
        for name, value in row.items():
            assert same(line[name], value), (name, line[name], value)


def same(text: str, value: Any) -> bool:
    """Return True if a field of CSV says what JSON says."""
    if isinstance(value, float):
        return float(text) == value
    return text == (
        "" if value is None else "|".join(value) if isinstance(value, list) else str(value)
    )


def test_csv_is_paged_without_loss_or_repetition(api: Api) -> None:
    places = [{**SEOUL, "site_id": name} for name in ('a "quoted", name', "b")]
    body = assessment_body(*places, years={"from": 2030, "to": 2032}, scenarios=["SSP126"])
    assessment_id = api.run(body)["assessment_id"]
    url = f"{ASSESSMENTS}/{assessment_id}/results?format=csv&limit=10"
    whole = api.http.get(f"{ASSESSMENTS}/{assessment_id}/results?format=csv").raise_for_status()
    lines = whole.text.splitlines(keepends=True)
    seen = lines[:1]
    while url:
        page = api.http.get(url).raise_for_status()
        header, *rows = page.text.splitlines(keepends=True)
        assert header == lines[0]
        seen += rows
        url = page.links.get("next", {}).get("url", "")
    assert seen == lines
    assert len(seen) == 1 + 2 * 3 * 9


def test_a_name_that_looks_like_a_formula_is_text_in_csv(api: Api) -> None:
    signs = [
        "=cmd|' /C calc'!A0",
        "+1",
        "-12.5",
        "@SUM(A1)",
        "\uff1d1",
        "\uff0b1",
        "\uff0d1",
        "\uff201",
    ]
    # The last ones would be cells of their own for whoever splits at semicolons, or at the quote.
    names = [*signs, "plain", "'quoted", "a=b", "a;=1+1;", 'a";=1+1;"']
    places = [{**SEOUL, "site_id": name} for name in names]
    body = assessment_body(*places, years={"from": 2030, "to": 2030}, scenarios=["SSP126"])
    url = f"{ASSESSMENTS}/{api.run(body)['assessment_id']}/results"
    rows = api.http.get(url).raise_for_status().json()["results"]
    text = api.http.get(f"{url}?format=csv").text
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [row["site_id"] for row in rows[::9]] == names
    escaped = [f"'{name}" if name in signs else name for name in names]
    split = csv.reader(io.StringIO(text), delimiter=";")
    assert not any(cell[:1] in "=+-@" for line in split for cell in line if cell)
    assert [line["site_id"] for line in lines[::9]] == escaped
    for row, line in zip(rows, lines, strict=True):
        assert all(same(line[name], row[name]) for name in row if name != "site_id")


def test_the_summary_agrees_with_the_rows(api: Api, finished: dict[str, Any], sql: Sql) -> None:
    url = f"{ASSESSMENTS}/{finished['assessment_id']}/summary"
    summary = api.http.get(url).raise_for_status().json()
    highest = sql.value(
        "SELECT max(integrated_risk) FROM risk.aal_scaled_results"
        f" WHERE assessment_id = '{finished['assessment_id']}'"
    )
    shown = max(site["highest_risk"]["integrated_risk"] for site in summary["sites"])
    assert math.isclose(shown, float(highest))


def test_progress_events_end_with_the_assessment(api: Api) -> None:
    assessment_id = api.submit(assessment_body(SEOUL, BUSAN)).json()["assessment_id"]
    events = []
    with api.http.stream("GET", f"{ASSESSMENTS}/{assessment_id}/events", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [line for line in stream.iter_lines() if line.startswith("data:")]
    assert events
    assert '"succeeded"' in events[-1].replace(" ", "")


def test_the_events_of_a_finished_assessment_are_its_state_and_the_end(
    api: Api, finished: dict[str, Any]
) -> None:
    text = api.http.get(f"{ASSESSMENTS}/{finished['assessment_id']}/events").text
    names, data = (
        [line for line in text.splitlines() if line.startswith(kind)] for kind in ("event", "data")
    )
    assert names == ["event: progress", "event: end"]
    assert len(set(data)) == 1
    assert '"succeeded"' in data[0]


def test_one_scenario_and_year_make_one_task(api: Api) -> None:
    body = assessment_body(scenarios=["SSP245"], years={"from": 2030, "to": 2030})
    response = api.submit(body)
    assert response.json()["total_tasks"] == 1
    assert response.headers["Location"].endswith(response.json()["assessment_id"])
    assert api.wait_finished(response.json()["assessment_id"])["done_tasks"] == 1
