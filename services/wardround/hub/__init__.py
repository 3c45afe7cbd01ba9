"""What an operator sets a hub up with: logins, rights, and the folders that are handed over."""
