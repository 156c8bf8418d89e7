"""Who calls: principals, and what proves that a caller is one. Credentials come in as bytes and go no further than here."""
