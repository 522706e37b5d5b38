"""Files of weights and the names in them; no framework is imported."""
