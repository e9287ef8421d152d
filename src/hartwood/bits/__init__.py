"""The words an instruction may use, and what the words mean."""
