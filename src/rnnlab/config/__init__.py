"""What may be set, checked before anything runs; builds no part of a run."""
