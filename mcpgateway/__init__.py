"""A gateway for the Model Context Protocol: warm upstream sessions, each belonging to one caller."""

__version__ = "0.1.0"
