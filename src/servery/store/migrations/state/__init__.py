"""One file for each change of the state's schema, never edited once released."""
