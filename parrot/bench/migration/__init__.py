"""One application in several versions, from a plain loop to semantic functions, and what each step gains."""
