"""Result tables, rate–distortion curves, BD-rates, and report pages."""
