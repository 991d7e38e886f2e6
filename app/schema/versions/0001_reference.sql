-- Schema reference: what the risk model reads. Written by risk_owner only: by
-- reference.synthesize() or by load-reference.

CREATE SCHEMA reference;
COMMENT ON SCHEMA reference IS 'Inputs of the risk model; read-only for the service';

CREATE TYPE risk.risk_type AS ENUM (
    'extreme_heat', 'extreme_cold', 'drought', 'river_flood', 'urban_flood',
    'sea_level_rise', 'typhoon', 'wildfire', 'water_stress'
);
CREATE TYPE risk.scenario AS ENUM ('SSP126', 'SSP245', 'SSP370', 'SSP585');

CREATE TABLE reference.grid (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    source text NOT NULL CHECK (source IN ('synthetic', 'loaded')),
    loaded_tables text[] NOT NULL DEFAULT '{}',
    step_degrees double precision NOT NULL CHECK (step_degrees > 0 AND step_degrees <= 10),
    min_latitude double precision NOT NULL CHECK (min_latitude BETWEEN -90 AND 90),
    max_latitude double precision NOT NULL CHECK (max_latitude BETWEEN -90 AND 90),
    min_longitude double precision NOT NULL CHECK (min_longitude BETWEEN -180 AND 180),
    max_longitude double precision NOT NULL CHECK (max_longitude BETWEEN -180 AND 180),
    generated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT grid_extent CHECK (
        min_latitude < max_latitude AND min_longitude < max_longitude
    )
);
COMMENT ON TABLE reference.grid IS
    'One row: where the reference data come from and the extent they cover. source is synthetic '
    '(invented, deterministic, not for decisions) or loaded; loaded_tables names the tables that '
    'real data went into, any other table still holds synthetic rows';

CREATE TABLE reference.grid_cells (
    cell_id integer PRIMARY KEY,
    latitude double precision NOT NULL CHECK (latitude BETWEEN -90 AND 90),
    longitude double precision NOT NULL CHECK (longitude BETWEEN -180 AND 180),
    UNIQUE (latitude, longitude)
);
COMMENT ON TABLE reference.grid_cells IS
    'Cell centres, WGS 84 degrees; a site belongs to the nearest centre within half a step';

CREATE TABLE reference.hazard_results (
    cell_id integer NOT NULL REFERENCES reference.grid_cells ON DELETE CASCADE,
    scenario risk.scenario NOT NULL,
    year smallint NOT NULL CHECK (year BETWEEN 2021 AND 2100),
    risk_type risk.risk_type NOT NULL,
    hazard_score double precision NOT NULL CHECK (hazard_score BETWEEN 0 AND 100),
    PRIMARY KEY (cell_id, scenario, year, risk_type)
);
COMMENT ON TABLE reference.hazard_results IS
    'H: hazard score 0-100; an absent row is a missing input, not a zero';

-- The sum is written out because CHECK allows no subquery, and a function call per row
-- would double the time of a bulk load; ten bins are the limit anyway.
CREATE TABLE reference.probability_results (
    cell_id integer NOT NULL REFERENCES reference.grid_cells ON DELETE CASCADE,
    scenario risk.scenario NOT NULL,
    year smallint NOT NULL CHECK (year BETWEEN 2021 AND 2100),
    risk_type risk.risk_type NOT NULL,
    bin_probabilities double precision[] NOT NULL,
    bin_damage_rates double precision[] NOT NULL,
    PRIMARY KEY (cell_id, scenario, year, risk_type),
    CONSTRAINT probability_results_one_to_ten_bins CHECK (
        array_ndims(bin_probabilities) IS NOT DISTINCT FROM 1
        AND array_lower(bin_probabilities, 1) = 1
        AND cardinality(bin_probabilities) <= 10
    ),
    CONSTRAINT probability_results_same_number_of_bins CHECK (
        array_dims(bin_probabilities) IS NOT DISTINCT FROM array_dims(bin_damage_rates)
    ),
    CONSTRAINT probability_results_probabilities_0_to_1 CHECK (
        num_nulls(VARIADIC bin_probabilities) = 0
        AND 0 <= ALL (bin_probabilities) AND 1 >= ALL (bin_probabilities)
    ),
    CONSTRAINT probability_results_damage_rates_0_to_1 CHECK (
        num_nulls(VARIADIC bin_damage_rates) = 0
        AND 0 <= ALL (bin_damage_rates) AND 1 >= ALL (bin_damage_rates)
    ),
    CONSTRAINT probability_results_probabilities_sum_to_at_most_1 CHECK (
        coalesce(bin_probabilities[1], 0) + coalesce(bin_probabilities[2], 0)
        + coalesce(bin_probabilities[3], 0) + coalesce(bin_probabilities[4], 0)
        + coalesce(bin_probabilities[5], 0) + coalesce(bin_probabilities[6], 0)
        + coalesce(bin_probabilities[7], 0) + coalesce(bin_probabilities[8], 0)
        + coalesce(bin_probabilities[9], 0) + coalesce(bin_probabilities[10], 0)
        <= 1.000000001
    )
);
COMMENT ON TABLE reference.probability_results IS
    'P: annual probability by intensity bin with the damage rate of that bin, pairwise, 0-1; '
    'an absent row is a missing input';
-- Shown to whoever loads a file with such a row.
COMMENT ON CONSTRAINT probability_results_one_to_ten_bins
ON reference.probability_results IS 'must be a list of 1 to 10 bins';
COMMENT ON CONSTRAINT probability_results_same_number_of_bins
ON reference.probability_results IS 'both lists must have the same number of bins';
COMMENT ON CONSTRAINT probability_results_probabilities_0_to_1
ON reference.probability_results IS 'each must lie in 0..1';
COMMENT ON CONSTRAINT probability_results_damage_rates_0_to_1
ON reference.probability_results IS 'each must lie in 0..1';
COMMENT ON CONSTRAINT probability_results_probabilities_sum_to_at_most_1
ON reference.probability_results IS 'must add up to at most 1';


CREATE TABLE reference.buildings (
    cell_id integer PRIMARY KEY REFERENCES reference.grid_cells ON DELETE CASCADE,
    structure text CHECK (structure IN ('wood', 'masonry', 'steel', 'reinforced_concrete')),
    storeys smallint CHECK (storeys BETWEEN 1 AND 200),
    built_year smallint CHECK (built_year BETWEEN 1000 AND 2100),
    has_basement boolean,
    elevation_m double precision CHECK (elevation_m BETWEEN -500 AND 9000),
    river_distance_m double precision CHECK (river_distance_m BETWEEN 0 AND 1000000),
    coast_distance_m double precision CHECK (coast_distance_m BETWEEN 0 AND 5000000)
);
COMMENT ON TABLE reference.buildings IS
    'The building of a cell; metres; NULL is a missing input, named in the results that need it';

CREATE TABLE reference.population (
    cell_id integer NOT NULL REFERENCES reference.grid_cells ON DELETE CASCADE,
    year smallint NOT NULL CHECK (year BETWEEN 2021 AND 2050),
    population double precision NOT NULL CHECK (population >= 0 AND population < 'Infinity'),
    PRIMARY KEY (cell_id, year)
);
COMMENT ON TABLE reference.population IS
    'People in the cell; projections end in 2050, which stands for every later year';

CREATE FUNCTION reference.cell_at(site_latitude double precision, site_longitude double precision)
RETURNS integer
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT cell.cell_id
    FROM reference.grid AS grid
    JOIN reference.grid_cells AS cell
        ON cell.latitude BETWEEN site_latitude - grid.step_degrees * 0.5000001
            AND site_latitude + grid.step_degrees * 0.5000001
        AND cell.longitude BETWEEN site_longitude - grid.step_degrees * 0.5000001
            AND site_longitude + grid.step_degrees * 0.5000001
    WHERE site_latitude BETWEEN grid.min_latitude AND grid.max_latitude
        AND site_longitude BETWEEN grid.min_longitude AND grid.max_longitude
    ORDER BY
        (cell.latitude - site_latitude) ^ 2 + (cell.longitude - site_longitude) ^ 2,
        cell.cell_id DESC
    LIMIT 1;
END;
COMMENT ON FUNCTION reference.cell_at IS
    'The cell that a site (degrees) belongs to, NULL outside the grid; on a border the later cell';

CREATE FUNCTION reference.mark_loaded(loaded_table text)
RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    UPDATE reference.grid
    SET source = 'loaded',
        loaded_tables = ARRAY(
            SELECT DISTINCT name FROM unnest(loaded_tables || loaded_table) AS name ORDER BY name
        );
    INSERT INTO reference.grid AS grid (
        source, loaded_tables, step_degrees,
        min_latitude, max_latitude, min_longitude, max_longitude
    )
    SELECT
        'loaded', ARRAY[loaded_table], step,
        greatest(south - step / 2, -90), least(north + step / 2, 90),
        greatest(west - step / 2, -180), least(east + step / 2, 180)
    FROM (
        SELECT
            -- The widest gap, not the narrowest: noise in the last digit is a narrow gap too.
            coalesce(
                (
                    SELECT max(gap) FROM (
                        SELECT latitude - lag(latitude) OVER (ORDER BY latitude) AS gap
                        FROM reference.grid_cells
                        UNION ALL
                        SELECT longitude - lag(longitude) OVER (ORDER BY longitude)
                        FROM reference.grid_cells
                    ) AS gaps
                    WHERE gap > 0
                ),
                0.01
            ) AS step,
            min(latitude) AS south, max(latitude) AS north,
            min(longitude) AS west, max(longitude) AS east
        FROM reference.grid_cells
    ) AS extent
    WHERE loaded_table = 'grid_cells' AND south IS NOT NULL
    ON CONFLICT (only_row) DO UPDATE SET
        step_degrees = excluded.step_degrees,
        min_latitude = excluded.min_latitude, max_latitude = excluded.max_latitude,
        min_longitude = excluded.min_longitude, max_longitude = excluded.max_longitude;
END;
COMMENT ON FUNCTION reference.mark_loaded IS
    'Records that real data went into a table, and for grid_cells measures the new extent';
