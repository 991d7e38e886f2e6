-- risk_api and risk_worker read the reference data and write the risk schema; nobody
-- else has anything. Tables of later migrations get the same by default.

REVOKE ALL ON SCHEMA reference, risk FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA reference FROM PUBLIC;
REVOKE ALL ON TYPE
    risk.risk_type, risk.scenario, risk.task_state, risk.risk_level
FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;

GRANT USAGE ON SCHEMA reference, risk TO risk_api, risk_worker;
GRANT USAGE ON TYPE
    risk.risk_type, risk.scenario, risk.task_state, risk.risk_level
TO risk_api, risk_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA reference TO risk_api, risk_worker;
GRANT EXECUTE ON FUNCTION reference.cell_at(double precision, double precision)
TO risk_api, risk_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    risk.assessments, risk.assessment_sites, risk.tasks,
    risk.exposure_results, risk.vulnerability_results, risk.aal_scaled_results
TO risk_api, risk_worker;

ALTER DEFAULT PRIVILEGES IN SCHEMA reference GRANT SELECT ON TABLES TO risk_api, risk_worker;
ALTER DEFAULT PRIVILEGES IN SCHEMA risk
GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO risk_api, risk_worker;
ALTER DEFAULT PRIVILEGES IN SCHEMA risk GRANT USAGE ON TYPES TO risk_api, risk_worker;
