"""A whole federation on one machine: the real servers and all services as child processes."""
