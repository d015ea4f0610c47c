"""What leaves the house: students as files for other runtimes, their model cards, and whether they are right;
searches for other tools."""
