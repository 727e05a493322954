"""Training in slices of minutes on a machine that comes and goes, with nothing installed and no network."""
