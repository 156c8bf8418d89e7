"""Micro-benchmarks of what every call passes through: `python -m bench.micro`."""
