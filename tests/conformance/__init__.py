"""Conformance: the official suite, run directly at servers of our own and through the gateway, and the difference."""
