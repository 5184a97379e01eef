"""Privacy: what belongs to a data subject, the proof that it is gone, the answer to who asks for it."""
