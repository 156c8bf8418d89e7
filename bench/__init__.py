"""Measures what a call through the gateway costs, beside the same call direct and through nginx: `python -m bench`."""
