"""Search spaces: ``hnag`` (families of random-graph students) and ``cell`` (the DARTS cells of the rival)."""
