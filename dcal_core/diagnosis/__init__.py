"""Why a run does not learn: measurements on what it left, and the faults that they show."""
