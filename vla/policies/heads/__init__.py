"""Action heads that policies share."""
