"""Teachers, read from left to right: names, networks, weights, teacher, check, soft_targets; `load` is the door."""
