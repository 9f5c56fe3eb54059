"""Result tables, rate-distortion curves, BD-rates, and the report page."""
