"""What is known and what happens next: types, health, fleet, the life of a job. Pure: nothing here waits."""
