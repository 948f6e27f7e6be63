"""The audit: reads all tables of a live system and reports every broken promise. It changes nothing."""
