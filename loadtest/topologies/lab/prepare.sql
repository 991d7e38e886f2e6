-- Run as the superuser in the lab, never in the deployed server.
-- The compiled roles carry the deployed budget; here the server's own limit shall be met.
ALTER ROLE risk_worker CONNECTION LIMIT -1;
SELECT 'CREATE DATABASE bench OWNER risk_worker'
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = 'bench')
\gexec
-- Hundreds of clients queue for ten branch rows: that wait is part of what is measured.
ALTER ROLE risk_worker IN DATABASE bench SET lock_timeout = 0;
ALTER ROLE risk_worker IN DATABASE bench SET statement_timeout = '120s';
ALTER ROLE risk_worker IN DATABASE bench SET idle_in_transaction_session_timeout = '120s';
ALTER ROLE risk_worker IN DATABASE bench SET transaction_timeout = '180s';
