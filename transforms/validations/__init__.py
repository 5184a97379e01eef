"""Identity validations: their events, who may do what with them, and the rules that decide."""
