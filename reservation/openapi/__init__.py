"""Makes the OpenAPI document from the protocol, its comments and the rules. A tool of
the build: the service does not import it, and an installed package does not have it."""
