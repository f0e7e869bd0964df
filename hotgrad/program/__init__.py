"""Programs: captured functions as flat lists of primitives, and what is done with them before an engine runs them."""
