"""Array functions without parameters, independent of videos."""
