"""Identity validations: the services, a file each, and the two stores that they keep apart."""
