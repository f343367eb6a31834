"""Array functions without parameters that know nothing of videos."""
