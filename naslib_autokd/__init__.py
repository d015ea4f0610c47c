"""AutoKD for NASLib."""
