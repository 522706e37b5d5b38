"""What a run leaves for people and programs: curves and results, the same from every framework."""
