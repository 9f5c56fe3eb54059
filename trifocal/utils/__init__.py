"""Files written whole, time, limits."""
