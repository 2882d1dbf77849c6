"""Figures, as ratios against a named yardstick in the same run. `python -m bench` prints them all."""
