"""The schema of Content's database, step by step."""
