"""The front door: the command line. Operations authorise, audit, then act."""
