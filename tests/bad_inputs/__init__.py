"""Malformed inputs of every kind, judges that know nothing of dcal_core, and what dcal_core does with each input."""
