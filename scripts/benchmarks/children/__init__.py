"""What the benchmark starts in fresh processes; each tells its figures through ``report``."""
