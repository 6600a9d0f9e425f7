"""Units as jobs of Slurm, 20.11 to 25.x."""
