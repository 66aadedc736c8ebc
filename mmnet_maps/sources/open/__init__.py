"""Open services: real inputs without a Google account, from a YAML that names a service for every product."""
