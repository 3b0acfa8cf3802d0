"""One file for each change of the ledger's schema, never edited once released."""
