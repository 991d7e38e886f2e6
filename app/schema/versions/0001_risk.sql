-- Schema risk: assessments, their durable tasks, and their results. The schema itself
-- exists already, because it holds the version table of the migrations.

COMMENT ON SCHEMA risk IS 'Assessments, tasks and results; written by the api and the worker';

CREATE TYPE risk.task_state AS ENUM ('queued', 'running', 'done', 'failed');
CREATE TYPE risk.risk_level AS ENUM ('very_low', 'low', 'medium', 'high', 'very_high');

-- Room on each page lets status changes stay on it without touching the indexes.
CREATE TABLE risk.assessments (
    assessment_id uuid PRIMARY KEY,
    idempotency_key text UNIQUE CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    request_hash bytea NOT NULL,
    asset_value double precision NOT NULL CHECK (
        asset_value >= 0 AND asset_value < 'Infinity'
    ),
    insurance_coverage_rate double precision NOT NULL CHECK (
        insurance_coverage_rate BETWEEN 0 AND 1
    ),
    scenarios risk.scenario[] NOT NULL CHECK (cardinality(scenarios) > 0),
    year_from smallint NOT NULL CHECK (year_from BETWEEN 2021 AND 2100),
    year_to smallint NOT NULL CHECK (year_to BETWEEN 2021 AND 2100),
    total_tasks integer NOT NULL CHECK (total_tasks > 0),
    status text NOT NULL DEFAULT 'queued' CHECK (
        status IN ('queued', 'running', 'succeeded', 'failed')
    ),
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT assessments_years CHECK (year_from <= year_to),
    CONSTRAINT assessments_finished CHECK (
        (finished_at IS NOT NULL) = (status IN ('succeeded', 'failed'))
    )
) WITH (fillfactor = 70);
COMMENT ON TABLE risk.assessments IS
    'One request each. idempotency_key and request_hash: the same key with the same body is the '
    'same assessment. asset_value is money, insurance_coverage_rate 0-1, times are the server''s';

CREATE INDEX assessments_unfinished ON risk.assessments (created_at, assessment_id)
WHERE finished_at IS NULL;

CREATE TABLE risk.assessment_sites (
    assessment_id uuid NOT NULL REFERENCES risk.assessments ON DELETE CASCADE,
    site_no smallint NOT NULL CHECK (site_no >= 0),
    site_id text NOT NULL CHECK (length(site_id) BETWEEN 1 AND 255),
    latitude double precision NOT NULL CHECK (latitude BETWEEN -90 AND 90),
    longitude double precision NOT NULL CHECK (longitude BETWEEN -180 AND 180),
    cell_id integer NOT NULL,
    PRIMARY KEY (assessment_id, site_no),
    UNIQUE (assessment_id, site_id)
);
COMMENT ON TABLE risk.assessment_sites IS
    'The sites of an assessment, numbered in request order, with the grid cell they were put in; '
    'cell_id has no foreign key, so that reference data can be replaced under old assessments';

-- No foreign key to the site: tasks and sites are written in one transaction by one function,
-- and a check per row would cost most of a large submission.
CREATE TABLE risk.tasks (
    assessment_id uuid NOT NULL,
    site_no smallint NOT NULL,
    scenario risk.scenario NOT NULL,
    year smallint NOT NULL CHECK (year BETWEEN 2021 AND 2100),
    state risk.task_state NOT NULL DEFAULT 'queued',
    attempt smallint NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    lease_expires_at timestamptz,
    leased_by text,
    not_before timestamptz,
    error text,
    missing_inputs integer NOT NULL DEFAULT 0 CHECK (missing_inputs >= 0),
    PRIMARY KEY (assessment_id, site_no, scenario, year),
    CONSTRAINT tasks_running_has_lease CHECK (
        state <> 'running' OR (lease_expires_at IS NOT NULL AND leased_by IS NOT NULL)
    ),
    CONSTRAINT tasks_failed_says_why CHECK (state <> 'failed' OR error IS NOT NULL)
) WITH (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 500
);
COMMENT ON TABLE risk.tasks IS
    'One (site, scenario, year) each. attempt counts claims and is the fence: a completion must '
    'carry the attempt it was claimed with. missing_inputs counts results that lack an input';

-- Small and in the claim's order; the finished tasks, soon the great majority, are not in it.
CREATE INDEX tasks_claimable ON risk.tasks (assessment_id, site_no, scenario, year)
WHERE state IN ('queued', 'running');

-- Result rows have no foreign key either: they are written only in the transaction that
-- marks their tasks done under the fence.
CREATE TABLE risk.exposure_results (
    assessment_id uuid NOT NULL,
    site_no smallint NOT NULL,
    scenario risk.scenario NOT NULL,
    year smallint NOT NULL,
    risk_type risk.risk_type NOT NULL,
    exposure_score double precision CHECK (exposure_score BETWEEN 0 AND 100),
    missing_inputs text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (assessment_id, site_no, scenario, year, risk_type),
    CONSTRAINT exposure_results_missing_is_named CHECK (
        (exposure_score IS NULL) = (cardinality(missing_inputs) > 0)
    )
);
COMMENT ON TABLE risk.exposure_results IS
    'E: exposure score 0-100; NULL exactly when missing_inputs names what was lacking';

CREATE TABLE risk.vulnerability_results (
    assessment_id uuid NOT NULL,
    site_no smallint NOT NULL,
    scenario risk.scenario NOT NULL,
    year smallint NOT NULL,
    risk_type risk.risk_type NOT NULL,
    vulnerability_score double precision CHECK (vulnerability_score BETWEEN 0 AND 100),
    missing_inputs text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (assessment_id, site_no, scenario, year, risk_type),
    CONSTRAINT vulnerability_results_missing_is_named CHECK (
        (vulnerability_score IS NULL) = (cardinality(missing_inputs) > 0)
    )
);
COMMENT ON TABLE risk.vulnerability_results IS
    'V: vulnerability score 0-100; NULL exactly when missing_inputs names what was lacking';

CREATE TABLE risk.aal_scaled_results (
    assessment_id uuid NOT NULL,
    site_no smallint NOT NULL,
    scenario risk.scenario NOT NULL,
    year smallint NOT NULL,
    risk_type risk.risk_type NOT NULL,
    hazard_score double precision CHECK (hazard_score BETWEEN 0 AND 100),
    base_aal double precision CHECK (base_aal BETWEEN 0 AND 1.000001),
    final_aal double precision CHECK (final_aal BETWEEN 0 AND 1.100002),
    expected_loss double precision CHECK (expected_loss >= 0 AND expected_loss < 'Infinity'),
    integrated_risk double precision CHECK (integrated_risk BETWEEN 0 AND 100),
    risk_level risk.risk_level,
    missing_inputs text[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (assessment_id, site_no, scenario, year, risk_type),
    CONSTRAINT aal_scaled_results_missing_is_named CHECK (
        (num_nulls(
            hazard_score, base_aal, final_aal, expected_loss, integrated_risk, risk_level
        ) > 0) = (cardinality(missing_inputs) > 0)
    )
);
COMMENT ON TABLE risk.aal_scaled_results IS
    'AAL as a share of the asset value (base, and final after vulnerability and insurance), '
    'expected loss in money per year, integrated risk 0-100 and its level; a NULL is explained '
    'by missing_inputs';
