"""When, and with what: the composition root, definitions, sensors, schedules, jobs."""
