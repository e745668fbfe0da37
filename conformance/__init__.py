"""tinker-cookbook's own programs, unmodified, against a live tinsmith."""
