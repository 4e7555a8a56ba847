"""A fleet that lives through a term in virtual time, on the emulated cloud; and an hour of it."""
