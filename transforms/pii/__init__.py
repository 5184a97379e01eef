"""The PII line: contracts, canonical forms, ciphers, masking, sealing, leak detection."""
