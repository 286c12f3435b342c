-- Nothing that changes policy can be called by PUBLIC. Three functions can: applications and routers need them.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA holdfast FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA holdfast FROM PUBLIC;

GRANT USAGE ON SCHEMA holdfast TO PUBLIC;
GRANT EXECUTE ON FUNCTION holdfast.current_backend(), holdfast.whoami(), holdfast.owner_of(text) TO PUBLIC;
