"""What people look at. Every function here returns text; only the command line prints it."""
