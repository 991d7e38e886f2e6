-- SYNTHETIC reference data: invented numbers with plausible shapes, so that the service
-- can be run and measured without real data. Deterministic: the same step gives the same
-- rows. Not for decisions about real places.

CREATE FUNCTION reference.synthetic_noise(first bigint, second bigint)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    (first * 2654435761 + second * 40503 * 65537 + 12345) % 4294967291 * 48271 % 2147483647
)::double precision / 2147483647;
COMMENT ON FUNCTION reference.synthetic_noise IS
    'SYNTHETIC: a repeatable number in 0..1 from two small integers, in the place of random()';

CREATE FUNCTION reference.synthetic_warming(pathway risk.scenario, in_year integer)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE pathway
    -- Peaks in the middle of the century and falls a little.
    WHEN 'SSP126' THEN 0.25 * ((in_year - 2021) / 79.0) * (2 - (in_year - 2021) / 79.0 * 1.2)
    WHEN 'SSP245' THEN 0.45 * ((in_year - 2021) / 79.0)
    WHEN 'SSP370' THEN 0.72 * ((in_year - 2021) / 79.0) ^ 1.15
    ELSE ((in_year - 2021) / 79.0) ^ 1.25
END;
COMMENT ON FUNCTION reference.synthetic_warming IS
    'SYNTHETIC: warming since 2021 as a share of that of SSP585 in 2100';

CREATE FUNCTION reference.synthetic_land_km(at_latitude double precision, at_longitude double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN greatest(
    -- The mainland: between a western, an eastern and a southern shore of a few straight lines.
    least(
        (at_longitude - (126.1 + 0.12 * greatest(at_latitude - 34.5, 0))) * 88,
        (
            127.6 + 0.9 * least(greatest(at_latitude - 34.3, 0) * 2, 2)
            - 0.45 * greatest(at_latitude - 37.0, 0) - at_longitude
        ) * 88,
        (at_latitude - 34.3) * 111
    ),
    -- Jeju: an ellipse.
    (1 - sqrt(((at_longitude - 126.55) / 0.42) ^ 2 + ((at_latitude - 33.38) / 0.19) ^ 2)) * 22
);
COMMENT ON FUNCTION reference.synthetic_land_km IS
    'SYNTHETIC: distance to a rough coast in km, positive on land, negative at sea';

CREATE FUNCTION reference.synthetic_cities()
RETURNS TABLE (latitude double precision, longitude double precision, people double precision)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    VALUES
        (37.5665::double precision, 126.9780::double precision, 9.4e6::double precision), -- Seoul
        (35.1796, 129.0756, 3.3e6), -- Busan
        (37.4563, 126.7052, 2.9e6), -- Incheon
        (36.3504, 127.3845, 1.45e6), -- Daejeon
        (35.1595, 126.8526, 1.45e6), -- Gwangju
        (35.5384, 129.3114, 1.1e6), -- Ulsan
        (33.4996, 126.5312, 0.5e6), -- Jeju
        (37.7519, 128.8761, 0.2e6); -- Gangneung
END;
COMMENT ON FUNCTION reference.synthetic_cities IS
    'SYNTHETIC: places that shape the invented population; their cells lack no input';

CREATE FUNCTION reference.synthetic_terrain()
RETURNS TABLE (
    cell_id integer, latitude double precision, longitude double precision,
    land_km double precision, on_land boolean, has_city boolean,
    urban double precision, people double precision, elevation_m double precision
)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT
        cell.cell_id,
        cell.latitude,
        cell.longitude,
        coast.land_km,
        -- A cell whose centre is at sea still touches land within half its diagonal.
        city.inside OR coast.land_km > -75 * grid.step_degrees,
        city.inside,
        least(1, city.urban),
        city.people + 60 * (grid.step_degrees * 100) ^ 2
            * least(1, greatest(0.05, 0.5 + coast.land_km / (grid.step_degrees * 100))),
        round(greatest(
            1,
            least(greatest(coast.land_km, 0), 80) * (0.3 + reference.synthetic_noise(cell.cell_id, 1))
            + 450 * exp(-1 * ((cell.longitude - 128.4) / 0.45) ^ 2)
            * least(1, greatest(coast.land_km, 0) / 40)
        ))
    FROM reference.grid AS grid
    CROSS JOIN reference.grid_cells AS cell
    CROSS JOIN LATERAL (
        SELECT reference.synthetic_land_km(cell.latitude, cell.longitude) AS land_km
    ) AS coast
    CROSS JOIN LATERAL (
        SELECT
            bool_or(
                abs(place.latitude - cell.latitude) <= grid.step_degrees * 0.5000001
                AND abs(place.longitude - cell.longitude) <= grid.step_degrees * 0.5000001
            ) AS inside,
            sum(sqrt(place.people / 9.4e6) * place.nearness) AS urban,
            sum(
                place.people * place.nearness
                * least(1, (grid.step_degrees / place.spread) ^ 2 / 6.283)
            ) AS people
        FROM (
            SELECT
                town.*,
                greatest(0.15, grid.step_degrees / 2) AS spread,
                -- Far away is near enough to nothing; exp() refuses to underflow.
                exp(greatest(-50, -(
                    (town.latitude - cell.latitude) ^ 2 + (town.longitude - cell.longitude) ^ 2
                ) / (2 * greatest(0.15, grid.step_degrees / 2) ^ 2))) AS nearness
            FROM reference.synthetic_cities() AS town
        ) AS place
    ) AS city;
END;
COMMENT ON FUNCTION reference.synthetic_terrain IS
    'SYNTHETIC: coast, height and people of every cell, the basis of all invented inputs';

CREATE FUNCTION reference.synthesize_grid(step double precision)
RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO reference.grid (
        source, step_degrees, min_latitude, max_latitude, min_longitude, max_longitude
    )
    VALUES ('synthetic', step, 33.0, 39.0, 124.5, 131.0);
    -- Rounded up: a step that does not divide the extent gets a last cell that overhangs it.
    INSERT INTO reference.grid_cells (cell_id, latitude, longitude)
    SELECT
        row_no * ceil(6.5 / step - 1e-9)::integer + column_no + 1,
        round((33.0 + (row_no + 0.5) * step)::numeric, 6),
        round((124.5 + (column_no + 0.5) * step)::numeric, 6)
    FROM generate_series(0, ceil(6.0 / step - 1e-9)::integer - 1) AS row_no
    CROSS JOIN generate_series(0, ceil(6.5 / step - 1e-9)::integer - 1) AS column_no
    ORDER BY 1;
END;

-- Deliberately lacking, so that missing inputs really occur away from the cities: a
-- building or any population at sea and in a few land cells, and single facts of others.
CREATE FUNCTION reference.synthesize_sites()
RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO reference.buildings (
        cell_id, structure, storeys, built_year, has_basement,
        elevation_m, river_distance_m, coast_distance_m
    )
    SELECT
        cell_id,
        (ARRAY['reinforced_concrete', 'reinforced_concrete', 'steel', 'masonry', 'wood'])[
            1 + floor(4.999 * reference.synthetic_noise(cell_id, 2))::integer
        ],
        1 + floor((3 + 27 * urban) * reference.synthetic_noise(cell_id, 3))::integer,
        CASE WHEN has_city OR reference.synthetic_noise(cell_id, 103) > 0.06
            THEN 1962 + floor(58 * reference.synthetic_noise(cell_id, 4))::integer
        END,
        reference.synthetic_noise(cell_id, 5) < 0.2 + 0.6 * urban,
        elevation_m,
        CASE WHEN has_city OR reference.synthetic_noise(cell_id, 102) > 0.08
            THEN 50 + round(7000 * reference.synthetic_noise(cell_id, 6) ^ 2)
        END,
        round(greatest(
            land_km * 1000, 100 + 900 * reference.synthetic_noise(cell_id, 7)
        ))
    FROM reference.synthetic_terrain()
    WHERE has_city OR (on_land AND reference.synthetic_noise(cell_id, 105) > 0.05)
    ORDER BY cell_id;

    -- Shrinking towards 2050, the countryside faster than the cities.
    INSERT INTO reference.population (cell_id, year, population)
    SELECT cell_id, year, round(people * (1 - 0.004 * (year - 2021) * (1.4 - urban)))
    FROM reference.synthetic_terrain()
    CROSS JOIN generate_series(2021, 2050) AS year
    WHERE has_city OR (on_land AND reference.synthetic_noise(cell_id, 101) > 0.08)
    ORDER BY cell_id, year;
END;

-- Score = base + slope x warming + a little noise from year to year. Perils of the land
-- have no score at sea; the sea has a score of zero, not a missing one, far inland.
CREATE FUNCTION reference.synthesize_hazard()
RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO reference.hazard_results (cell_id, scenario, year, risk_type, hazard_score)
    WITH perils AS MATERIALIZED (
        SELECT
            terrain.cell_id,
            peril.*,
            array_position(enum_range(NULL::risk.risk_type), peril.risk_type) AS peril_no
        FROM (
            SELECT
                *,
                greatest(0, 1 - greatest(land_km, 0) / 25) AS shore,
                reference.synthetic_noise(cell_id, 8) AS dryness
            FROM reference.synthetic_terrain()
        ) AS terrain
        CROSS JOIN LATERAL (
            VALUES
                (
                    'extreme_heat'::risk.risk_type, false,
                    32 + 3 * (37 - latitude) + 12 * urban - elevation_m * 0.02, 45.0, 6.0
                ),
                (
                    'extreme_cold', false,
                    25 + 6 * (latitude - 35) + least(greatest(land_km, 0), 60) * 0.2, -20, 6
                ),
                ('drought', true, 22 + 15 * dryness, 20, 8),
                ('river_flood', true, 35 - 15 * dryness, 18, 8),
                ('urban_flood', true, 15 + 35 * urban, 22, 6),
                ('sea_level_rise', false, 15 * shore, 60 * shore, 2 * shore),
                (
                    'typhoon', false,
                    45 + 8 * (36 - latitude) - least(greatest(land_km, 0), 100) * 0.2, 15, 10
                ),
                ('wildfire', true, 18 + 20 * dryness + elevation_m * 0.03, 25, 8),
                ('water_stress', true, 20 + 25 * urban + 10 * dryness, 15, 4)
        ) AS peril (risk_type, land_only, base, slope, spread)
        WHERE terrain.on_land OR NOT peril.land_only
    ),
    futures AS MATERIALIZED (
        SELECT
            scenario,
            year,
            reference.synthetic_warming(scenario, year) AS warming,
            year * 5 + array_position(enum_range(NULL::risk.scenario), scenario) AS future_no
        FROM unnest(enum_range(NULL::risk.scenario)) AS scenario
        CROSS JOIN generate_series(2021, 2100) AS year
    )
    SELECT
        cell_id,
        scenario,
        year,
        risk_type,
        floor(100 * least(100, greatest(0,
            base + slope * warming
            + spread * (reference.synthetic_noise(cell_id * 9 + peril_no, future_no) - 0.5)
        ))) / 100
    FROM perils
    CROSS JOIN futures
    ORDER BY cell_id, scenario, year, risk_type;
END;

-- Five intensity bins: likelier with the hazard score, with damage that suits the peril.
-- A few land cells have no typhoon probabilities under SSP370, as if a model run were missing.
CREATE FUNCTION reference.synthesize_probability()
RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO reference.probability_results (
        cell_id, scenario, year, risk_type, bin_probabilities, bin_damage_rates
    )
    SELECT
        hazard.cell_id,
        hazard.scenario,
        hazard.year,
        hazard.risk_type,
        ARRAY[
            hazard_score * 0.002, hazard_score * 0.001, hazard_score * 0.0005,
            hazard_score * 0.0002, hazard_score * 0.0001
        ],
        damage.rates
    FROM reference.hazard_results AS hazard
    JOIN (
        SELECT
            risk_type,
            ARRAY[worst * 0.02, worst * 0.08, worst * 0.2, worst * 0.45, worst] AS rates
        FROM (
            VALUES
                ('extreme_heat'::risk.risk_type, 0.05::double precision),
                ('extreme_cold', 0.04),
                ('drought', 0.03),
                ('river_flood', 0.6),
                ('urban_flood', 0.35),
                ('sea_level_rise', 0.8),
                ('typhoon', 0.4),
                ('wildfire', 0.7),
                ('water_stress', 0.03)
        ) AS peril (risk_type, worst)
    ) AS damage ON damage.risk_type = hazard.risk_type
    JOIN reference.synthetic_terrain() AS terrain ON terrain.cell_id = hazard.cell_id
    WHERE NOT (
        hazard.risk_type = 'typhoon' AND hazard.scenario = 'SSP370'
        AND terrain.on_land AND NOT terrain.has_city
        AND reference.synthetic_noise(hazard.cell_id, 104) < 0.06
    )
    ORDER BY hazard.cell_id, hazard.scenario, hazard.year, hazard.risk_type;
END;

CREATE FUNCTION reference.synthesize(step double precision)
RETURNS void
LANGUAGE plpgsql
-- The planner overrates the row counts of the generator; compiling for them costs seconds.
SET jit = off
SET work_mem = '64MB'
AS $$
BEGIN
    IF step IS NULL OR NOT step BETWEEN 0.1 AND 1.0 THEN
        RAISE EXCEPTION 'synthetic grid step % degrees: must lie in 0.1..1.0', step
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM reference.grid WHERE source = 'loaded') THEN
        RAISE EXCEPTION 'reference data were loaded and are not overwritten with synthetic ones'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    TRUNCATE
        reference.grid, reference.grid_cells, reference.hazard_results,
        reference.probability_results, reference.buildings, reference.population;
    -- Checking the foreign key once afterwards, not row by row, halves the time.
    ALTER TABLE reference.hazard_results DROP CONSTRAINT hazard_results_cell_id_fkey;
    ALTER TABLE reference.probability_results DROP CONSTRAINT probability_results_cell_id_fkey;
    PERFORM reference.synthesize_grid(step);
    PERFORM reference.synthesize_sites();
    PERFORM reference.synthesize_hazard();
    PERFORM reference.synthesize_probability();
    ALTER TABLE reference.hazard_results ADD CONSTRAINT hazard_results_cell_id_fkey
        FOREIGN KEY (cell_id) REFERENCES reference.grid_cells ON DELETE CASCADE;
    ALTER TABLE reference.probability_results ADD CONSTRAINT probability_results_cell_id_fkey
        FOREIGN KEY (cell_id) REFERENCES reference.grid_cells ON DELETE CASCADE;
END
$$;
COMMENT ON FUNCTION reference.synthesize IS
    'SYNTHETIC: fills schema reference with invented data on a grid of this step (degrees); '
    '156 cells, 320,000 hazard and as many probability rows at 0.5, a quarter of that at 1.0 '
    'and twenty-five times as much at 0.1. Never overwrites loaded data';
