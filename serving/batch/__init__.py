"""Batch prediction: every row of files through an archive's workers, as a job that goes on where it was cut."""
