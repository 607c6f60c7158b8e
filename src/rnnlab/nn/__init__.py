"""Recurrent networks in plain torch: no Lightning, no data."""
