"""The JSON schemas that the specification publishes, one of each revision, as they are."""
