"""Who asks: keys and the tenants they belong to."""
