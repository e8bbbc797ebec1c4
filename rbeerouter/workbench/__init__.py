"""What a person does with a script before it is live: check it, test it, have it explained."""
